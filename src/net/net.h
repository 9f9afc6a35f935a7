/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network of this host's guests: who gets which address, and which TAP.
 *
 * An instance owns its outer address from its first claim to its end, through
 * stop, standby and restarts of the daemon. Its VMM has a slot (net/slot.h) as
 * long as it lives. Slots are made ahead of need and used again; a claim is
 * taking one off a list. Everything that talks to the kernel goes on beside, in
 * one job at a time, except what an operation's own job does for its slot
 * (net_bind()).
 *
 * Loop thread, except net_open() and net_start() (start-up, block), and
 * net_bind() (a worker's).
 */
#pragma once

#include <stdbool.h>

#include "loop/jobs.h"
#include "loop/loop.h"
#include "net/flows.h"
#include "net/slot.h"

struct net;

/*
 * Checks the settings and the host. ERR_INVALID: a setting cannot be, and which. On
 * a host that does not let us (no CAP_NET_ADMIN), and if so set, there is no
 * network, which is no error: net_is_on() says so, and net_why_off() why.
 */
struct net *net_open(struct loop *loop, const struct net_settings *settings, struct err *e);

bool net_is_on(const struct net *n);
const char *net_why_off(const struct net *n);

/*
 * There is none because this host does not let us, though one is wanted: a VMM that has a network
 * of its own may offer that. Any thread.
 */
bool net_leaves_it_to_vmm(const struct net *n);
const struct net_plan *net_plan(const struct net *n);

/*
 * At start, for each instance: its address, and the slot of a VMM that lives (NULL:
 * it has none). An address that cannot be had any more is false.
 */
bool net_adopt_address(struct net *n, uint32_t address);
struct net_slot *net_adopt_slot(struct net *n, uint32_t address, int pidfd);
void net_adopt_ports(struct net *n, struct net_slot *slot, const struct port_map *v, size_t count);

/* After that: the rules, the sweep of what belongs to nobody, and the pool begins to fill. */
int net_start(struct net *n, struct err *e);

/*
 * A slot for a VMM that is to be started; address is what its instance has, or 0
 * for a new one: slot->address is its own from now on. No system call.
 */
struct net_slot *net_claim(struct net *n, uint32_t address, struct err *e);

/* Ports of the host, for an instance (net/publish.h); until ports_give_back(). */
struct reservation *net_reserve(struct net *n, const char *owner, const struct port_map *v,
                                size_t count, struct err *e);

/* Worker: makes the claimed slot lead to its address, and slot->ports, which are set by then, to
 * it. Nothing to do for a new instance's without ports, as a rule. */
int net_bind(struct net *n, struct net_slot *slot, struct err *e);

/*
 * Worker: how fast the guest of a bound slot may take in and send out, in bytes a second; 0: no
 * limit. Also while packets flow.
 */
int net_limit(struct net *n, struct net_slot *slot, uint64_t download, uint64_t upload,
              struct err *e);

/* The operation that claimed it has succeeded: the slot is its VMM's, and the loop's to read. */
void net_settle(struct net *n, struct net_slot *slot);

/* The VMM is gone, or never came. NULL is fine. */
void net_release(struct net *n, struct net_slot *slot);

/* An instance's name leads guests to its address (net/names.h), until it is gone. */
void net_name(struct net *n, const char *id, const char *name, uint32_t address);
void net_unname(struct net *n, const char *id);

/* Whether guests are to ask the gateway for names; NULL: yes, else why not. Any thread. */
const char *net_why_no_names(const struct net *n);

/* Its TCP connections that are open. False: nobody knows, on this host or just yet. */
bool net_connections(const struct net *n, uint32_t address, struct flow_counts *out);

/* It has come to a stop: what it had open is nothing to who starts at that address next. */
void net_forget_connections(struct net *n, uint32_t address);

/* The instance is gone; 0 is fine. */
void net_give_back(struct net *n, uint32_t address);

/*
 * What the operator is to run, because somebody else's firewall drops what guests send
 * and receive; "" when nothing is in the way.
 */
const char *net_firewall_commands(const struct net *n);

struct net_counts {
    unsigned ready;     /* slots in the pool */
    unsigned claimed;   /* slots of VMMs */
    unsigned addresses; /* in use, by instances and slots */
    uint64_t repairs;
    uint64_t listings; /* of all connections */
};
struct net_counts net_counts(const struct net *n);
bool net_is_busy(const struct net *n); /* something is under way to the kernel, or about to be */

/*
 * Ends: slots of VMMs are left as they are, the pool is removed, and without a VMM all
 * that we made. Blocks for the last job. After it net_release() only frees.
 */
void net_stop(struct net *n);
void net_free(struct net *n); /* NULL is fine */
