/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The records that survive: SQLite in WAL mode, synchronous=FULL, one writer.
 *
 * One thread owns the connection. It takes every change that is waiting, applies
 * each in a savepoint of its own, commits them together (one fsync for all), and
 * then tells each caller. A change that fails (a name that is taken) is rolled
 * back alone. Reading happens once, at start: afterwards the table in memory is
 * what is read.
 *
 * What we promise goes through store_commit(): it returns when the change is
 * durable. What we observe goes through store_post(), which never waits; its
 * result comes back to the loop. Both keep the order in which they were called.
 *
 * A commit that fails as a whole (disk full, input/output error) fails every
 * change of its batch with that reason; the next one finds a working store.
 * Only one process may have a data directory open; the daemon's lock sees to it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/id.h"
#include "loop/loop.h"
#include "loop/op.h"

struct store;
struct store_change; /* writes that become durable together or not at all */

/*
 * Opens or makes hypeman.db (0600) below the directory, checks it, migrates it. A database of a
 * newer hypeman is ERR_UNSUPPORTED. Blocks: start-up only.
 */
struct store *store_open(int data_dirfd, struct err *e);

/* Applies what is queued, then closes. Blocks. Callbacks that are due are posted to their loop. */
void store_close(struct store *store);

struct store_change *store_change_new(void);
void store_change_free(
    struct store_change *change); /* one that was not handed over; NULL is fine */

/*
 * Any thread that may block, so never the loop's: it waits for an fsync, and up
 * to a minute where another program holds the database. Takes the change.
 * ERR_EXISTS for a name that is taken, ERR_NOT_FOUND for a state without its
 * instance, ERR_NO_SPACE for a full disk. Not cancellable once queued: the answer
 * to "was it written" is always yes or no; op's deadline does not apply here.
 */
int store_commit(struct store *store, struct store_change *change, struct err *e);

/*
 * The same in two halves, for who has something to do meanwhile: store_begin() takes its place
 * in the order and does not wait; store_await(), once for each, does, and frees the change.
 * ended_us: when it was durable (CLOCK_MONOTONIC); NULL: never mind.
 */
void store_begin(struct store *store, struct store_change *change);
int store_await(struct store_change *change, int64_t *ended_us, struct err *e);

/*
 * Any thread; returns at once. Takes the change. done runs on the loop, and may
 * be NULL together with loop: a failure then goes to the log.
 */
struct store_done {
    void (*fn)(struct store_done *done, const struct err *result); /* frees what embeds it */
    struct post post;                                              /* private */
    struct err err;                                                /* private */
};
void store_post(struct store *store, struct loop *loop, struct store_change *change,
                struct store_done *done);

/* --- instances: store/instances.c --- */

/* Opaque here: the vm layer writes and reads the documents. All borrowed. */
struct instance_record {
    const char *id;
    const char *name;
    const char *spec;  /* JSON: what the client asked for */
    const char *state; /* JSON: what became of it */
};

void instances_put(struct store_change *c, const struct instance_record *r); /* insert or replace */
void instances_put_state(struct store_change *c, const char *id, const char *state);
void instances_delete(struct store_change *c, const char *id);

/*
 * In order of creation. Start-up only; fn returns -1 to stop with its error. It
 * may store_post(), not store_commit().
 */
int store_each_instance(struct store *store,
                        int (*fn)(void *arg, const struct instance_record *r, struct err *e),
                        void *arg, struct err *e);

/* --- images: store/images.c --- */

struct image_record {
    const char *name;   /* normalised reference */
    const char *digest; /* "sha256:..." of the content */
    const char *doc;    /* JSON: the image layer's document */
};

void images_put(struct store_change *c, const struct image_record *r);
void images_delete(struct store_change *c, const char *name);
int store_each_image(struct store *store,
                     int (*fn)(void *arg, const struct image_record *r, struct err *e), void *arg,
                     struct err *e);

/* --- meta: store/meta.c: single numbers that must never go back --- */
void meta_put(struct store_change *c, const char *key, int64_t value); /* keeps the greater one */
int store_meta(struct store *store, const char *key, int64_t otherwise, int64_t *out,
               struct err *e);
