/* SPDX-License-Identifier: Apache-2.0 */
#include "net/connections.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/conntrack.h"

enum { MESSAGE_MAX = 32 * 1024, TURN_MAX = 256, TURNS_MAX = 16, WORK_MS = 60000 };
enum { APART_MS = 1000, UNTOLD_MS = 60000 }; /* from one listing to the next */

struct connections {
    struct loop *loop;
    struct jobs *jobs;
    struct subnet guests;
    struct watch watch;
    struct timer due;
    struct flows *flows;
    bool is_listing;
    bool has_lost; /* something was told that we did not hear */
    int64_t listed_at;
    uint64_t n_listings;
    struct flow_key *doomed; /* to be forgotten */
    size_t n_doomed;
    bool is_forgetting;
};

static void list_soon(struct connections *c, int64_t apart_ms)
{
    int64_t left = c->listed_at ? c->listed_at + apart_ms - clock_ms() : 0;

    if (!c->is_listing && c->due.place == 0)
        loop_timer_start(c->loop, &c->due, left > 0 ? left : 0);
}

/* --- all that there are --- */

struct listing {
    struct job job;
    struct connections *c;
    struct subnet guests;
    struct flow_news *v;
    size_t n;
};

static void list_run(struct job *job)
{
    struct listing *l = container_of(job, struct listing, job);

    (void)conntrack_list(l->guests, &l->v, &l->n, &job->err);
}

static void list_done(struct job *job)
{
    struct listing *l = container_of(job, struct listing, job);
    struct connections *c = l->c;
    bool is_over = job->err.code == ERR_CANCELLED;

    c->is_listing = false;
    if (job->err.code == ERR_NONE) {
        flows_list(c->flows, l->v, l->n);
        flows_list_end(c->flows);
        c->n_listings++;
    } else {
        c->has_lost = true;
        if (!is_over)
            log_warn("network: connections are not counted right now: %s", job->err.msg);
    }
    free(l->v);
    free(l);
    if (is_over)
        return;
    if (c->has_lost)
        list_soon(c, APART_MS);
    else if (flows_untold(c->flows) > 0)
        list_soon(c, UNTOLD_MS);
}

static void list_all(struct timer *t)
{
    struct connections *c = container_of(t, struct connections, due);
    struct listing *l = mem_new(struct listing);

    l->c = c;
    l->guests = c->guests;
    l->job.run = list_run;
    l->job.done = list_done;
    l->job.timeout_ms = WORK_MS;
    c->has_lost = false;
    c->is_listing = true;
    c->listed_at = clock_ms();
    flows_list_begin(c->flows);
    if (jobs_submit(c->jobs, &l->job, &l->job.err) < 0)
        list_done(&l->job);
}

/* --- what changes --- */

/* False: there may be more. */
static bool hear(struct connections *c)
{
    static _Alignas(struct nlmsghdr) char in[MESSAGE_MAX];

    for (int i = 0; i < TURN_MAX; i++) {
        ssize_t got = recv(c->watch.fd, in, sizeof(in), MSG_DONTWAIT);
        const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)in;
        int left = (int)got;
        struct flow_news news;

        if (got < 0 && errno == ENOBUFS) {
            c->has_lost = true;
            list_soon(c, APART_MS);
            continue;
        }
        if (got <= 0)
            return true;
        for (; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
            if (conntrack_read(h, c->guests, &news))
                flows_tell(c->flows, &news);
        }
    }
    return false;
}

static void on_news(struct watch *w, uint32_t events)
{
    (void)events;
    (void)hear(container_of(w, struct connections, watch));
}

struct connections *connections_new(struct loop *loop, struct jobs *jobs,
                                    const struct net_plan *plan, struct err *e)
{
    struct connections *c = mem_new(struct connections);
    int fd = conntrack_follow(e);

    c->loop = loop;
    c->jobs = jobs;
    c->guests = plan->outer;
    c->watch.fn = on_news;
    c->due.fn = list_all;
    c->flows = flows_new();
    if (fd >= 0 && loop_watch(loop, &c->watch, fd, EPOLLIN, e) == 0) {
        list_soon(c, 0);
        return c;
    }
    if (fd >= 0)
        close(fd);
    flows_free(c->flows);
    free(c);
    return NULL;
}

void connections_free(struct connections *c)
{
    int fd;

    if (!c)
        return;
    fd = c->watch.fd;
    loop_timer_stop(c->loop, &c->due);
    loop_unwatch(c->loop, &c->watch);
    close(fd);
    flows_free(c->flows);
    free(c->doomed);
    free(c);
}

bool connections_of(const struct connections *c, uint32_t guest, struct flow_counts *out)
{
    *out = flows_of(c->flows, guest);
    return c->n_listings > 0;
}

uint64_t connections_listings(const struct connections *c)
{
    return c->n_listings;
}

bool connections_is_busy(const struct connections *c)
{
    return c->is_listing || c->has_lost || c->is_forgetting || c->n_listings == 0;
}

/* --- forgetting: one job at a time, however many guests end at once --- */

struct forgetting {
    struct job job;
    struct connections *c;
    struct flow_key *v;
    size_t n;
};

static void forget_run(struct job *job)
{
    struct forgetting *f = container_of(job, struct forgetting, job);

    (void)conntrack_forget(f->v, f->n, &job->err);
}

static void forget_next(struct connections *c);

static void forget_done(struct job *job)
{
    struct forgetting *f = container_of(job, struct forgetting, job);
    struct connections *c = f->c;
    bool goes_on = job->err.code == ERR_NONE;

    if (!goes_on && job->err.code != ERR_CANCELLED)
        log_warn("network: connections of guests that have ended stay: %s", job->err.msg);
    free(f->v);
    free(f);
    c->is_forgetting = false;
    if (goes_on)
        forget_next(c);
}

static void forget_next(struct connections *c)
{
    struct forgetting *f;

    if (c->is_forgetting || c->n_doomed == 0)
        return;
    f = mem_new(struct forgetting);
    f->c = c;
    f->v = take_ptr(&c->doomed);
    f->n = c->n_doomed;
    f->job.run = forget_run;
    f->job.done = forget_done;
    f->job.timeout_ms = WORK_MS;
    c->n_doomed = 0;
    c->is_forgetting = true;
    if (jobs_submit(c->jobs, &f->job, &f->job.err) < 0)
        forget_done(&f->job);
}

void connections_forget(struct connections *c, uint32_t guest, enum flows_which which)
{
    struct flow_key *v;
    size_t n;

    for (int i = 0; i < TURNS_MAX && !hear(c); i++)
        continue;
    v = flows_keys(c->flows, guest, which, &n);

    if (n > 0) {
        c->doomed = mem_realloc(c->doomed, (c->n_doomed + n) * sizeof(*v));
        memcpy(c->doomed + c->n_doomed, v, n * sizeof(*v));
        c->n_doomed += n;
    }
    free(v);
    forget_next(c);
}
