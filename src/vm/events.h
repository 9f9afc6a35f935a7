/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal of changes: every change of a row that is shown has a revision, and the
 * last ones are kept with what the row looked like then.
 *
 * Revisions strictly increase and none is given twice, also across a crash: they are
 * reserved in the store a block at a time, before the first of the block is given.
 * A daemon that ends in order leaves its journal in a file, so that its successor
 * goes on with the same numbers and who follows can resume; after a crash, or when
 * too much has happened, who asks for an older revision learns that it is too old.
 *
 * Who follows holds no queue of its own: the journal is the queue, and a follower
 * that is slower than it is long starts anew.
 *
 * Loop thread, except journal_open() and journal_save(), which block: before the loop
 * runs, and after it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/id.h"
#include "base/list.h"

struct loop;
struct store;

/*
 * A row's JSON as it is shown, immutable and shared by reference count. Two numbers
 * in it change while the row does not, and have places of fixed width, so that
 * who copies it can bring them up to date (api/instance_view.c).
 */
struct row_text {
    unsigned refs;
    uint32_t len;
    uint32_t phase_at;    /* of the milliseconds in the present state */
    uint32_t observed_at; /* of the time when the state was last learned or confirmed */
    char json[];
};

struct row_text *row_text_new(const char *json, size_t len); /* copies; one reference */
struct row_text *row_text_ref(struct row_text *t);
void row_text_unref(struct row_text *t); /* NULL is fine */

enum event_kind { EVENT_CREATED, EVENT_UPDATED, EVENT_DELETED };
const char *event_kind_name(enum event_kind k); /* "updated" */

struct event {
    uint64_t revision;
    enum event_kind kind;
    char id[ID_SIZE];
    struct row_text *row; /* NULL with DELETED */
};

/* Told after every change. */
struct follower {
    void (*fn)(struct follower *f); /* may unfollow itself, nobody else */
    struct list link;
};

enum { JOURNAL_ENTRIES = 4096, JOURNAL_BYTES = 2 << 20 };

struct journal {
    uint64_t revision; /* the newest */
    uint64_t oldest;   /* kept; revision + 1 when none is */
    uint64_t reserved; /* the last that may be given */
    bool is_open;      /* until then, revisions are counted and nothing is kept */
    bool is_reserving;
    struct event *ring; /* JOURNAL_ENTRIES of them, made with the first */
    size_t bytes;
    struct list followers;
    struct store *store;
    struct loop *loop;
};

void journal_init(struct journal *j);
void journal_free(struct journal *j);

/* Reserves the first block, and takes over what the daemon before left. */
int journal_open(struct journal *j, struct store *store, struct loop *loop, int data_fd,
                 struct err *e);
int journal_save(const struct journal *j, int data_fd, struct err *e);

/* Takes the reference of row, which is NULL with DELETED. Tells who follows. */
void journal_add(struct journal *j, enum event_kind kind, const char *id, struct row_text *row);

/* NULL: it is not kept any more, or not there yet. */
const struct event *journal_at(const struct journal *j, uint64_t revision);

/* Whether all that came after this revision is still kept. */
bool journal_reaches(const struct journal *j, uint64_t revision);

void journal_follow(struct journal *j, struct follower *f);
void journal_unfollow(struct follower *f); /* fine on one that does not follow any more */
