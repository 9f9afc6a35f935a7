/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An instance's part of the network (net/net.h): its address, for as long as it is
 * there, and a slot for each VMM that it has.
 *
 * All is nothing, and succeeds, for an instance without a network, and where this
 * host has none to offer.
 */
#pragma once

#include "net/flows.h"
#include "vm/op.h"

/* Loop: a slot for the VMM that the op's job is to start; op->run.address is the instance's. */
/* And its ports of the host. */
int network_claim(struct vm_world *w, struct instance *row, struct vm_op *op, struct err *e);

/* Worker: before the VMM is started. span is what a trace calls it. */
int network_bind(const struct vm_op *op, const char *span, struct err *e);

/* Worker: the rates that the op's spec asks for, on a slot whose VMM may run. */
int network_limit(const struct vm_op *op, struct net_slot *slot, struct err *e);

/*
 * Worker: around the start of a VMM that opens its TAP by name (net/slot.h); the second also
 * when nothing came of it, once op->started says so. Nothing to do for others.
 */
int network_leave_tap(const struct vm_op *op, struct err *e);
void network_return_tap(const struct vm_op *op);

/* Loop: the op is over; what nobody took from it goes back. */
void network_let_go(struct vm_op *op);

/* Loop: the slot is the running VMM's. NULL is fine. */
struct net_slot *network_hand_over(struct vm_world *w, struct vm_op *op);

/* Loop: its name leads to its address, as long as it is there. */
void network_name(struct vm_world *w, struct instance *row);
void network_unname(struct vm_world *w, const struct instance *row);

/* Loop: if it has come to a stop, or is gone, its ports of the host go back, and its connections
 * are over. */
void network_settle(struct vm_world *w, struct instance *row, bool is_gone);

/* Loop: its connections; false: nobody knows. */
bool network_connections(const struct vm_world *w, const struct instance *row,
                         struct flow_counts *out);

/* Start-up: an address from the store, and what a VMM that lives holds. */
void network_adopt_address(struct vm_world *w, struct instance *row);
void network_adopt_ports(struct vm_world *w, struct instance *row);
struct net_slot *network_adopt_slot(struct vm_world *w, const struct instance *row, int pidfd);

/* The VMM's own network serves, for want of ours; NULL: it does not. */
const struct net_plan *network_of_vmm(const struct vm_op *op);

/* What the guest is told when it boots. */
struct spec_network network_of_guest(const struct vm_op *op);
