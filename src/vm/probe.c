/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/probe.h"

const char *probe_result_name(enum probe_result r)
{
    static const char *const names[] = {
        [PROBE_NEVER] = "never",
        [PROBE_ANSWERED] = "answered",
        [PROBE_TIMEOUT] = "timeout",
        [PROBE_REFUSED] = "refused",
    };

    return names[r];
}

void probe_init(struct probe *p, int64_t now)
{
    *p = (struct probe){.observed_ms = now, .is_observed = true};
}

void probe_invalidate(struct probe *p)
{
    p->is_observed = false;
    p->is_due = true;
}

bool probe_is_hit(const struct probe *p, int64_t now)
{
    return p->is_observed && !p->is_due && now - p->observed_ms < PROBE_TTL_MS;
}

bool probe_may_ask(const struct probe *p, int64_t now, bool fresh)
{
    if (p->is_in_flight || (probe_is_unknown(p) && now - p->asked_ms < PROBE_AGAIN_MS))
        return false;
    return fresh || !probe_is_hit(p, now);
}

void probe_asked(struct probe *p, int64_t now)
{
    p->asked_ms = now;
    p->is_in_flight = true;
    p->is_overtaken = false;
}

bool probe_heard(struct probe *p, int64_t now)
{
    bool is_news = probe_answers(p) != 1;

    p->observed_ms = now;
    p->is_observed = true;
    p->misses = 0;
    return is_news;
}

void probe_overtake(struct probe *p)
{
    p->is_overtaken = true;
}

bool probe_answered(struct probe *p, int64_t now, bool *counts_out)
{
    *counts_out = !p->is_overtaken;
    p->is_due = p->is_due && p->is_overtaken;
    p->is_in_flight = false;
    p->is_overtaken = false;
    p->result = PROBE_ANSWERED;
    return probe_heard(p, now);
}

bool probe_missed(struct probe *p, enum probe_result why, int64_t late_ms, bool *again_out)
{
    bool was_unknown = probe_is_unknown(p);
    bool was_heard = p->is_observed && p->observed_ms > p->asked_ms;

    p->is_in_flight = false;
    *again_out = (!was_heard || p->is_due) && !was_unknown;
    if (was_heard || late_ms > PROBE_LATE_MS)
        return false;
    p->result = why;
    if (p->misses++ == 0)
        p->silent_ms = p->asked_ms;
    p->is_observed = false;
    *again_out = p->misses == 1;
    return !was_unknown; /* the first and the second each show */
}

void probe_abandoned(struct probe *p)
{
    p->is_in_flight = false;
}
