/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hypervisor state cache: how fresh is what we know of one VMM, when may it be
 * asked, and does it answer.
 *
 * A sign of life (an event, an answer, an own step that went through) is good for
 * PROBE_TTL_MS. A reader who meets an older one asks for a question and does not wait
 * for it. A question that is not answered within PROBE_BOUND_MS is a miss: the VMM
 * counts as not responsive and is asked once more at once. The second miss in a row
 * makes its state Unknown, until there is a sign of life; so long it is asked at
 * most every PROBE_AGAIN_MS. What an event says is newer than what a question that
 * was under way at that time will say.
 *
 * A pure state machine: every function is given the time and none waits, so tests
 * move the clock. Who sends the questions is prober.h. Times are CLOCK_MONOTONIC in
 * milliseconds. The numbers are upstream's (a state cache of 5 s, 500 ms a question).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { PROBE_TTL_MS = 5000, PROBE_BOUND_MS = 500, PROBE_AGAIN_MS = 1000, PROBE_LATE_MS = 100 };

enum probe_result {
    PROBE_NEVER,    /* not asked yet */
    PROBE_ANSWERED, /* the last question was answered */
    PROBE_TIMEOUT,  /* was not, in time */
    PROBE_REFUSED,  /* could not be asked: no socket, or what came back was not understood */
};
const char *probe_result_name(enum probe_result r); /* "answered" */

struct probe {
    int64_t observed_ms; /* the last sign of life, if is_observed */
    int64_t asked_ms;    /* of the question under way, or the last one */
    int64_t silent_ms;   /* when the first question was asked that nobody answered */
    enum probe_result result;
    unsigned misses;   /* in a row; from the second on the state is Unknown */
    bool is_observed;  /* observed_ms counts: nothing has taken it back */
    bool is_due;       /* something may have been missed: only an answer will do */
    bool is_in_flight; /* a question is under way */
    bool is_overtaken; /* and the state was learned otherwise since */
};

/* A new process, or our own step: what is known of it is known as of now. */
void probe_init(struct probe *p, int64_t now);

/*
 * Nothing is known any more: its socket has gone, or its stream broke. It is to be asked until
 * an answer counts; what is heard meanwhile says that it lives, and not what was missed.
 */
void probe_invalidate(struct probe *p);

/* Whether a reader can take what is known as it is: upstream's cache hit. */
bool probe_is_hit(const struct probe *p, int64_t now);

/* Whether it may be asked now. fresh: also if what is known is new. */
bool probe_may_ask(const struct probe *p, int64_t now, bool fresh);

/* --- what happens to it; those that return bool: true when what is shown has changed --- */
void probe_asked(struct probe *p, int64_t now);

/* A sign of life that is no answer. */
bool probe_heard(struct probe *p, int64_t now);

/* The state was learned by an event or an own step: newer than what a question will say. */
void probe_overtake(struct probe *p);

/* The answer. *counts_out: what it says of the state is the newest there is. */
bool probe_answered(struct probe *p, int64_t now, bool *counts_out);

/*
 * No answer. late_ms: by how much our own loop came too late to notice; beyond
 * PROBE_LATE_MS it is our fault and no miss. *again_out: to be asked again at once.
 */
bool probe_missed(struct probe *p, enum probe_result why, int64_t late_ms, bool *again_out);

/* The question does not count any more: an operation has taken hold. */
void probe_abandoned(struct probe *p);

/* 1: it answers; 0: it does not; -1: nobody knows, because nothing that counts was heard. */
static inline int probe_answers(const struct probe *p)
{
    return p->misses > 0 ? 0 : p->is_observed ? 1 : -1;
}

static inline bool probe_is_silent(const struct probe *p)
{
    return p->misses > 0;
}

static inline bool probe_is_unknown(const struct probe *p)
{
    return p->misses >= 2;
}
