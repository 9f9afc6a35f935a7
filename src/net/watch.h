/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What others change under us: nftables' events and the kernel's routes.
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

typedef void upkeep_fn(void *owner, const struct upkeep *todo);

struct net_watch *net_watch_new(struct loop *loop, const struct net_plan *plan, upkeep_fn *fn,
                                void *owner, struct err *e);
void net_watch_free(struct net_watch *w); /* NULL is fine */
