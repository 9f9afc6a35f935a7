/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writable disks: raw files with an ext4 file system, sparse.
 *
 * mke2fs runs once per size, into a template; a new disk is a copy of the
 * template's data (a reflink where the file system has them, else its few hundred
 * KiB). lazy_itable_init is off, or the guest would fill in the inode tables and
 * inflate the disk. Worker threads: all of it may block.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "loop/op.h"

int overlay_create(const struct op *op, int templates_fd, uint64_t bytes, int dir_fd,
                   const char *name, struct err *e);

/* Whether the directory's file system shares blocks between files (asked with this file). */
bool overlay_can_share(int file_fd, int to_dir_fd);

/*
 * Makes a copy of an earlier moment, if there is one by that name, the file as it is now:
 * reads both and writes what differs, which is quicker than to write all. Without one
 * it is sparse_copy().
 */
int sparse_update(int from_fd, int to_dir_fd, const char *name, mode_t mode, struct err *e);

/* Copies a sparse file by what it holds: shares the blocks where it can. Not synced: see
 * file_sync(). */
int sparse_copy(int from_fd, int to_dir_fd, const char *name, mode_t mode, struct err *e);
