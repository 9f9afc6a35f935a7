/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ceiling on what a guest's console and its VMM may fill the disk with.
 *
 * The VMM writes its logs itself and for as long as it lives, so they cannot be
 * rotated under it. When one grows past the ceiling, its head is given back to
 * the disk by punching a hole: no line of the rest is lost, and the writer's
 * offset goes on. A log that nobody writes to costs nothing: it is looked at only
 * after inotify has said that it grew, and at most once a second.
 *
 * Loop thread; the punching is a job.
 */
#pragma once

#include "vm/world.h"

enum {
    LOG_CEILING = 50 * 1024 * 1024,
    LOG_KEPT = LOG_CEILING / 2,
    LOG_EVENTS_CEILING = 128 * 1024, /* of VMM_EVENTS_LOG */
};

struct log_limit;

/* dir_fd is borrowed for the call. What cannot be watched is said in the daemon's log. */
struct log_limit *log_limit_new(struct vm_world *w, const char *id, int dir_fd);
void log_limit_free(struct log_limit *l); /* NULL is fine */
