/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks VMMs whether they answer: who is asked, when, and how many at once.
 *
 * A read never waits: prober_read() only touches memory, and prober_soon() has the
 * questions asked once the reader has its answer. One question a VMM and
 * PROBES_IN_FLIGHT in all are under way; those that are known to be silent take no
 * more than SILENT_IN_FLIGHT of them, so that they hold up nobody. None is asked
 * while an operation holds the instance: the operation's deadline is the question.
 *
 * Nobody reads, nobody is asked, with two exceptions: an open watch counts as a
 * reader, and so does the policy that kills a VMM that stays silent. Both go through
 * the VMMs in turn, ROUNDS_PER_S a second.
 *
 * What a question says is judged by probe.h. Loop thread; nothing blocks.
 */
#pragma once

#include "base/list.h"
#include "loop/loop.h"
#include "vm/probe.h"

struct instance;
struct wait_link;
struct vm_world;

enum { PROBES_IN_FLIGHT = 64, SILENT_IN_FLIGHT = 32, ROUNDS_PER_S = 50 };

struct prober {
    struct vm_world *world;
    struct list all; /* of struct question; in turn */
    size_t n_all;
    struct list due;
    struct list due_silent;
    unsigned in_flight;
    unsigned silent_in_flight;
    unsigned watchers;
    int64_t kill_after_ms; /* a VMM that is silent for so long is killed; 0: it is only reported */
    struct timer go;
    struct timer round;
};

/* One VMM's place in it; embedded in the watches on the process (live.c). */
struct question {
    struct prober *prober;
    struct instance *row;
    struct list all;
    struct list due;
    struct list waits;  /* of those who asked with fresh=true */
    struct timer bound; /* in flight: of the answer; else: when a silent VMM's time is up */
    bool is_silent;     /* in flight: one of SILENT_IN_FLIGHT */
    bool is_refused;    /* in flight: it cannot be asked. Judged in its time like the others,
                           since a VMM whose socket has gone is most often about to end */
};

void prober_init(struct prober *p, struct vm_world *w);
void prober_fini(struct prober *p);
void prober_policy(struct prober *p, int64_t kill_after_ms);

/* A process that is watched from now on, and no longer. */
void prober_add(struct prober *p, struct question *q, struct instance *row);
void prober_remove(struct prober *p, struct question *q);

/*
 * A reader met the row: true when what is known is good enough, or there is nothing
 * to ask; false when a question is due, or under way.
 */
bool prober_read(struct prober *p, struct instance *row);
/* The same of every row that has a VMM. */
struct prober_count {
    unsigned hits;
    unsigned misses;
};
struct prober_count prober_read_all(struct prober *p);

void prober_soon(struct prober *p); /* asks what is due, in a later turn of the loop */

/* Something about it may have been missed: it is asked once, reader or not. */
void prober_resync(struct prober *p, struct instance *row);

/* A sign of life that is no answer; the row may change. */
void prober_heard(struct prober *p, struct instance *row);

/* From live.c, of the question under way. The answer: whether its status is the newest word. */
bool prober_answered(struct prober *p, struct instance *row);
void prober_refused(struct prober *p, struct instance *row);

/* An open watch. */
void prober_watch(struct prober *p);
void prober_unwatch(struct prober *p);

/* --- fresh=true: questions that are waited for, side by side, for PROBE_BOUND_MS in all --- */
struct prober_wait {
    void (*done)(struct prober_wait *w); /* once, not from within prober_wait_start() */
    unsigned left;
    struct wait_link *links; /* one for each row that is waited for */
    size_t n_links;
    struct timer timer;
    struct prober *prober;
};

void prober_wait_init(struct prober *p, struct prober_wait *w, void (*done)(struct prober_wait *w));
void prober_wait_add(struct prober_wait *w, struct instance *row);
void prober_wait_start(struct prober_wait *w);
void prober_wait_cancel(struct prober_wait *w); /* also after done() */
