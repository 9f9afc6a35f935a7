/* SPDX-License-Identifier: Apache-2.0 */
#include "net/private.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/rate.h"

enum { TURN_MS = 60000, BATCH = 256, SURPLUS = 64, RETRY_MS = 1000, RETRY_DOUBLED = 5 };

/*
 * One turn of the pool's worker. What it has to do it carries; slots in it are in
 * none of the pool's lists.
 */
struct turn {
    struct job job;
    struct net *net; /* for done(); run() uses its tools alone */
    struct net_slot *v[BATCH];
    size_t n;
    size_t n_returned; /* of them, in front: to be unbound first */
    size_t n_kept;     /* of all, in front: to be bound; the rest is removed */
    struct upkeep_work upkeep;
};

static unsigned ceiling(const struct net *n)
{
    return n->plan.ready * 2 + SURPLUS;
}

static struct net_slot *pop(struct list *l)
{
    struct net_slot *s;

    if (list_empty(l))
        return NULL;
    s = container_of(l->next, struct net_slot, link);
    list_remove(&s->link);
    return s;
}

struct binding *pool_bindings(struct net *n, size_t *n_out)
{
    struct binding *v = mem_zalloc(n->n_ready + n->n_claimed + 1, sizeof(*v));
    struct list *lists[] = {&n->ready, &n->claimed};
    size_t count = 0;

    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        for (struct list *l = lists[i]->next; l != lists[i]; l = l->next) {
            const struct net_slot *s = container_of(l, struct net_slot, link);

            if (s->is_lent)
                continue;
            memcpy(v[count].tap, s->tap, sizeof(s->tap));
            v[count].ifindex = s->ifindex;
            v[count++].address = s->bound;
        }
    }
    *n_out = count;
    return v;
}

/* --- on the worker --- */

static void run(struct job *job)
{
    struct turn *t = container_of(job, struct turn, job);
    struct slot_tools *tools = &t->net->tools;

    upkeep_run(&t->upkeep);
    if (t->n_returned > 0 && slots_unbind(tools, t->v, t->n_returned, &job->err) < 0)
        return;
    if (t->n > t->n_kept && slots_delete(tools, t->v + t->n_kept, t->n - t->n_kept, &job->err) < 0)
        return;
    if (t->n_kept > 0)
        (void)slots_bind(tools, t->v, t->n_kept, &job->err);
}

/* --- on the loop --- */

static void discard(struct net *n, struct net_slot *s)
{
    addresses_give_back(&n->addresses, s->address);
    slot_free(s);
}

static void take_back(struct net *n, struct turn *t)
{
    bool failed = t->job.err.code != ERR_NONE;

    for (size_t i = 0; n->connections && i < t->n_returned; i++)
        connections_forget(n->connections, t->v[i]->left, FLOWS_UNANSWERED);
    for (size_t i = 0; i < t->n; i++) {
        if (failed || i >= t->n_kept) {
            discard(n, t->v[i]);
        } else {
            list_append(&n->ready, &t->v[i]->link);
            n->n_ready++;
        }
    }
    if (failed && t->job.err.code != ERR_CANCELLED)
        log_warn("network: slots were not made ready: %s", t->job.err.msg);
}

static void want(struct net *n, const struct upkeep *more)
{
    n->wants.rules |= more->rules;
    n->wants.links |= more->links;
    n->wants.uplink |= more->uplink;
    n->wants.firewall |= more->firewall;
}

/* What is in guests' way is said when it comes, and when it goes. */
static void take_upkeep(struct net *n, const struct upkeep_work *u)
{
    memcpy(n->uplink, u->uplink, sizeof(n->uplink));
    memcpy(n->opened, u->opened, sizeof(n->opened));
    if (u->err.code != ERR_NONE) {
        log_error("network: not all is in place: %s", u->err.msg);
        want(n, &u->todo);
    } else if (u->todo.firewall && strcmp(n->commands, u->commands) != 0) {
        net_note_firewall(n, u->commands);
    }
}

/* Without our rules nothing would keep guests out of the host: it is tried until it succeeds. */
static void retry_later(struct net *n)
{
    if (n->is_stopping)
        return;
    loop_timer_start(n->loop, &n->retry, RETRY_MS << n->failures);
    if (n->failures < RETRY_DOUBLED)
        n->failures++;
}

static void done(struct job *job)
{
    struct turn *t = container_of(job, struct turn, job);
    struct net *n = t->net;
    bool failed = job->err.code != ERR_NONE || t->upkeep.err.code != ERR_NONE;

    take_back(n, t);
    take_upkeep(n, &t->upkeep);
    n->turn = NULL;
    free(t->upkeep.bindings);
    free(t);
    if (failed) {
        retry_later(n);
        return;
    }
    n->failures = 0;
    pool_kick(n);
}

static bool add(struct turn *t, struct net_slot *s)
{
    t->v[t->n++] = s;
    return t->n < BATCH;
}

/* Each gets another address, so that none is given out again before all others were. */
static void add_returned(struct net *n, struct turn *t)
{
    struct net_slot *s;
    struct net_slot *doomed[BATCH];
    size_t n_doomed = 0;
    struct err ignored = {0};

    while (t->n + n_doomed < BATCH && (s = pop(&n->returned)) != NULL) {
        s->address = s->fd >= 0 && n->n_ready + t->n < ceiling(n)
                         ? addresses_take(&n->addresses, &ignored)
                         : 0;
        err_clear(&ignored);
        if (s->address)
            (void)add(t, s);
        else
            doomed[n_doomed++] = s;
    }
    t->n_kept = t->n;
    for (size_t i = 0; i < n_doomed; i++)
        (void)add(t, doomed[i]);
    t->n_returned = t->n;
}

/* Only in a turn that returns nothing: what comes back may do. */
static void add_new(struct net *n, struct turn *t)
{
    struct err ignored = {0};

    while (n->n_ready + t->n < n->plan.ready && t->n < BATCH) {
        uint32_t address = addresses_take(&n->addresses, &ignored);

        if (address == 0)
            break;
        (void)add(t, slot_new(address));
    }
    t->n_kept = t->n;
}

static bool is_wanted(const struct upkeep *u)
{
    return u->rules || u->links || u->uplink || u->firewall;
}

static void add_upkeep(struct net *n, struct turn *t)
{
    struct upkeep_work *u = &t->upkeep;

    u->plan = &n->plan;
    u->ports = &n->tools.ports;
    u->todo = n->wants;
    memcpy(u->uplink, n->uplink, sizeof(u->uplink));
    memcpy(u->opened, n->opened, sizeof(u->opened));
    if (!is_wanted(&n->wants))
        return;
    u->bindings = pool_bindings(n, &u->n_bindings);
    n->wants = (struct upkeep){0};
    n->epoch++;
}

void pool_kick(struct net *n)
{
    struct turn *t;
    struct err e = {0};

    if (n->turn || n->is_stopping || !n->is_on)
        return;
    t = mem_new(struct turn);
    t->net = n;
    add_upkeep(n, t);
    if (!list_empty(&n->returned))
        add_returned(n, t);
    else
        add_new(n, t);
    if (t->n == 0 && !is_wanted(&t->upkeep.todo)) {
        free(t);
        return;
    }
    t->job.run = run;
    t->job.done = done;
    t->job.timeout_ms = TURN_MS;
    n->turn = t;
    if (jobs_submit(n->jobs, &t->job, &e) < 0) {
        t->job.err = e;
        done(&t->job);
    }
}

void pool_refill(struct timer *t)
{
    pool_kick(container_of(t, struct net, refill));
}

void pool_retry(struct timer *t)
{
    pool_kick(container_of(t, struct net, retry));
}

static struct net_slot *find_slot(struct list *l, int ifindex)
{
    for (struct list *i = l->next; i != l; i = i->next) {
        struct net_slot *s = container_of(i, struct net_slot, link);

        if (!s->is_lent && s->ifindex == ifindex)
            return s;
    }
    return NULL;
}

/* Without its file a slot is not used again. What a job has fails there. */
void pool_lost(struct net *n, int ifindex)
{
    struct net_slot *ready = find_slot(&n->ready, ifindex);
    struct net_slot *s = ready ? ready : find_slot(&n->claimed, ifindex);
    char text[ADDRESS_TEXT_SIZE];

    if (!s || s->fd < 0) /* it ended with its VMM */
        return;
    close(take_fd(&s->fd));
    if (ready) {
        log_warn("network: somebody removed %s; another is made", s->tap);
        list_remove(&s->link);
        n->n_ready--;
        addresses_give_back(&n->addresses, s->address);
        s->address = 0;
        list_append(&n->returned, &s->link);
        pool_kick(n);
    } else {
        log_error("network: somebody removed %s; the guest at %s has no network until it is "
                  "restarted or restored",
                  s->tap,
                  address_text(s->address, text));
    }
}

struct net_slot *net_claim(struct net *n, uint32_t address, struct err *e)
{
    struct net_slot *s;

    if (!n->is_on) {
        err_set(e, ERR_UNSUPPORTED, "there is no network: %s", n->why_off);
        return NULL;
    }
    s = pop(&n->ready);
    if (s) {
        n->n_ready--;
        if (address) {
            addresses_give_back(&n->addresses, s->address);
            s->address = address;
        }
    } else {
        if (address == 0)
            address = addresses_take(&n->addresses, e);
        if (address == 0)
            return NULL;
        s = slot_new(address);
    }
    s->is_lent = true;
    s->claimed_at = n->epoch;
    list_append(&n->claimed, &s->link);
    n->n_claimed++;
    if (n->refill.place == 0)
        loop_timer_start(n->loop, &n->refill, 0);
    return s;
}

int net_bind(struct net *n, struct net_slot *s, struct err *e)
{
    bool is_bound = s->ifindex && s->bound == s->address;

    if (!is_bound && slots_bind(&n->tools, &s, 1, e) < 0)
        return -1;
    return s->ports ? slot_publish(&n->tools, s, e) : 0;
}

int net_limit(struct net *n, struct net_slot *s, uint64_t download, uint64_t upload, struct err *e)
{
    struct net_rate rate = {
        .download = download,
        .upload = upload,
        .download_burst = n->plan.download_burst,
        .upload_burst = n->plan.upload_burst,
    };

    if (download || upload)
        s->is_limited = true; /* also what half succeeds is to be lifted */
    return rate_set(s->tap, &rate, e);
}

void net_settle(struct net *n, struct net_slot *s)
{
    s->is_lent = false;
    if (s->claimed_at != n->epoch)
        pool_want(n,
                  &(struct upkeep){.rules = true, .links = true}); /* it was left out of a repair */
}

void net_release(struct net *n, struct net_slot *s)
{
    if (!s)
        return;
    list_remove(&s->link);
    n->n_claimed--;
    s->is_lent = false;
    s->address = 0; /* it stays the instance's */
    if (n->is_stopping) {
        slot_free(s);
        return;
    }
    list_append(&n->returned, &s->link);
    pool_kick(n);
}

void net_give_back(struct net *n, uint32_t address)
{
    addresses_give_back(&n->addresses, address);
}

void pool_want(struct net *n, const struct upkeep *more)
{
    want(n, more);
    pool_kick(n);
}

struct net_counts net_counts(const struct net *n)
{
    return (struct net_counts){
        .ready = n->n_ready,
        .claimed = n->n_claimed,
        .addresses = n->addresses.n_taken,
        .repairs = n->epoch,
        .listings = n->connections ? connections_listings(n->connections) : 0,
    };
}

bool net_is_busy(const struct net *n)
{
    return n->turn != NULL || n->refill.place != 0 ||
           (n->connections && connections_is_busy(n->connections));
}

void pool_empty(struct net *n)
{
    struct net_slot *v[BATCH];
    struct net_slot *s;
    struct err e = {0};
    size_t count;

    do {
        for (count = 0; count < BATCH; count++) {
            s = pop(&n->ready);
            if (!s)
                s = pop(&n->returned);
            if (!s)
                break;
            v[count] = s;
        }
        if (count > 0 && slots_delete(&n->tools, v, count, &e) < 0) {
            log_warn("network: %s", e.msg);
            err_clear(&e);
        }
        for (size_t i = 0; i < count; i++)
            slot_free(v[i]);
    } while (count == BATCH);
    n->n_ready = 0;
}
