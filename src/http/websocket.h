/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request that becomes a WebSocket: the server's side, on the loop.
 *
 * Loop thread only; nothing blocks. The owner closes what it was given with
 * websocket_close(), exactly once, also after closed() was called; what was sent
 * before goes out first, then the close code. No callback comes after that.
 * Callbacks come from the loop, never from within a function of this header,
 * and may call any of them.
 *
 * Back-pressure: websocket_send() always takes, and says whether there is room
 * for more; an owner that sends on regardless may pass WEBSOCKET_HIGH by
 * WEBSOCKET_SLACK, then the connection is cut. websocket_pause() stops reading,
 * and so, in the end, the client.
 *
 * A silent client is pinged, which also keeps proxies on the way awake. One that
 * is not heard of for a quarter of an hour is cut: that long, because the official
 * Go clients read, and so answer, only once they have sent all they have, and
 * because a vanished host is noticed by the kernel after two minutes anyway. One
 * that merely does not read what it is sent is left alone.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "http/server.h"
#include "http/ws.h"

struct websocket;

enum {
    WEBSOCKET_TEXT_MAX = 1024 * 1024, /* a longer text message ends the connection with 1009 */
    WEBSOCKET_HIGH = 256 * 1024,      /* bytes waiting for the client, from where on it is full */
    WEBSOCKET_SLACK = 1024 * 1024,
};

struct websocket_events {
    /* Bytes of binary messages, wherever one ends; len is 0 only for an empty one. Texts are whole.
     * After a pause at most WS_AFTER_PAUSE bytes more come. */
    void (*binary)(void *owner, const void *data, size_t len);
    void (*text)(void *owner, const char *text, size_t len);
    void (*drained)(void *owner); /* there is room again, after a send that said there was none */
    void (*hangup)(void *owner);  /* paused, and the client has gone; may be NULL */
    void (*closed)(void *owner);  /* by the client, or the connection is dead; once */
};

/*
 * Answers 101 and takes the request, or returns NULL: ERR_INVALID, what of the
 * handshake is wrong (http_add_header() has then told the version), ERR_CANCELLED;
 * then the request is still to be answered. The events are borrowed.
 */
struct websocket *websocket_accept(struct http_request *req, const struct websocket_events *events,
                                   void *owner, struct err *e);

/* False: full, stop until drained(). After the client has gone nothing is taken, and it is true. */
bool websocket_send(struct websocket *w, enum ws_kind kind, const void *data, size_t len);

void websocket_pause(struct websocket *w);
void websocket_resume(struct websocket *w);
void websocket_close(struct websocket *w, enum ws_code code);
