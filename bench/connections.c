/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What counting guests' connections costs: a question for each of 1,000 guests, with five
 * connections each; what the kernel tells of one, heard by the loop; and a listing of all.
 * Then the same question by the API.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "bench.h"
#include "net/connections.h"
#include "net/conntrack.h"

enum { GUESTS = 1000, EACH = 5, BATCH = 100, ROUNDS = 10, BASE = 0x0a640000, OUTSIDE = 0xcb007102 };

static const struct net_plan plan = {.outer = {BASE, 16}};

static void put_connection(struct nl *n, const struct flow_key *k)
{
    struct nlmsghdr *h =
        nl_begin(n, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL);
    struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
    const struct flow_key back = {k->to, k->from, k->to_port, k->from_port};
    struct nlattr *info;
    struct nlattr *part;

    g->nfgen_family = AF_INET;
    conntrack_put_tuple(h, CTA_TUPLE_ORIG, k);
    conntrack_put_tuple(h, CTA_TUPLE_REPLY, &back);
    mnl_attr_put_u32(h, CTA_STATUS, htonl(IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED));
    mnl_attr_put_u32(h, CTA_TIMEOUT, htonl(3600));
    info = mnl_attr_nest_start(h, CTA_PROTOINFO);
    part = mnl_attr_nest_start(h, CTA_PROTOINFO_TCP);
    mnl_attr_put_u8(h, CTA_PROTOINFO_TCP_STATE, TCP_CONNTRACK_ESTABLISHED);
    mnl_attr_nest_end(h, part);
    mnl_attr_nest_end(h, info);
    nl_end(n, h, "make a connection", 0);
}

static struct flow_key key_of(unsigned i)
{
    return (struct flow_key){OUTSIDE, BASE + 2 + i / EACH, (uint16_t)(1024 + i % EACH), 80};
}

struct counting {
    struct loop *loop;
    struct jobs *jobs;
    struct connections *connections;
    struct timer look;
    unsigned want; /* connections of all guests */
};

static unsigned ask_all(const struct connections *c)
{
    struct flow_counts n;
    unsigned sum = 0;

    for (uint32_t i = 0; i < GUESTS; i++)
        sum += connections_of(c, BASE + 2 + i, &n) ? n.inbound : 0;
    return sum;
}

static void look(struct timer *t)
{
    struct counting *c = container_of(t, struct counting, look);

    if (connections_is_busy(c->connections) || ask_all(c->connections) != c->want)
        loop_timer_start(c->loop, t, 1);
    else
        loop_stop(c->loop);
}

static double cpu_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Until all is heard; processor time of the loop. */
static double hear(struct counting *c, unsigned want)
{
    double began = cpu_us();
    struct err e = {0};

    c->want = want;
    loop_timer_start(c->loop, &c->look, 0);
    must(loop_run(c->loop, &e), &e);
    return cpu_us() - began;
}

/* A hundred at a time, so that what is told of them fits. */
static double change_all(struct counting *c, bool opens)
{
    struct flow_key v[BATCH];
    struct err e = {0};
    double us = 0;

    for (unsigned i = 0; i < GUESTS * EACH; i += BATCH) {
        auto_nl struct nl n = NL_CLOSED;

        must(nl_open(&n, NETLINK_NETFILTER, &e), &e);
        for (unsigned k = 0; k < BATCH; k++) {
            v[k] = key_of(i + k);
            if (opens)
                put_connection(&n, &v[k]);
        }
        must(opens ? nl_send(&n, &e) : conntrack_forget(v, BATCH, &e), &e);
        us += hear(c, opens ? i + BATCH : GUESTS * EACH - i - BATCH);
    }
    return us;
}

static void open_counting(struct counting *c)
{
    static const struct job_limit limits[] = {{"network", 1, 4}};
    struct err e = {0};

    *c = (struct counting){.look.fn = look, .loop = loop_new(&e)};
    c->jobs = c->loop ? jobs_new(c->loop, limits, 1) : NULL;
    c->connections = c->jobs ? connections_new(c->loop, c->jobs, &plan, &e) : NULL;
    must(c->connections ? 0 : -1, &e);
    (void)hear(c, 0);
}

void measure_connections(struct bench *b)
{
    struct samples told = {0};
    struct samples asked = {0};
    struct samples listed = {0};
    struct counting c;

    open_counting(&c);
    for (int i = 0; i < ROUNDS; i++) {
        double us = change_all(&c, true);
        double began = now_us();
        struct flow_news *v = NULL;
        struct err e = {0};
        size_t n = 0;

        (void)ask_all(c.connections);
        samples_add(&asked, now_us() - began);
        began = now_us();
        must(conntrack_list(plan.outer, &v, &n, &e), &e);
        samples_add(&listed, (now_us() - began) / 1000);
        free(v);
        samples_add(&told, (us + change_all(&c, false)) / GUESTS / EACH);
    }
    bench_row(b, "connections_of_1000", "us", &asked);
    bench_row(b, "connection_told", "us", &told);
    bench_row(b, "connections_listed_5000", "ms", &listed);
    jobs_stop(c.jobs);
    connections_free(c.connections);
    jobs_free(c.jobs);
    loop_free(c.loop);
    samples_free(&told);
    samples_free(&asked);
    samples_free(&listed);
}

void measure_usage_calls(struct bench *b, const char *name)
{
    auto_free char *request = mem_printf("GET /instances/%s/stats", name);
    struct samples all = {0};

    for (int i = 0; i < ROUNDS; i++) {
        double began = now_us();

        for (int k = 0; k < GUESTS; k++)
            (void)api(b, request, NULL, 200);
        samples_add(&all, (now_us() - began) / 1000);
    }
    bench_row(b, "stats_asked_1000_times", "ms", &all);
    samples_free(&all);
}
