/* SPDX-License-Identifier: Apache-2.0 */
/*
 * WebSocket (RFC 6455) over buffers, for either side: bytes in, messages out, and back.
 *
 * The framing is libwslay's. What is added here: binary messages come in pieces,
 * so one of any length costs no more memory than a short one; a text message
 * comes whole and has a ceiling; reading can be paused in the middle. Pings are
 * answered, a broken rule is answered with the close code that the RFC names, and
 * nothing is read after it.
 *
 * Does no I/O and keeps no time; one thread. What is to be sent is in ws_out(),
 * which its user empties from the front. Callbacks come from within ws_feed()
 * only and may call everything but ws_free() and ws_feed().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct ws;

enum ws_kind { WS_TEXT = 1, WS_BINARY = 2 };

enum ws_code {
    WS_NORMAL = 1000,
    WS_GOING_AWAY = 1001,
    WS_NO_CODE = 1005,  /* the peer closed and gave none; never sent */
    WS_ABNORMAL = 1006, /* the connection ended without a close; never sent */
    WS_POLICY = 1008,
    WS_TOO_BIG = 1009,
    WS_INTERNAL = 1011,
};

enum {
    WS_PIECE_MAX = 32 * 1024, /* of a binary message, handed over at once */
    WS_AFTER_PAUSE = 4096,    /* the most bytes that are handed over after a pause */
};

struct ws_events {
    /* A piece of a binary message: its first one, or one more. len is 0 only for an empty message.
     */
    void (*binary)(void *arg, const void *data, size_t len, bool is_first);
    void (*text)(void *arg, const char *text, size_t len); /* valid UTF-8; may hold NULs */
    void (*closed)(void *arg, unsigned code);              /* the peer's close frame */
};

/* The events are borrowed. out_max: the most that may wait to be sent, control frames included. */
struct ws *ws_new(bool is_client, size_t text_max, size_t out_max, const struct ws_events *events,
                  void *arg);
void ws_free(struct ws *ws);

/* Takes bytes of the peer's, up to a pause; how many. After a close or a broken rule it takes and
 * drops everything. */
size_t ws_feed(struct ws *ws, const void *data, size_t len);
void ws_pause(struct ws *ws);
void ws_resume(struct ws *ws);
bool ws_is_paused(const struct ws *ws);

/* Each appends to ws_out(). After a close nothing more is appended. */
void ws_put(struct ws *ws, enum ws_kind kind, const void *data, size_t len);
void ws_ping(struct ws *ws);
void ws_close(struct ws *ws, enum ws_code code);
struct buf *ws_out(struct ws *ws);

bool ws_close_sent(const struct ws *ws);     /* by ws_close(), in answer to one, or for a fault */
bool ws_close_received(const struct ws *ws); /* nothing more will be handed over */

/* What a server answers a Sec-WebSocket-Key with. */
enum { WS_KEY_LEN = 24, WS_ACCEPT_SIZE = 29 };
void ws_accept_of(const char *key, char out[WS_ACCEPT_SIZE]);
bool ws_key_is_valid(const char *key); /* base64 of 16 bytes */
