/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/mem.h"

static uint64_t seed;

static void draw_seed(void)
{
    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        abort();
}

/* FNV-1a over a random start, finished with a multiply-shift so that low bits depend on all. */
static uint64_t hash_of(const char *key)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    uint64_t h;

    (void)pthread_once(&once, draw_seed);
    h = seed ^ 0xcbf29ce484222325U;
    for (; *key; key++)
        __builtin_mul_overflow(h ^ (unsigned char)*key, 0x100000001b3U, &h);
    h ^= h >> 32;
    __builtin_mul_overflow(h, 0x9e3779b97f4a7c15U, &h);
    return h ^ (h >> 29);
}

static void grow(struct map *m)
{
    size_t n_buckets = m->n_buckets ? m->n_buckets * 2 : 64;
    struct map_link **buckets = mem_zalloc(n_buckets, sizeof(struct map_link *));

    for (size_t i = 0; i < m->n_buckets; i++) {
        struct map_link *l = m->buckets[i];

        while (l) {
            struct map_link *next = l->next;

            l->next = buckets[l->hash & (n_buckets - 1)];
            buckets[l->hash & (n_buckets - 1)] = l;
            l = next;
        }
    }
    free(m->buckets);
    m->buckets = buckets;
    m->n_buckets = n_buckets;
}

void map_put(struct map *m, struct map_link *l, const char *key)
{
    assert(!map_find(m, key));
    if (m->n >= m->n_buckets)
        grow(m);
    l->key = key;
    l->hash = hash_of(key);
    l->next = m->buckets[l->hash & (m->n_buckets - 1)];
    m->buckets[l->hash & (m->n_buckets - 1)] = l;
    m->n++;
}

void map_remove(struct map *m, struct map_link *l)
{
    struct map_link **at = &m->buckets[l->hash & (m->n_buckets - 1)];

    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    l->next = NULL;
    l->key = NULL;
    m->n--;
}

struct map_link *map_find(const struct map *m, const char *key)
{
    uint64_t h;

    if (m->n == 0)
        return NULL;
    h = hash_of(key);
    for (struct map_link *l = m->buckets[h & (m->n_buckets - 1)]; l; l = l->next) {
        if (l->hash == h && strcmp(l->key, key) == 0)
            return l;
    }
    return NULL;
}

void map_free(struct map *m)
{
    free(m->buckets);
    *m = (struct map){0};
}
