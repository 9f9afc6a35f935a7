/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel's conntrack knows of guests' TCP connections, by netlink.
 *
 * A guest's packet has its outer address by the time conntrack sees it, and one to a guest
 * still has: so a connection's first source and the source of its answers name the guests,
 * whatever was rewritten in between (masquerade, published ports).
 */
#pragma once

#include "net/address.h"
#include "net/flows.h"
#include "net/netlink.h"

/* A socket that is told of changes. Loop. ERR_UNSUPPORTED: this host has that turned off. */
int conntrack_follow(struct err *e);

/* One message of a socket or a dump; false: it is about nothing of a guest's. Any thread. */
bool conntrack_read(const struct nlmsghdr *h, struct subnet guests, struct flow_news *out);

/* Workers. All that there are; the caller frees *out. About 10 ms, however few there are. */
int conntrack_list(struct subnet guests, struct flow_news **out, size_t *n_out, struct err *e);

/* A connection's ends as its request or its answers have them: which is CTA_TUPLE_ORIG or _REPLY.
 */
void conntrack_put_tuple(struct nlmsghdr *h, uint16_t which, const struct flow_key *k);

/* Workers. They are as if they had never been: what still comes of them is looked at anew. */
int conntrack_forget(const struct flow_key *v, size_t n, struct err *e);
