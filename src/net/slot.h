/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slot: a TAP, and the outer address that leads to it.
 *
 * It belongs to the pool, or to whoever claimed it (net/net.h), and to one thread
 * at a time: like a job it is lent to a worker and comes back.
 *
 * The functions here are for workers: they are a batch of messages to the kernel.
 */
#pragma once

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/list.h"
#include "loop/op.h"
#include "net/netlink.h"
#include "net/plan.h"
#include "net/publish.h"
#include "net/stats.h"

struct net_slot {
    char tap[IFNAMSIZ];
    int ifindex;             /* 0: its TAP is still to be made */
    int fd;                  /* -1: only its VMM has the file; the TAP ends with it */
    uint32_t bound;          /* the address that leads to it; 0: none */
    uint32_t left;           /* the address that led to it before, since it was unbound */
    uint32_t address;        /* the address that is to lead to it */
    struct port_set *ports;  /* that lead to it while its VMM runs; NULL: none */
    struct tap_stats before; /* counted before its present VMM got it */
    bool is_limited;         /* rates were set (net/rate.h) */
    bool is_lent;            /* an operation's job has it: nobody else may read it */
    uint64_t claimed_at;     /* private to the pool: the rules' epoch then */
    struct list link;        /* of the pool */
};

struct net_slot *slot_new(uint32_t address);
void slot_free(struct net_slot *s); /* closes the file; NULL is fine */

/* What the functions below work with. Any thread may use it. */
struct slot_tools {
    const struct net_plan *plan;
    struct nl_park parked;
    struct open_ports ports;
};

/* Makes TAPs that are not there, and has each slot's address lead to it, and no other. */
int slots_bind(struct slot_tools *tools, struct net_slot *const *v, size_t n, struct err *e);

/*
 * For a VMM that opens the TAP by its name: nobody holds it from the first to the second, which
 * takes it back from the process that did open it, or, with pidfd -1, from nobody. What cannot
 * be had back ends with its VMM's slot.
 */
int slot_leave(const struct op *op, struct net_slot *s, struct err *e);
void slot_return(struct net_slot *s, int pidfd);

/* Opens a bound slot's ports. */
int slot_publish(struct slot_tools *tools, struct net_slot *s, struct err *e);

/* No address and no port leads to them any more, nothing waits in them, no rate limits them. */
int slots_unbind(struct slot_tools *tools, struct net_slot *const *v, size_t n, struct err *e);

/* Unbinds them and removes their TAPs, all at once. */
int slots_delete(struct slot_tools *tools, struct net_slot *const *v, size_t n, struct err *e);
