/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading an HTTP/1.1 answer as it comes in.
 *
 * The parser owns no socket and never blocks: bytes go in, in whatever pieces,
 * and body bytes come out through the sink. It is strict where leniency would
 * let two readers disagree about where an answer ends (two lengths, odd chunk
 * sizes, a bare line feed in the head). Answers 1xx are passed over.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"

enum { RESPONSE_HEAD_MAX = 16384, RESPONSE_ACCEPT_SIZE = 32 };

struct response {
    int status; /* valid once has_head */
    bool has_head;
    bool is_done;
    bool is_event_stream;
    bool may_switch; /* set before the first byte: 101 is an answer, which ends with its head */
    char accept[RESPONSE_ACCEPT_SIZE]; /* Sec-WebSocket-Accept, or "" */

    /* The parser's own. */
    enum response_state {
        RESPONSE_STATUS,
        RESPONSE_HEADERS,
        RESPONSE_BODY,       /* "left" bytes of a body with a length */
        RESPONSE_CHUNK_SIZE, /* the line in front of a chunk */
        RESPONSE_CHUNK,      /* "left" bytes of one */
        RESPONSE_CHUNK_END,  /* the empty line behind it */
        RESPONSE_TRAILERS,
        RESPONSE_REST, /* a body that ends with the connection */
    } state;
    struct buf line;
    size_t head_len; /* of all lines so far; a ceiling holds for their sum */
    uint64_t left;
    bool has_length;
    bool is_chunked;
};

struct response_sink {
    int (*data)(void *ctx, const char *data, size_t len, struct err *e);
    void *ctx;
};

void response_init(struct response *r);
void response_fini(struct response *r);

/*
 * Takes bytes and returns how many it used, or -1. It stops where the head
 * ends, so that the caller can look at it before the first body byte, and where
 * the answer ends. Call it until it used everything or is_done. sink may be
 * NULL as long as there is no head.
 */
ssize_t response_feed(struct response *r, const char *data, size_t len,
                      const struct response_sink *sink, struct err *e);

/* The connection was closed: complete, or an error. */
int response_eof(const struct response *r, struct err *e);
