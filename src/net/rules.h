/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our nftables tables: "ip hypeman", "ip hypeman_ports", "arp hypeman", "ip6 hypeman", and nobody
 * else's.
 *
 * They are written as text, which is what an operator sees, and replaced as a whole
 * in one transaction, so at no moment a guest is without rules. What nft's syntax
 * cannot say (the address inside an ICMP error) follows in a second transaction,
 * and so do elements of the map on the hot path: both by libnftnl.
 *
 * Each part of the text has a file of its own and is listed in rules.c.
 *
 * Workers and start-up; rules_apply() and rules_remove() by one thread at a time
 * (libnftables has no locks).
 */
#pragma once

#include <stddef.h>

#include "base/list.h"
#include "net/netlink.h"
#include "net/plan.h"

#define RULES_TABLE "hypeman"
#define RULES_OPENED "forwarding_was_off"      /* a set, of the interface where it was */
#define RULES_PORTS_TABLE RULES_TABLE "_ports" /* begins like the others: see net/watch.c */

/* A TAP, and the outer address that it stands for. */
struct binding {
    char tap[IFNAMSIZ];
    int ifindex;
    uint32_t address;
};

/* What the tables are to say. Everything is borrowed. */
struct rules_input {
    const struct net_plan *plan;
    const char *uplink; /* as it is now; empty: guests reach nothing outside */
    const char *opened; /* the interface that began to forward for us; empty: none */
    const struct binding *bindings;
    size_t n_bindings;
    const struct list *open_ports; /* of struct port_set (net/publish.h) */
};

/* One part: whole tables, as text for nft. Each begins by removing its own tables. */
typedef void rules_part(struct buf *out, const struct rules_input *in);

rules_part rules_mapping; /* mapping.c: inner and outer addresses, who may speak to whom */

/* Puts all tables in place, or in place of what is there. */
int rules_apply(const struct rules_input *in, struct err *e);
int rules_remove(struct err *e);

/* What an earlier daemon's tables say of where it began to forward; "" for nowhere. */
void rules_read_opened(char out[IFNAMSIZ]);

/* Runs nft's language. rules_ask() gives what it prints, as JSON. */
int rules_run(const char *text, struct err *e);
int rules_ask(const char *text, struct buf *out, struct err *e);

/* An element of a map, for a transaction; type is NFT_MSG_NEWSETELEM or NFT_MSG_DELSETELEM. */
struct rules_element {
    const char *table;
    const char *set;
    const void *key;
    size_t key_len;
    const void *data;
    size_t data_len;
};
void rules_put_element(struct nl *n, uint16_t type, const struct rules_element *x);

/* Messages for a transaction: this TAP stands for address now, and no more for before (0: none). */
void rules_bind(struct nl *n, const char *tap, uint32_t before, uint32_t address);
void rules_unbind(struct nl *n, const char *tap, uint32_t before);

/* "table X Y" that is there or not, removed. For a part's beginning. */
void rules_clear_table(struct buf *out, const char *family, const char *name);
