/* SPDX-License-Identifier: Apache-2.0 */
#include "net/address.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"

enum { WORD = 64, RESERVED_FIRST = 2, RESERVED_LAST = 1 };

bool address_parse(const char *s, uint32_t *out)
{
    struct in_addr in;

    if (inet_pton(AF_INET, s, &in) != 1)
        return false;
    *out = ntohl(in.s_addr);
    return true;
}

const char *address_text(uint32_t address, char out[ADDRESS_TEXT_SIZE])
{
    (void)snprintf(out,
                   ADDRESS_TEXT_SIZE,
                   "%u.%u.%u.%u",
                   address >> 24,
                   address >> 16 & 255,
                   address >> 8 & 255,
                   address & 255);
    return out;
}

bool address_is_single(uint32_t address)
{
    return address >> 24 != 0 && address >> 28 < 14;
}

uint32_t subnet_mask(struct subnet s)
{
    return s.prefix == 0 ? 0 : UINT32_MAX << (32 - s.prefix);
}

bool subnet_parse(const char *s, struct subnet *out)
{
    const char *slash = strchr(s, '/');
    char address[ADDRESS_TEXT_SIZE];
    struct subnet n;
    uint64_t prefix;

    if (!slash || (size_t)(slash - s) >= sizeof(address) || !parse_u64(slash + 1, 0, 32, &prefix))
        return false;
    memcpy(address, s, (size_t)(slash - s));
    address[slash - s] = '\0';
    n.prefix = (uint8_t)prefix;
    if (!address_parse(address, &n.base) || (n.base & ~subnet_mask(n)) != 0)
        return false;
    *out = n;
    return true;
}

const char *subnet_text(struct subnet s, char out[SUBNET_TEXT_SIZE])
{
    char address[ADDRESS_TEXT_SIZE];

    (void)snprintf(out, SUBNET_TEXT_SIZE, "%s/%u", address_text(s.base, address), s.prefix);
    return out;
}

bool subnet_has(struct subnet s, uint32_t address)
{
    return (address & subnet_mask(s)) == s.base;
}

bool subnet_overlaps(struct subnet a, struct subnet b)
{
    return a.prefix < b.prefix ? subnet_has(a, b.base) : subnet_has(b, a.base);
}

static uint32_t size_of(struct subnet s)
{
    return 1U << (32 - s.prefix);
}

void addresses_init(struct addresses *a, struct subnet subnet)
{
    assert(subnet.prefix >= 8 && subnet.prefix <= 29);
    *a = (struct addresses){.subnet = subnet, .next = RESERVED_FIRST};
    a->taken = mem_zalloc((size_of(subnet) + WORD - 1) / WORD, sizeof(*a->taken));
}

void addresses_free(struct addresses *a)
{
    free(a->taken);
    *a = (struct addresses){0};
}

static bool is_taken(const struct addresses *a, uint32_t i)
{
    return a->taken[i / WORD] >> (i % WORD) & 1;
}

static void take(struct addresses *a, uint32_t i)
{
    a->taken[i / WORD] |= (uint64_t)1 << (i % WORD);
    a->n_taken++;
}

uint32_t addresses_take(struct addresses *a, struct err *e)
{
    uint32_t end = size_of(a->subnet) - RESERVED_LAST;
    char text[SUBNET_TEXT_SIZE];

    for (uint32_t tried = RESERVED_FIRST; tried < end; tried++) {
        uint32_t i = a->next;

        a->next = i + 1 < end ? i + 1 : RESERVED_FIRST;
        if (!is_taken(a, i)) {
            take(a, i);
            return a->subnet.base + i;
        }
    }
    err_set(e,
            ERR_LIMIT,
            "all addresses of %s are in use; remove instances, or set network.subnet_cidr to a "
            "larger range",
            subnet_text(a->subnet, text));
    err_slug(e, "no_address");
    return 0;
}

static bool is_ours(const struct addresses *a, uint32_t address)
{
    uint32_t i = address - a->subnet.base;

    return subnet_has(a->subnet, address) && i >= RESERVED_FIRST &&
           i < size_of(a->subnet) - RESERVED_LAST;
}

bool addresses_take_this(struct addresses *a, uint32_t address)
{
    if (!is_ours(a, address) || is_taken(a, address - a->subnet.base))
        return false;
    take(a, address - a->subnet.base);
    return true;
}

void addresses_give_back(struct addresses *a, uint32_t address)
{
    uint32_t i = address - a->subnet.base;

    if (!is_ours(a, address) || !is_taken(a, i))
        return;
    a->taken[i / WORD] &= ~((uint64_t)1 << (i % WORD));
    a->n_taken--;
}
