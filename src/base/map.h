/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hash map from text to objects that embed their own link.
 *
 * The map borrows the key, which lives in the object and must not change while
 * it is linked. Not locked: one thread owns a map. Keys come from clients, so
 * the hash is seeded per process.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

struct map_link {
    struct map_link *next;
    const char *key;
    uint64_t hash;
};

struct map {
    struct map_link **buckets;
    size_t n_buckets;
    size_t n;
};

void map_put(struct map *m, struct map_link *l, const char *key); /* the key must be new */
void map_remove(struct map *m, struct map_link *l);
struct map_link *map_find(const struct map *m, const char *key);
void map_free(struct map *m); /* frees the buckets; the objects are the owner's */
