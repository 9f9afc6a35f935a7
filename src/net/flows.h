/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The TCP connections of guests that are open, by guest: a table that is told of each
 * change, and now and then of all there are.
 *
 * What was listed may be older than what was told meanwhile. So, while a listing is under
 * way, whatever was told counts more than what the list says, and the end of a connection
 * is remembered until the listing is over.
 *
 * Knows nothing of where the news come from (net/conntrack.h). One thread's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As the one that opened it sees it; addresses and ports in the host's byte order. */
struct flow_key {
    uint32_t from, to;
    uint16_t from_port, to_port;
};

struct flow_news {
    struct flow_key key;
    uint32_t guests[2]; /* who opened it, and to whom it leads; 0: not a guest */
    bool is_open;
    bool is_new; /* nothing has answered yet */
};

/* By who opened them. */
struct flow_counts {
    unsigned inbound, outbound;
};

struct flows;
struct flows *flows_new(void);
void flows_free(struct flows *f); /* NULL is fine */

/* It has changed just now. */
void flows_tell(struct flows *f, const struct flow_news *news);

/* Between these two: all that there are, in parts. What is in none of them is gone. */
void flows_list_begin(struct flows *f);
void flows_list(struct flows *f, const struct flow_news *v, size_t n);
void flows_list_end(struct flows *f);

struct flow_counts flows_of(const struct flows *f, uint32_t guest);

/* So many are known from a list alone: nothing was ever told of them. */
size_t flows_untold(const struct flows *f);

/* The keys of a guest's, or only of those to it that it has not answered. The caller frees; NULL:
 * it has none. */
enum flows_which { FLOWS_ALL, FLOWS_UNANSWERED };
struct flow_key *flows_keys(const struct flows *f, uint32_t guest, enum flows_which which,
                            size_t *n_out);
