/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from one process to a child of its, through memory that both have: without
 * the two calls and two copies more that a pipe costs each of them, which is most of
 * what a copy costs where a guest is translated.
 *
 * The memory is mapped twice in a row, so what is in it is in one piece wherever it
 * begins. One process writes, the other reads; nobody waits in here. Who finds no
 * bytes, or no room, asks to be told, and the other then owes it a bell, which is
 * a byte through a pipe. Made before the fork; an end of the process ends its share.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct ring_state;

struct ring {
    struct ring_state *state; /* NULL: there is none */
    unsigned char *data;
    size_t size;
};

/* size: of two, and of pages. */
int ring_init(struct ring *r, size_t size, struct err *e);
void ring_free(struct ring *r);
void ring_keep_from_children(const struct ring *r); /* that are still to be born */

/* The writer. */
unsigned char *ring_room(const struct ring *r, size_t *room_out);
void ring_put(struct ring *r, size_t n);
size_t ring_write(struct ring *r, const void *data, size_t len); /* how much there was room for */
bool ring_wants_bell_for_bytes(struct ring *r);   /* true once: the bell is the caller's to ring */
bool ring_ask_for_room(struct ring *r, size_t n); /* false: there is room */

/* The reader. */
unsigned char *ring_bytes(const struct ring *r, size_t *have_out);
void ring_take(struct ring *r, size_t n);
bool ring_wants_bell_for_room(struct ring *r);
bool ring_ask_for_bytes(struct ring *r, size_t n); /* false: so many are there */
