/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IPv4 addresses as numbers in host byte order, and the outer ones given out of a subnet.
 *
 * An address is unique by construction: a bit in a map. The search goes round, so
 * one that became free is given out again as late as possible, when nobody
 * remembers who had it. The first two (the network's own, and the one that
 * upstream's clients take for a gateway) and the last (broadcast) are never given.
 *
 * Belongs to one thread; nothing blocks.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct subnet {
    uint32_t base;
    uint8_t prefix;
};

enum { ADDRESS_TEXT_SIZE = 16, SUBNET_TEXT_SIZE = 20 };

bool address_parse(const char *s, uint32_t *out);
const char *address_text(uint32_t address, char out[ADDRESS_TEXT_SIZE]);

/* It can be one host's: neither of many, nor reserved. */
bool address_is_single(uint32_t address);

/* "10.100.0.0/16"; bits beyond the prefix must be zero. */
bool subnet_parse(const char *s, struct subnet *out);
const char *subnet_text(struct subnet s, char out[SUBNET_TEXT_SIZE]);
uint32_t subnet_mask(struct subnet s);
bool subnet_has(struct subnet s, uint32_t address);
bool subnet_overlaps(struct subnet a, struct subnet b);

struct addresses {
    struct subnet subnet;
    uint64_t *taken; /* a bit an address */
    uint32_t next;   /* where the search goes on */
    uint32_t n_taken;
};

void addresses_init(struct addresses *a, struct subnet subnet); /* prefix 8 to 29 */
void addresses_free(struct addresses *a);

uint32_t addresses_take(struct addresses *a, struct err *e);     /* 0 and ERR_LIMIT: none is left */
bool addresses_take_this(struct addresses *a, uint32_t address); /* false: not ours to give */
void addresses_give_back(struct addresses *a, uint32_t address); /* 0 and strangers are fine */
