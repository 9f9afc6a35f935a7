/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/first_names.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct first_name {
    struct map_link link;
    struct first_name *next;
    char key[2 * 16 + 2]; /* device and inode */
    char path[];
};

const char *first_name(struct first_names *names, const struct stat *st, const char *path)
{
    char key[sizeof(((struct first_name *)0)->key)];
    size_t size = sizeof(struct first_name) + strlen(path) + 1;
    struct map_link *known;
    struct first_name *n;

    if (!S_ISREG(st->st_mode) || st->st_nlink < 2)
        return NULL;
    (void)snprintf(
        key, sizeof(key), "%" PRIx64 ":%" PRIx64, (uint64_t)st->st_dev, (uint64_t)st->st_ino);
    known = map_find(&names->map, key);
    if (known)
        return container_of(known, struct first_name, link)->path;
    if (names->bytes + size > FIRST_NAMES_MAX)
        return NULL;
    names->bytes += size;
    n = mem_zalloc(1, size);
    memcpy(n->key, key, sizeof(key));
    memcpy(n->path, path, strlen(path) + 1);
    n->next = names->all;
    names->all = n;
    map_put(&names->map, &n->link, n->key);
    return NULL;
}

void first_names_free(struct first_names *names)
{
    while (names->all) {
        struct first_name *n = names->all;

        names->all = n->next;
        free(n);
    }
    map_free(&names->map);
}
