/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP server: libmicrohttpd in external epoll mode, on the loop.
 *
 * Every listener is a daemon of its own, whose epoll fd is nested in ours. A
 * complete request (head and body, within its limit) is given to one handler,
 * once. The handler answers at once or keeps the request and answers later;
 * a request that is kept learns when its client goes away. A stream is an
 * answer without an end: server-sent events.
 *
 * All of it belongs to the loop thread and never blocks. What the library is
 * lenient about (two lengths, odd framing, bad bytes in the head) is refused
 * here, before the handler.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"
#include "loop/loop.h"

struct http_server;
struct http_request;
struct http_stream;

struct http_handler {
    /* The request is borrowed until the answer; http_keep() is not needed, see http_reply(). */
    void (*handle)(void *ctx, struct http_request *req);

    /* Called with the head only: the most bytes of body this route takes. */
    size_t (*body_limit)(void *ctx, const char *method, const char *path);

    void *ctx;
};

struct http_server *http_server_new(struct loop *loop, const struct http_handler *handler);

/* "127.0.0.1", "::1" or "localhost"; "8080", or "0" for any; *port_out may be NULL. */
int http_listen_tcp(struct http_server *s, const char *address, const char *port, int *port_out,
                    struct err *e);

/*
 * Replaces a socket that nobody listens on any more; ERR_EXISTS if another
 * daemon does. group may be NULL; one that the system does not have is logged.
 */
int http_listen_unix(struct http_server *s, const char *path, mode_t mode, const char *group,
                     struct err *e);

/*
 * Stops accepting, and lets go of clients that are between requests. What has
 * begun goes on: kept requests may be answered, streams written and closed, and
 * each connection closes after that.
 */
void http_server_stop(struct http_server *s);
unsigned http_server_open(const struct http_server *s); /* requests that are not finished */

/*
 * Ends what is left. Those who keep a request or a stream are told by gone(),
 * from in here; no request may be used afterwards, while a stream is closed by
 * its owner as ever. Not from within a callback of this module.
 */
void http_server_free(struct http_server *s);

/* --- the request --- */
const char *http_method(const struct http_request *req);
const char *http_path(const struct http_request *req); /* as sent, %XX not decoded, no query */
const char *http_query(const struct http_request *req, const char *key); /* decoded, or NULL */
void http_each_query(struct http_request *req,
                     void (*fn)(void *arg, const char *key, const char *value), void *arg);
const char *http_header(const struct http_request *req, const char *name);
const struct buf *http_body(const struct http_request *req);

struct http_peer {
    bool is_unix;
    uid_t uid; /* by SO_PEERCRED, for a unix socket */
    gid_t gid;
    pid_t pid;
};
struct http_peer http_peer(const struct http_request *req);

/* Whether the peer of a unix socket is in a group, by its primary one or another. */
bool http_peer_in_group(const struct http_request *req, gid_t group);

/* --- the answer: exactly one of these for every request, now or later --- */

/* Adds a header to the answer to come. */
void http_add_header(struct http_request *req, const char *name, const char *value);

/* Sends and lets go of the request: it may not be used afterwards. Takes the body's content, which
 * may be NULL for none; one that has failed becomes a 500. */
void http_reply(struct http_request *req, int status, const char *content_type, struct buf *body);

/* The same from memory that is shared; release(arg) once it is sent or dropped. */
struct http_shared {
    const char *data;
    size_t len;
    void (*release)(void *arg);
    void *arg;
};
void http_reply_shared(struct http_request *req, int status, const char *content_type,
                       const struct http_shared *body);

/* When a kept request's client goes away, or closes its sending half; the request must still be
 * answered (which then sends nothing). NULL to be no longer told. */
void http_on_gone(struct http_request *req, void (*gone)(void *arg), void *arg);

/*
 * An answer that goes on. Takes the request. The stream is closed by
 * http_stream_close(), also after gone() was called. What is written while the
 * client does not read is kept up to max_buffered bytes; a write that passes
 * that takes nothing and fails (-1), and drained() is called when half of it is
 * free again. gone() is called at most once, and not after the close. Either
 * may be NULL.
 */
struct http_stream_events {
    void (*gone)(void *arg);
    void (*drained)(void *arg);
    void *arg;
};
struct http_stream *http_stream_open(struct http_request *req, const char *content_type,
                                     size_t max_buffered, const struct http_stream_events *events);
int http_stream_write(struct http_stream *stream, const void *data, size_t len);
void http_stream_close(struct http_stream *stream); /* after what is buffered has gone out */
