/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tar archives as they pass by: entries and content, fed as they come.
 *
 * libarchive pulls its input and waits for it; on the loop nothing may wait, so
 * this stands beside it. Read are v7, ustar, pax and GNU; written is GNU's form,
 * whose names are bytes of any kind and length. Devices, pipes and sockets are
 * passed over. Sparse files are refused by name, as is a path with ".." in it, also one
 * that a hard link leads to: what cannot be carried must not be left out in silence.
 *
 * Pure functions over bytes from outside; one thread; memory is bounded by the
 * longest names.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/entry.h"

enum { TAR_BLOCK = 512 };

struct tar_sink {
    bool (*entry)(void *arg, const struct guest_entry *entry); /* false: no room, offer it again */
    size_t (*data)(void *arg, const void *data, size_t len);   /* how much was taken */
};

struct tar_reader;

struct tar_reader *tar_reader_new(const struct tar_sink *sink, void *arg);
void tar_reader_free(struct tar_reader *r);

/*
 * How many bytes were used: fewer than given when the sink has no room. -1 when
 * it is no archive, or one that cannot be carried. What follows the end of the
 * archive is used and dropped. Paths, and those that hard links lead to, have no "/" in front and
 * no "." in them.
 */
ssize_t tar_feed(struct tar_reader *r, const void *data, size_t len, struct err *e);

/* The input is over: whether the archive was. */
int tar_reader_finish(const struct tar_reader *r, struct err *e);

/* Appends the header of an entry. Its content follows, then tar_put_padding() for its size. */
void tar_put_entry(struct buf *out, const struct guest_entry *entry);
void tar_put_padding(struct buf *out, uint64_t size);
void tar_put_end(struct buf *out);
