/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What others change under us: nftables' events, the kernel's routes, and the TAPs.
 *
 * An event says only that something is to be looked at; what is wrong is put right
 * by the pool's worker, shortly after, and at most once a second if it goes on.
 *
 * Loop thread; nothing blocks.
 */
#pragma once

#include "loop/loop.h"
#include "net/plan.h"

struct net_watch;

/* What an event gives reason to do. */
struct upkeep {
    bool rules;    /* write our tables again */
    bool links;    /* addresses, routes and neighbours again */
    bool uplink;   /* look where the default route leads */
    bool firewall; /* look whether somebody drops what is forwarded */
};

/* Who is told. */
struct net_watcher {
    void *owner;
    void (*changed)(void *owner, const struct upkeep *todo);
    void (*gone)(void *owner, int ifindex); /* an interface, of whomever */
    const char *uplink;                     /* its name at any time; empty: there is none */
};

struct net_watch *net_watch_new(struct loop *loop, const struct net_plan *plan,
                                const struct net_watcher *to, struct err *e);
void net_watch_free(struct net_watch *w); /* NULL is fine */
