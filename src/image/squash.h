/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a squashfs: entries go in as a tar stream, tar2sqfs makes the file.
 *
 * Worker threads: every call may wait, under the op given at the start, for the
 * program to take more. SIGPIPE must be blocked or ignored, as it is in workers.
 *
 * The file depends on the entries and nothing else: no time of the day, no
 * names of this host. Owners, modes and times (in whole seconds) are kept, and
 * of the extended attributes only file capabilities. Paths are relative to the
 * root, without "." and ".."; "" is the root itself.
 */
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <stddef.h>

#include "base/err.h"
#include "loop/op.h"

struct squash;

/* Starts tar2sqfs on a new file below dirfd. op, dirfd and name are borrowed until the end. */
struct squash *squash_begin(const struct op *op, int dirfd, const char *name, struct err *e);

/* Starts an entry with the attributes of "from", which may have any name of its own. */
int squash_entry(struct squash *s, const char *path, struct archive_entry *from, struct err *e);
int squash_data(struct squash *s, const void *data, size_t len, struct err *e); /* of a file */

/* A further name of a file that is an entry already. */
int squash_link(struct squash *s, const char *path, const char *first, struct err *e);

/* Ends the stream and waits until the file is whole and on disk. */
int squash_finish(struct squash *s, struct err *e);

/* Kills the program if it still runs. What there is of the file is the caller's to remove. */
void squash_free(struct squash *s);

/* The one extended attribute that images need. */
#define CAPABILITY_XATTR "security.capability"
