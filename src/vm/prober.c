/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/prober.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "vm/live.h"

enum {
    QUESTIONS_A_CONNECTION = 4, /* that nobody answers: one may have been lost with its asker */
    ROUND_MS = 100,
    SOON_MS = 10,
    TELL_MS = 5, /* what is found out at the bound is told too */
};

/* A row that a fresh=true waits for: on its question's list while that is under way. */
struct wait_link {
    struct prober_wait *wait;
    struct list of_question;
};

static void time_to_tell(struct prober_wait *w)
{
    loop_timer_start(w->prober->world->loop, &w->timer, 0);
}

/* Whoever waits for this question has its result, or will never have one. */
static void tell_waits(struct question *q)
{
    while (!list_empty(&q->waits)) {
        struct wait_link *l = container_of(q->waits.next, struct wait_link, of_question);
        struct prober_wait *w = l->wait;

        list_remove(&l->of_question);
        if (--w->left == 0)
            time_to_tell(w);
    }
}

/* --- the slots --- */

static void ask(struct prober *p, struct question *q);

static void go_on(struct prober *p)
{
    while (!list_empty(&p->due) && p->in_flight < PROBES_IN_FLIGHT)
        ask(p, container_of(p->due.next, struct question, due));
    while (!list_empty(&p->due_silent) && p->in_flight < PROBES_IN_FLIGHT &&
           p->silent_in_flight < SILENT_IN_FLIGHT)
        ask(p, container_of(p->due_silent.next, struct question, due));
}

static void on_go(struct timer *t)
{
    go_on(container_of(t, struct prober, go));
}

void prober_soon(struct prober *p)
{
    if (p->go.place == 0 && (!list_empty(&p->due) || !list_empty(&p->due_silent)))
        loop_timer_start(p->world->loop, &p->go, SOON_MS);
}

static void put_due(struct prober *p, struct question *q)
{
    if (list_empty(&q->due))
        list_append(probe_is_silent(&q->row->probe) ? &p->due_silent : &p->due, &q->due);
}

static void leave_slot(struct prober *p, struct question *q)
{
    loop_timer_stop(p->world->loop, &q->bound);
    p->in_flight--;
    p->silent_in_flight -= q->is_silent;
    q->is_silent = false;
    if (!list_empty(&p->due) || !list_empty(&p->due_silent))
        loop_timer_start(p->world->loop, &p->go, 0);
}

/* A silent VMM whose time is up is killed; until then it is asked again when that time comes. */
static void apply_policy(struct prober *p, struct question *q, int64_t now)
{
    int64_t left = q->row->probe.silent_ms + p->kill_after_ms - now;

    if (p->kill_after_ms == 0 || !probe_is_unknown(&q->row->probe))
        return;
    if (left > 0)
        loop_timer_start(p->world->loop, &q->bound, left);
    else if (!q->row->holder)
        live_kill_silent(q->row);
}

/* Upstream's span, here only where somebody was asked. */
static void trace_question(struct question *q, bool failed)
{
    struct vm_world *w = q->prober->world;
    struct trace t;

    trace_begin(&t, "instances.derive_state", q->row->id);
    trace_backdate(&t, (clock_ms() - q->row->probe.asked_ms) * 1000);
    trace_count(&t, "hypervisor_state.cache_hit", 0);
    trace_finish(&w->reads, &t, failed);
}

static void missed(struct question *q, enum probe_result why, int64_t late_ms)
{
    struct prober *p = q->prober;
    struct instance *row = q->row;
    int64_t now = clock_ms();
    bool again = false;
    bool changed;

    leave_slot(p, q);
    if (row->holder) { /* an operation took hold meanwhile: its deadline is the question now */
        probe_abandoned(&row->probe);
        tell_waits(q);
        return;
    }
    changed = probe_missed(&row->probe, why, late_ms, &again);
    if (changed && row->probe.misses == 1)
        row->silent_us = wall_us() - (now - row->probe.asked_ms) * 1000;
    trace_question(q, true);
    if (late_ms <= PROBE_LATE_MS)
        row->probed_us = wall_us();
    if (changed)
        live_probed(row);
    if (row->probe.misses % QUESTIONS_A_CONNECTION == QUESTIONS_A_CONNECTION - 1)
        live_hang_up(row);
    if (again)
        ask(p, q);
    else
        apply_policy(p, q, now);
    tell_waits(q);
}

static void on_bound(struct timer *t)
{
    struct question *q = container_of(t, struct question, bound);
    struct probe *probe = &q->row->probe;

    if (!probe->is_in_flight) {
        put_due(q->prober, q); /* the policy's last question */
        go_on(q->prober);
        return;
    }
    live_drain(q->row); /* the answer may lie there, unread, when it is we who are late */
    if (probe->is_in_flight)
        missed(q,
               q->is_refused ? PROBE_REFUSED : PROBE_TIMEOUT,
               clock_ms() - probe->asked_ms - PROBE_BOUND_MS);
}

static void ask(struct prober *p, struct question *q)
{
    struct err e = {0};

    list_remove(&q->due);
    if (q->row->holder || q->row->probe.is_in_flight) {
        tell_waits(q);
        return;
    }
    q->is_silent = probe_is_silent(&q->row->probe);
    p->in_flight++;
    p->silent_in_flight += q->is_silent;
    probe_asked(&q->row->probe, clock_ms());
    loop_timer_start(p->world->loop, &q->bound, PROBE_BOUND_MS);
    q->is_refused = live_ask(q->row, &e) < 0;
    if (q->is_refused)
        log_debug("instance %s: %s", q->row->id, e.msg);
}

/* --- readers --- */

static bool may_ask(const struct instance *row, int64_t now, bool fresh)
{
    return row->question && !row->holder && probe_may_ask(&row->probe, now, fresh);
}

static bool read_row(struct prober *p, struct instance *row, int64_t now)
{
    if (!row->question || probe_is_hit(&row->probe, now))
        return true;
    if (may_ask(row, now, false))
        put_due(p, row->question);
    return false;
}

bool prober_read(struct prober *p, struct instance *row)
{
    return read_row(p, row, clock_ms());
}

struct prober_count prober_read_all(struct prober *p)
{
    struct prober_count count = {0};
    int64_t now = clock_ms();

    for (struct list *l = p->all.next; l != &p->all; l = l->next) {
        if (read_row(p, container_of(l, struct question, all)->row, now))
            count.hits++;
        else
            count.misses++;
    }
    return count;
}

void prober_resync(struct prober *p, struct instance *row)
{
    probe_invalidate(&row->probe);
    (void)prober_read(p, row);
    prober_soon(p);
}

static void on_round(struct timer *t)
{
    struct prober *p = container_of(t, struct prober, round);

    for (int i = 0; i < ROUNDS_PER_S * ROUND_MS / 1000 && !list_empty(&p->all); i++) {
        struct question *q = container_of(p->all.next, struct question, all);

        list_remove(&q->all);
        list_append(&p->all, &q->all);
        (void)prober_read(p, q->row);
    }
    go_on(p);
    loop_timer_start(p->world->loop, t, ROUND_MS);
}

static void start_or_end_rounds(struct prober *p)
{
    bool wanted = (p->watchers > 0 || p->kill_after_ms > 0) && !list_empty(&p->all);

    if (!wanted)
        loop_timer_stop(p->world->loop, &p->round);
    else if (p->round.place == 0)
        loop_timer_start(p->world->loop, &p->round, ROUND_MS);
}

void prober_watch(struct prober *p)
{
    p->watchers++;
    start_or_end_rounds(p);
}

void prober_unwatch(struct prober *p)
{
    p->watchers--;
    start_or_end_rounds(p);
}

void prober_policy(struct prober *p, int64_t kill_after_ms)
{
    p->kill_after_ms = kill_after_ms;
    start_or_end_rounds(p);
}

/* --- what is heard --- */

void prober_heard(struct prober *p, struct instance *row)
{
    bool changed;

    if (!row->question)
        return;
    changed = probe_heard(&row->probe, clock_ms());
    row->observed_us = wall_us();
    if (!row->probe.is_in_flight)
        loop_timer_stop(p->world->loop, &row->question->bound);
    if (changed)
        live_probed(row);
}

bool prober_answered(struct prober *p, struct instance *row)
{
    struct question *q = row->question;
    bool counts = false;
    bool changed;

    if (!row->probe.is_in_flight) { /* late, and still a sign of life */
        prober_heard(p, row);
        return !row->holder;
    }
    leave_slot(p, q);
    changed = probe_answered(&row->probe, clock_ms(), &counts);
    trace_question(q, false);
    row->observed_us = row->probed_us = wall_us();
    if (changed)
        live_probed(row);
    tell_waits(q);
    if (row->probe.is_due && !row->holder) {
        put_due(p, q);
        prober_soon(p);
    }
    return counts && !row->holder;
}

void prober_refused(struct prober *p, struct instance *row)
{
    (void)p;
    if (row->probe.is_in_flight)
        row->question->is_refused = true;
}

/* --- fresh=true --- */

static void on_wait(struct timer *t)
{
    struct prober_wait *w = container_of(t, struct prober_wait, timer);

    prober_wait_cancel(w);
    w->done(w);
}

void prober_wait_init(struct prober *p, struct prober_wait *w, void (*done)(struct prober_wait *w))
{
    *w = (struct prober_wait){.done = done, .prober = p, .timer.fn = on_wait};
    w->links = mem_zalloc(p->n_all + 1, sizeof(*w->links));
}

void prober_wait_add(struct prober_wait *w, struct instance *row)
{
    struct wait_link *l;

    if (!may_ask(row, clock_ms(), true) && !(row->question && row->probe.is_in_flight))
        return;
    if (!row->probe.is_in_flight)
        put_due(w->prober, row->question);
    l = &w->links[w->n_links++];
    l->wait = w;
    list_append(&row->question->waits, &l->of_question);
    w->left++;
}

void prober_wait_start(struct prober_wait *w)
{
    loop_timer_start(w->prober->world->loop, &w->timer, w->left ? PROBE_BOUND_MS + TELL_MS : 0);
    go_on(w->prober);
}

void prober_wait_cancel(struct prober_wait *w)
{
    loop_timer_stop(w->prober->world->loop, &w->timer);
    for (size_t i = 0; i < w->n_links; i++)
        list_remove(&w->links[i].of_question);
    free(w->links);
    w->links = NULL;
    w->n_links = 0;
    w->left = 0;
}

/* --- who is asked --- */

void prober_init(struct prober *p, struct vm_world *w)
{
    *p = (struct prober){.world = w, .go.fn = on_go, .round.fn = on_round};
    list_init(&p->all);
    list_init(&p->due);
    list_init(&p->due_silent);
}

void prober_fini(struct prober *p)
{
    loop_timer_stop(p->world->loop, &p->go);
    loop_timer_stop(p->world->loop, &p->round);
}

void prober_add(struct prober *p, struct question *q, struct instance *row)
{
    *q = (struct question){.prober = p, .row = row, .bound.fn = on_bound};
    list_init(&q->due);
    list_init(&q->waits);
    list_append(&p->all, &q->all);
    p->n_all++;
    row->question = q;
    probe_init(&row->probe, clock_ms());
    row->probed_us = 0;
    start_or_end_rounds(p);
}

void prober_remove(struct prober *p, struct question *q)
{
    if (q->row->probe.is_in_flight)
        leave_slot(p, q);
    q->row->question = NULL;
    q->row->probe.is_in_flight = false;
    loop_timer_stop(p->world->loop, &q->bound);
    list_remove(&q->all);
    p->n_all--;
    list_remove(&q->due);
    tell_waits(q);
    start_or_end_rounds(p);
}
