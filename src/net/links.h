/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interfaces, routes and neighbours of guests: messages for a batch (net/netlink.h), and what is
 * there.
 *
 * A TAP of ours is known by its kind, its name and its alias, which is the outer
 * address that it stands for: so what an earlier daemon left explains itself.
 * Routes carry a protocol number of our own.
 *
 * Workers and start-up.
 */
#pragma once

#include <net/if.h>

#include "net/netlink.h"
#include "net/plan.h"

enum { NET_ROUTE_PROTOCOL = 104 }; /* 'h'; not in iproute2's list */

/* A new TAP: hardware address, settings, up. Before the rest. */
void link_prepare(struct nl *n, int ifindex);

/*
 * The outer address leads to this TAP, wherever it led before, and the TAP says so.
 * Its permanent neighbours are the inner address, since the destination is rewritten before the
 * kernel looks up whose hardware address to use, and the outer one: a route whose path MTU was
 * learnt looks up its own.
 */
void link_bind(struct nl *n, const struct net_plan *plan, int ifindex, uint32_t address);
void link_unbind(struct nl *n, int ifindex, uint32_t address);

/* Only the route, which others' changes may take away. */
void link_route(struct nl *n, const struct net_plan *plan, int ifindex, uint32_t address);

/* The gateway's address on the loopback interface. */
void link_gateway(struct nl *n, const struct net_plan *plan, bool present);

/* What is for an outer address that no guest has goes nowhere, rather than out by the uplink. */
void link_subnet(struct nl *n, const struct net_plan *plan, bool present);

/* All of them at once: one by one each costs the kernel 20 ms. */
void links_delete(struct nl *n, const int *ifindexes, size_t count);

struct tap_link {
    char name[IFNAMSIZ];
    int ifindex;
    uint32_t address; /* from its alias; 0: none */
    bool has_carrier; /* somebody has its file open */
};

/* What an event says of a TAP of ours that is bound: somebody brought it down, or changed its
 * hardware address. Its routes and its neighbour went with that. */
bool link_is_disturbed(const struct nlmsghdr *h);

/* The TAPs of ours that there are. The caller frees *out. */
int links_list(struct tap_link **out, size_t *n_out, struct err *e);

/* The interface by which uploads are limited (net/rate.h), up; fine if it is there, or is not. */
void link_make_upload(struct nl *n, const char *name);
void link_delete_upload(struct nl *n, const char *name);
int links_list_upload(struct tap_link **out, size_t *n_out, struct err *e);

/* What the host's routes say: who the default one leads through, and whether one is in our way. */
struct host_routes {
    char uplink[IFNAMSIZ];      /* of the default route; empty: there is none */
    struct subnet overlap;      /* a route of somebody else that overlaps the outer subnet */
    char overlap_dev[IFNAMSIZ]; /* empty: no such route */
};
int routes_read(const struct net_plan *plan, struct host_routes *out, struct err *e);
