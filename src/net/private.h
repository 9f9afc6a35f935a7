/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of struct net: its pool (pool.c), its coming and going (net.c), and who watches over it.
 * Loop thread, but for what a turn carries to its worker.
 */
#pragma once

#include "loop/jobs.h"
#include "net/connections.h"
#include "net/links.h"
#include "net/names.h"
#include "net/net.h"
#include "net/rules.h"
#include "net/upkeep.h"
#include "net/watch.h"

struct turn;

struct net {
    struct loop *loop;
    struct jobs *jobs; /* one thread */
    struct net_plan plan;
    struct slot_tools tools;
    bool is_on;
    bool is_wanted;
    bool is_stopping;
    char why_off[300];
    int lock_fd; /* of this network namespace */

    struct addresses addresses;
    struct list ready; /* of struct net_slot, the oldest first */
    struct list claimed;
    struct list reserved; /* ports of the host (net/publish.h) */
    struct list returned; /* what led to whom is gone is still to be unbound */
    unsigned n_ready;
    unsigned n_claimed;
    struct turn *turn;   /* the job that is under way; NULL: none */
    struct timer refill; /* due at once: a claim itself wakes no thread */
    struct timer retry;  /* after a turn that failed */
    unsigned failures;   /* one after the other */

    char uplink[IFNAMSIZ]; /* as the rules have it */
    struct upkeep wants;
    uint64_t epoch;              /* counts the repairs */
    char opened[IFNAMSIZ];       /* forwarding was off there before we came */
    char commands[COMMANDS_MAX]; /* for the operator: a firewall is in guests' way; or "" */
    struct net_watch *watch;
    struct connections *connections; /* NULL: they are not counted here */
    struct names *names;             /* NULL: there are none, and why */
    char why_no_names[300];

    struct tap_link *found; /* at start; until they are adopted or swept */
    size_t n_found;
};

/* What net->refill and net->retry do. */
void pool_refill(struct timer *t);
void pool_retry(struct timer *t);

/* Starts a turn of what there is to do: unbinding, refilling, rules. */
void pool_kick(struct net *n);

/* The same, with something to put right. */
void pool_want(struct net *n, const struct upkeep *more);

/* An interface is gone. If it was the TAP of a slot, nobody is given that any more. */
void pool_lost(struct net *n, int ifindex);

/* What the operator is to run so that guests' packets pass; "" for nothing. Says so in the log. */
void net_note_firewall(struct net *n, const char *commands);

/* The bindings that the rules must know, of slots that the loop may read. The caller frees. */
struct binding *pool_bindings(struct net *n, size_t *n_out);

/* All that is in the pool goes, TAPs too. Blocks. */
void pool_empty(struct net *n);
