/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Learning that a file was written to, without asking: inotify on the loop.
 *
 * One inotify instance for the whole daemon (a user may have only 128). A watch is
 * on the file itself, not on its name: it goes on when the file's directory is
 * renamed or exchanged, and a new file of the same name is not followed. Several
 * watches may be on one file.
 *
 * Loop thread; nothing blocks.
 */
#pragma once

#include "base/err.h"
#include "base/map.h"
#include "loop/loop.h"

struct fswatcher;

struct fswatch {
    void (*fn)(struct fswatch *w); /* the file changed (again); may remove any watch */
    struct fsfile *file;           /* private */
    struct list link;
};

/* The loop's, made when first asked for. It goes with the loop, by when it has no watches. */
struct fswatcher *fswatcher_of(struct loop *loop, struct err *e);

/* fd is borrowed for the call. Changes before it are not reported: read after adding. */
int fswatch_add(struct fswatcher *fw, struct fswatch *w, int fd, struct err *e);
void fswatch_remove(struct fswatcher *fw, struct fswatch *w); /* fine on one that is not added */

/* Private: between the loop, which keeps it, and fswatch.c. */
struct fswatcher **loop_fswatcher(struct loop *loop);
void fswatcher_free(struct fswatcher *fw); /* NULL is fine */
