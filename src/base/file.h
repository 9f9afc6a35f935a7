/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole files, and directories that go or stay as one.
 *
 * All of these may block on the disk: workers and start-up only. Paths are
 * relative to a directory fd of ours; names come from our own code.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"

/* Reads all of it into out, whose ceiling is the limit. */
int file_read(int dirfd, const char *name, struct buf *out, struct err *e);

/* Writes all of it, at the fd's position; short writes are continued. */
int file_write_all(int fd, const void *data, size_t len, struct err *e);

/* Temporary file, write, fsync, rename, fsync of the directory: whole or as before. */
int file_replace(int dirfd, const char *name, mode_t mode, const void *data, size_t len,
                 struct err *e);

/* What was written to it is on the disk; its name may not be: that takes dir_sync(). */
int file_sync(int dirfd, const char *name, struct err *e);

/* Removes a tree, never following a link out of it. Absent is fine. */
int tree_remove(int dirfd, const char *name, struct err *e);
int dir_clear(int dirfd, struct err *e); /* what is in it */

/* mkdir that accepts an existing directory. */
int dir_ensure(int dirfd, const char *name, mode_t mode, struct err *e);

int dir_open(int dirfd, const char *name, struct err *e); /* an O_RDONLY directory fd */
int dir_sync(int dirfd, struct err *e);
