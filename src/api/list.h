/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rows of the table as one buffer of JSON, made when it is needed and kept until
 * a row changes.
 *
 * Each row's text is kept by the table (vm/events.h); a list copies them one after
 * another, once a revision, and lends the same buffer to everybody who asks, by
 * reference count. Two numbers a row go on while nothing changes (the milliseconds
 * in the present state, the time of the last observation). They are written over in
 * place, each at its fixed width, unless the buffer is just being sent to somebody:
 * then one that is at most STALE_US behind is lent as it is, and else a new one is made.
 *
 * Loop thread; nothing blocks, and no system call is made.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vm/instance.h"

struct list_view {
    unsigned refs;
    uint64_t revision;
    int64_t as_of_us; /* wall clock: the numbers that go on */
    size_t len;
    char *json; /* a whole array */
    size_t n;
    struct list_place {
        const struct instance *row; /* good while the revision is the table's */
        char id[ID_SIZE];
        uint32_t at; /* of the row in json, and its length */
        uint32_t len;
        int64_t observed_us; /* as it stands there */
    } * places;
};

struct lists {
    struct list_view *whole; /* of all rows; NULL until somebody asks */
};

/* Which rows; a NULL passes means all of them. */
struct list_choice {
    bool (*passes)(const void *arg, const struct instance *row);
    const void *arg;
    const char *after; /* by_id: the id before the first row; NULL: from the beginning */
    size_t limit;      /* 0: none */
    bool by_id;        /* in the order of ids, else of creation */
};

/* A reference, up to date; NULL and ERR_LIMIT when the lists that are being sent fill the memory.
 */
struct list_view *list_take(struct lists *l, const struct instance_table *t, struct err *e);
struct list_view *list_choose(const struct instance_table *t, const struct list_choice *choice,
                              struct err *e);
void list_release(struct list_view *v); /* NULL is fine */
void lists_free(struct lists *l);
