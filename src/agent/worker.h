/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies and questions about files, each in a child that is a fork of the agent
 * and may block. It is told and tells frames without a magic or a stream
 * (wire/frame.h) through a ring each way (ring.h), whose bells are its stdin and
 * stdout: FRAME_DATA, FRAME_ZEROS, FRAME_ENTRY, FRAME_END_INPUT in; the same and one
 * FRAME_DONE, its last, out. The agent passes them on.
 */
#pragma once

#include <stdbool.h>

#include "agent/stream.h"

int worker_start(struct stream *st, const char *json, size_t len, struct err *e);

enum {
    BYTES_A_BELL = 256 * 1024,     /* sooner only when it is due: at the end, or for room */
    RING_LOW = WINDOW_OF_COPY / 2, /* from where on a worker rings, if it was asked for room */
};

/* The child's side. */
struct worker {
    struct ring in;
    struct ring out;
    size_t in_hand; /* bytes of the frame that worker_next() gave last */
    size_t unsaid;  /* that went out without a bell */
};

/* A frame, which is there until the next call, or -1 when no more come. */
int worker_next(struct worker *w, struct frame *out, struct err *e);

/* Where a frame of at most len bytes with its header goes; waits for the room. NULL: nobody reads.
 */
unsigned char *worker_room(struct worker *w, size_t len);
void worker_put(struct worker *w, size_t len); /* what was written there */
bool worker_say(struct worker *w, const struct buf *frame);

/* FRAME_DONE: how much was done, or why not. */
void worker_done(struct worker *w, uint64_t bytes, int error, const struct err *e);

/* The work itself (copy_in.c, copy_out.c). They return when they have said FRAME_DONE. */
void copy_in(struct worker *w, const char *root);
void copy_out(struct worker *w, const char *path, bool follow_links, bool hard_links);
void stat_path(struct worker *w, const char *path, bool follow_links);
