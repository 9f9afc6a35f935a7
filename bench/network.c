/* SPDX-License-Identifier: Apache-2.0 */
/*
 * network: a fork to its first answer over HTTP, slots by how many there are, counts of
 * connections, and the mapping beside a bare routed TAP. Needs the rights to make
 * network namespaces.
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/mem.h"
#include "bench.h"
#include "net/net.h"
#include "netpath.h"

enum {
    TURNS = 50, /* of binding, and of giving back */
    PAIRS = 10,
    PACKETS = 20000,
    MEGABYTES = 64,
};

/* --- the pool --- */

static int64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

struct pool {
    struct loop *loop;
    struct net *net;
    struct timer look;
};

static void look(struct timer *t)
{
    struct pool *p = container_of(t, struct pool, look);

    if (net_is_busy(p->net))
        loop_timer_start(p->loop, t, 0);
    else
        loop_stop(p->loop);
}

/* Until nothing is under way; microseconds. */
static double settle(struct pool *p)
{
    double began = now_us();
    struct err e = {0};

    loop_timer_start(p->loop, &p->look, 0);
    must(loop_run(p->loop, &e), &e);
    return now_us() - began;
}

static void pool_open(struct pool *p, unsigned ready)
{
    struct net_settings settings = {
        .enabled = true,
        .subnet = "10.100.0.0/16",
        .inner_address = "192.0.0.2/29",
        .inner_gateway = "192.0.0.1",
        .dns = "",
        .dnsmasq = "/nonexistent", /* a process is no part of it */
        .uplink = "lo",            /* any that is there */
        .host_ports = "",
        .ready = ready,
    };
    struct err e = {0};

    *p = (struct pool){.look.fn = look, .loop = loop_new(&e)};
    p->net = p->loop ? net_open(p->loop, &settings, &e) : NULL;
    must(p->net ? net_start(p->net, &e) : -1, &e);
    if (!net_is_on(p->net))
        give_up("no network: %s", net_why_off(p->net));
}

static struct net_slot *take(struct pool *p, uint32_t address)
{
    struct err e = {0};
    struct net_slot *s = net_claim(p->net, address, &e);

    must(s ? 0 : -1, &e);
    return s;
}

/* As a restore does it: the instance keeps its address, the TAP is another one. */
static void measure_binds(struct pool *p, struct samples *bind, struct samples *back)
{
    struct net_slot *s = take(p, 0);
    uint32_t address = s->address;
    struct err e = {0};

    must(net_bind(p->net, s, &e), &e);
    for (int i = 0; i < TURNS; i++) {
        double began;

        net_settle(p->net, s);
        (void)settle(p);
        began = now_us();
        net_release(p->net, s);
        (void)settle(p);
        samples_add(back, now_us() - began);
        s = take(p, address);
        began = now_us();
        must(net_bind(p->net, s, &e), &e);
        samples_add(bind, now_us() - began);
    }
    net_release(p->net, s);
}

/* --- whether a claim asks the kernel for anything --- */

static atomic_char gate = SYSCALL_DISPATCH_FILTER_ALLOW;
static volatile sig_atomic_t called;

static void on_call(int number)
{
    (void)number;
    atomic_store(&gate, SYSCALL_DISPATCH_FILTER_ALLOW); /* the way back is one as well */
    called = 1;
}

static void watch_calls(void)
{
    struct sigaction a = {.sa_handler = on_call};

    if (sigaction(SIGSYS, &a, NULL) < 0 ||
        prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &gate) < 0)
        give_up("watch system calls: %m");
}

struct claims {
    struct samples took, calls;
};

static struct net_slot *claim(struct pool *p, struct claims *c)
{
    int64_t began = now_ns();
    struct net_slot *s;

    called = 0;
    atomic_store(&gate, SYSCALL_DISPATCH_FILTER_BLOCK);
    s = take(p, 0);
    atomic_store(&gate, SYSCALL_DISPATCH_FILTER_ALLOW);
    samples_add(&c->took, (double)(now_ns() - began));
    samples_add(&c->calls, called);
    return s;
}

static void pool_row(struct bench *b, unsigned n, const char *what, const char *unit,
                     const struct samples *s)
{
    char name[64];

    (void)snprintf(name, sizeof(name), "%s_at_%u", what, n);
    bench_row(b, name, unit, s);
}

static void measure_pool(struct bench *b, unsigned n)
{
    struct claims claims = {0};
    struct samples bind = {0};
    struct samples back = {0};
    struct samples made = {0};
    struct net_slot **taken = mem_zalloc(n, sizeof(*taken));
    struct pool p;

    pool_open(&p, n);
    samples_add(&made, n * 1e6 / settle(&p));
    for (unsigned i = 0; i < n; i++)
        taken[i] = claim(&p, &claims);
    for (unsigned i = 0; i < n; i++)
        net_release(p.net, taken[i]);
    (void)settle(&p);
    measure_binds(&p, &bind, &back);
    pool_row(b, n, "refill", "per_s", &made);
    pool_row(b, n, "claim", "ns", &claims.took);
    pool_row(b, n, "claim_made_a_system_call", "calls", &claims.calls);
    pool_row(b, n, "bind_kept_address", "us", &bind);
    pool_row(b, n, "released_to_reusable", "us", &back);
    net_stop(p.net);
    net_free(p.net);
    loop_free(p.loop);
    free(taken);
    samples_free(&made);
    samples_free(&claims.took);
    samples_free(&claims.calls);
    samples_free(&bind);
    samples_free(&back);
}

/* --- the mapping beside a bare routed TAP, in turns --- */

struct path_costs {
    struct samples to_guest, to_host, bulk, bulk_cpu;
};

static void cross(struct netpath *p, struct path_costs *c)
{
    struct netpath_bulk bulk = netpath_bulk(p, MEGABYTES);

    samples_add(&c->to_guest, netpath_to_guest_ns(p, PACKETS));
    samples_add(&c->to_host, netpath_to_host_ns(p, PACKETS));
    samples_add(&c->bulk, bulk.mb_s);
    samples_add(&c->bulk_cpu, bulk.cpu_us);
}

/* Of pairs: before the rows of either, which sort. */
static void ratio_row(struct bench *b, const char *name, const struct samples *of,
                      const struct samples *to)
{
    struct samples ratio = {0};

    for (size_t i = 0; i < of->n; i++)
        samples_add(&ratio, of->v[i] / to->v[i]);
    bench_row(b, name, "x", &ratio);
    samples_free(&ratio);
}

static void path_costs_free(struct path_costs *c)
{
    samples_free(&c->to_guest);
    samples_free(&c->to_host);
    samples_free(&c->bulk);
    samples_free(&c->bulk_cpu);
}

static void measure_mapping(struct bench *b)
{
    struct path_costs ours = {0};
    struct path_costs theirs = {0};
    struct netpath mapped;
    struct netpath bare;

    netpath_open(&mapped, false);
    netpath_open(&bare, true);
    for (int i = 0; i < PAIRS; i++) {
        cross(i % 2 ? &mapped : &bare, i % 2 ? &ours : &theirs);
        cross(i % 2 ? &bare : &mapped, i % 2 ? &theirs : &ours);
    }
    ratio_row(b, "packet_to_guest_ratio", &ours.to_guest, &theirs.to_guest);
    ratio_row(b, "packet_to_host_ratio", &ours.to_host, &theirs.to_host);
    ratio_row(b, "bulk_ratio", &ours.bulk, &theirs.bulk);
    ratio_row(b, "bulk_cpu_ratio", &ours.bulk_cpu, &theirs.bulk_cpu);
    bench_row(b, "mapped_to_guest", "ns", &ours.to_guest);
    bench_row(b, "bare_to_guest", "ns", &theirs.to_guest);
    bench_row(b, "mapped_to_host", "ns", &ours.to_host);
    bench_row(b, "bare_to_host", "ns", &theirs.to_host);
    bench_row(b, "mapped_bulk", "MB/s", &ours.bulk);
    bench_row(b, "bare_bulk", "MB/s", &theirs.bulk);
    bench_row(b, "mapped_bulk_cpu", "us/MB", &ours.bulk_cpu);
    bench_row(b, "bare_bulk_cpu", "us/MB", &theirs.bulk_cpu);
    netpath_close(&mapped);
    netpath_close(&bare);
    path_costs_free(&ours);
    path_costs_free(&theirs);
}

void bench_network(struct bench *b)
{
    static const unsigned sizes[] = {10, 100, 1000};

    measure_first_answers(b);
    if (unshare(CLONE_NEWNET) < 0)
        give_up("make a network namespace: %m");
    watch_calls();
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        measure_pool(b, sizes[i]);
    measure_connections(b);
    measure_mapping(b);
}
