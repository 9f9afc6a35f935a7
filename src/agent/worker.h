/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies and questions about files, each in a child that is a fork of the agent
 * and may block. Its stdin and stdout carry frames without a magic (wire/frame.h):
 * FRAME_DATA, FRAME_ZEROS, FRAME_ENTRY, FRAME_END_INPUT in; the same and one
 * FRAME_DONE, its last, out. The agent passes them on.
 */
#pragma once

#include <stdbool.h>

#include "agent/stream.h"

int worker_start(struct stream *st, const char *json, size_t len, struct err *e);

/* The work itself, for what has been read from and is written to fds (copy_in.c, copy_out.c).
 * They return when they have said FRAME_DONE. */
void copy_in(int in_fd, int out_fd, const char *root);
void copy_out(int out_fd, const char *path, bool follow_links);
void stat_path(int out_fd, const char *path, bool follow_links);

/* FRAME_DONE: how much was done, or why not. */
void worker_done(int out_fd, uint64_t bytes, int error, const struct err *e);
bool worker_write(int out_fd, const void *data, size_t len); /* all of it */
