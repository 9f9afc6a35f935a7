/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CLI's own HTTP client: one request a connection, over a unix socket or plain TCP.
 *
 * libcurl would bring 33 shared objects and about 4 ms to every command, for
 * TLS and proxies that a local socket has no use for. What it does here is
 * connect, send, and hand the answer to the parser of response.h.
 *
 * Everything blocks, within the op it is given; name look-up alone has the
 * resolver's own limits. While it waits the progress line is kept moving.
 * Single-threaded, as the CLI is.
 */
#pragma once

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "cli/response.h"
#include "loop/op.h"

struct client {
    char *where; /* for messages: the socket's path or the URL */
    char *host;  /* NULL for a unix socket, whose path is "where" */
    char *port;
    char *prefix; /* the URL's path without a slash at its end */
    char *token;  /* NULL for none */
};

/* base_url NULL means the socket. The texts are copied and checked. */
int client_init(struct client *c, const char *base_url, const char *socket_path, const char *token,
                struct err *e);
void client_fini(struct client *c);

struct exchange {
    int fd;
    struct response response;
    struct buf in; /* received, not parsed yet */
};
#define EXCHANGE ((struct exchange){.fd = -1})
#define auto_exchange __attribute__((cleanup(exchange_fini)))

void exchange_fini(struct exchange *x);

struct client_request {
    const char *method;
    const char *path;          /* encoded already, with its query */
    const char *body;          /* JSON, or NULL for none */
    const char *websocket_key; /* of a request to become a WebSocket; else NULL */
};

/* op_wait() that wakes up for the progress line, if there is one. */
int client_wait(const struct op *op, int fd, short events, struct err *e);

int client_send(const struct op *op, const struct client *c, struct exchange *x,
                const struct client_request *request, struct err *e);

/* Reads the head: status and is_event_stream are valid afterwards. */
int client_head(const struct op *op, struct exchange *x, struct err *e);

/* Reads on to the end of the body. */
int client_body(const struct op *op, struct exchange *x, const struct response_sink *sink,
                struct err *e);
