/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A WebSocket to the daemon, over the connection of client.h.
 *
 * wsock_io() does what can be done without waiting; wsock_step() waits first, and
 * blocks within its op. Messages come through the events (http/ws.h) from within
 * those two. The daemon's end of the connection is no error here: is_over says so.
 */
#pragma once

#include <stdbool.h>

#include "cli/client.h"
#include "http/ws.h"

struct wsock {
    struct exchange x;
    struct ws *ws;
    bool is_over; /* nothing more comes, and nothing is sent any more */
};
#define WSOCK ((struct wsock){.x = EXCHANGE})
#define auto_wsock __attribute__((cleanup(wsock_fini)))

/* Connects and shakes hands. An error that the daemon answers with is the session's. */
int wsock_open(const struct op *op, struct wsock *s, const char *path,
               const struct ws_events *events, void *arg, struct err *e);
void wsock_fini(struct wsock *s);

short wsock_wants(const struct wsock *s); /* events to poll its x.fd for */
int wsock_io(struct wsock *s, struct err *e);
int wsock_step(const struct op *op, struct wsock *s, struct err *e);

/* Writes out what came. A pipe's reader may be slow: waiting for it can be interrupted. */
int output_put(const struct op *op, int fd, const char *data, size_t len, struct err *e);

/* Sends what is queued, at least until no more than left bytes of it wait; or until it is over. */
int wsock_drain(const struct op *op, struct wsock *s, size_t left, struct err *e);
