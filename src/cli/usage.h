/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What instances use, as "stats" and "top" show it: two looks at the counters and
 * the time between them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "loop/op.h"

struct usage {
    char name[64];
    char state[16];
    double cpu_s;       /* since the instance's process began */
    double cpu_percent; /* of one CPU since the last look; 0 at the first */
    uint64_t memory_bytes;
    uint64_t allocated_bytes;
    uint64_t received_bytes;
    uint64_t sent_bytes;
};

struct usages {
    struct usage *all;
    size_t n;
    int64_t at_us;
};
#define auto_usages __attribute__((cleanup(usages_free)))
void usages_free(struct usages *u);

/*
 * Looks at those that are named, or at all that have a process. Those that were
 * there at the last look (NULL: none) have their share of a CPU since then.
 */
int usages_look(struct usages *out, const struct usages *last, int n, char **names, struct err *e);

/* "12.3MiB" */
enum { AMOUNT_SIZE = 16 };
const char *amount_text(uint64_t bytes, char out[AMOUNT_SIZE]);
