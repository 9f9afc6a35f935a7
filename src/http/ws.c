/* SPDX-License-Identifier: Apache-2.0 */
#include "http/ws.h"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <wslay/wslay.h>

#include "base/mem.h"

struct ws {
    wslay_event_context_ptr wslay;
    const struct ws_events *events;
    void *arg;
    struct buf out;

    /* While bytes are fed. */
    const char *in;
    size_t in_len;

    struct buf piece; /* of a binary message, not handed over yet */
    struct buf text;  /* of a text message */
    enum ws_kind kind;
    bool is_control; /* the present frame is */
    bool is_first;   /* nothing of the present message has been handed over */
    bool is_paused;
};

/* --- what libwslay asks for --- */

static ssize_t give(wslay_event_context_ptr ctx, uint8_t *to, size_t room, int flags, void *arg)
{
    struct ws *ws = arg;
    size_t n = ws->in_len < room ? ws->in_len : room;

    (void)flags;
    if (n == 0 || ws->is_paused) {
        wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    memcpy(to, ws->in, n);
    ws->in += n;
    ws->in_len -= n;
    return (ssize_t)n;
}

static ssize_t take(wslay_event_context_ptr ctx, const uint8_t *data, size_t len, int flags,
                    void *arg)
{
    struct ws *ws = arg;

    (void)ctx, (void)flags;
    buf_append(&ws->out, data, len);
    return (ssize_t)len;
}

static int draw_mask(wslay_event_context_ptr ctx, uint8_t *to, size_t len, void *arg)
{
    (void)ctx, (void)arg;
    if (getrandom(to, len, 0) != (ssize_t)len)
        abort();
    return 0;
}

/* Puts what is queued into the buffer; the order of the calls is that of the bytes. */
static void flush(struct ws *ws)
{
    (void)wslay_event_send(ws->wslay); /* fails only for want of memory, or after a close */
}

/* --- messages --- */

static void hand_over(struct ws *ws)
{
    bool is_first = ws->is_first;

    if (ws->piece.len == 0)
        return;
    ws->is_first = false;
    ws->events->binary(ws->arg, ws->piece.data, ws->piece.len, is_first);
    buf_reset(&ws->piece);
}

static void frame_begins(wslay_event_context_ptr ctx,
                         const struct wslay_event_on_frame_recv_start_arg *frame, void *arg)
{
    struct ws *ws = arg;

    (void)ctx;
    ws->is_control = wslay_is_ctrl_frame(frame->opcode);
    if (frame->opcode == WSLAY_TEXT_FRAME || frame->opcode == WSLAY_BINARY_FRAME) {
        ws->kind = frame->opcode == WSLAY_TEXT_FRAME ? WS_TEXT : WS_BINARY;
        ws->is_first = true;
    }
}

static void frame_part(wslay_event_context_ptr ctx,
                       const struct wslay_event_on_frame_recv_chunk_arg *part, void *arg)
{
    struct ws *ws = arg;

    (void)ctx;
    if (ws->is_control || part->data_length == 0)
        return;
    if (ws->kind == WS_BINARY) {
        if (ws->piece.len + part->data_length > WS_PIECE_MAX)
            hand_over(ws);
        buf_append(&ws->piece, part->data, part->data_length);
        return;
    }
    buf_append(&ws->text, part->data, part->data_length);
    if (!buf_ok(&ws->text)) {
        wslay_event_shutdown_read(ws->wslay);
        ws_close(ws, WS_TOO_BIG);
    }
}

static void message_ends(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *msg,
                         void *arg)
{
    struct ws *ws = arg;

    if (msg->opcode == WSLAY_CONNECTION_CLOSE) {
        ws->events->closed(ws->arg, wslay_event_get_status_code_received(ctx));
    } else if (msg->opcode == WSLAY_TEXT_FRAME && buf_ok(&ws->text)) {
        ws->events->text(ws->arg, buf_str(&ws->text), ws->text.len);
        buf_free(&ws->text);
    } else if (msg->opcode == WSLAY_BINARY_FRAME) {
        if (ws->is_first && ws->piece.len == 0)
            ws->events->binary(ws->arg, "", 0, true);
        hand_over(ws);
    }
}

/* --- for its user --- */

struct ws *ws_new(bool is_client, size_t text_max, size_t out_max, const struct ws_events *events,
                  void *arg)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = give,
        .send_callback = take,
        .genmask_callback = draw_mask,
        .on_frame_recv_start_callback = frame_begins,
        .on_frame_recv_chunk_callback = frame_part,
        .on_msg_recv_callback = message_ends,
    };
    struct ws *ws = mem_new(struct ws);

    ws->events = events;
    ws->arg = arg;
    ws->out = BUF(out_max);
    ws->piece = BUF(WS_PIECE_MAX);
    ws->text = BUF(text_max);
    if ((is_client ? wslay_event_context_client_init
                   : wslay_event_context_server_init)(&ws->wslay, &callbacks, ws) != 0)
        abort(); /* only for want of memory */
    wslay_event_config_set_no_buffering(ws->wslay, 1);
    wslay_event_config_set_max_recv_msg_length(ws->wslay, INT64_MAX); /* pieces cost the same */
    return ws;
}

void ws_free(struct ws *ws)
{
    if (!ws)
        return;
    wslay_event_context_free(ws->wslay);
    buf_free(&ws->out);
    buf_free(&ws->piece);
    buf_free(&ws->text);
    free(ws);
}

size_t ws_feed(struct ws *ws, const void *data, size_t len)
{
    ws->in = data;
    ws->in_len = len;
    (void)wslay_event_recv(ws->wslay); /* a broken rule has queued its close code */
    flush(ws);
    hand_over(ws);
    if (ws->piece.cap > 0)
        buf_free(&ws->piece);
    if (!wslay_event_get_read_enabled(ws->wslay))
        return len;
    return len - ws->in_len;
}

void ws_pause(struct ws *ws)
{
    ws->is_paused = true;
}

void ws_resume(struct ws *ws)
{
    ws->is_paused = false;
}

bool ws_is_paused(const struct ws *ws)
{
    return ws->is_paused;
}

void ws_put(struct ws *ws, enum ws_kind kind, const void *data, size_t len)
{
    const struct wslay_event_msg msg = {
        kind == WS_TEXT ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME, data, len};

    (void)wslay_event_queue_msg(ws->wslay, &msg); /* refused after a close */
    flush(ws);
}

void ws_ping(struct ws *ws)
{
    const struct wslay_event_msg msg = {.opcode = WSLAY_PING};

    (void)wslay_event_queue_msg(ws->wslay, &msg);
    flush(ws);
}

void ws_close(struct ws *ws, enum ws_code code)
{
    (void)wslay_event_queue_close(ws->wslay, (uint16_t)code, NULL, 0);
    flush(ws);
}

struct buf *ws_out(struct ws *ws)
{
    return &ws->out;
}

bool ws_close_sent(const struct ws *ws)
{
    return wslay_event_get_close_sent(ws->wslay);
}

bool ws_close_received(const struct ws *ws)
{
    return wslay_event_get_close_received(ws->wslay) || !wslay_event_get_read_enabled(ws->wslay);
}

/* --- the handshake's key --- */

void ws_accept_of(const char *key, char out[WS_ACCEPT_SIZE])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* RFC 6455, 1.3 */
    unsigned char text[WS_KEY_LEN + sizeof(guid) - 1];
    unsigned char digest[SHA_DIGEST_LENGTH];

    memcpy(text, key, WS_KEY_LEN);
    memcpy(text + WS_KEY_LEN, guid, sizeof(guid) - 1);
    SHA1(text, sizeof(text), digest);
    EVP_EncodeBlock((unsigned char *)out, digest, sizeof(digest));
}

bool ws_key_is_valid(const char *key)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    return strlen(key) == WS_KEY_LEN && strspn(key, digits) == WS_KEY_LEN - 2 &&
           strcmp(key + WS_KEY_LEN - 2, "==") == 0;
}
