/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames from outside. The first byte says which side we are and in what pieces
 * the rest arrives; whatever the pieces, and with a pause behind each message,
 * the same must come of it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/jout.h"
#include "http/ws.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXT_MAX = 100, OUT_MAX = 1 << 20 };

struct reader {
    struct ws *ws;
    bool pauses;
    bool is_closed;
    struct buf seen;
};

static void tell(struct reader *r, char what, const void *data, size_t len)
{
    if (r->is_closed)
        abort(); /* nothing comes behind a close */
    buf_append(&r->seen, &what, 1);
    buf_append(&r->seen, data, len);
    if (r->pauses)
        ws_pause(r->ws);
}

static void on_binary(void *arg, const void *data, size_t len, bool is_first)
{
    struct reader *r = arg;

    if (len > WS_PIECE_MAX)
        abort();
    if (len == 0)
        tell(r, 'e', NULL, 0);
    if (is_first)
        tell(r, 'f', NULL, 0);
    for (size_t i = 0; i < len; i++) /* the pieces are nobody's business */
        tell(r, 'b', (const char *)data + i, 1);
}

static void on_text(void *arg, const char *text, size_t len)
{
    if (len > TEXT_MAX)
        abort();
    tell(arg, 't', text, len);
    for (size_t i = 0; i < len;) {
        size_t n = utf8_len((const unsigned char *)text + i, len - i);

        if (n == 0)
            abort();
        i += n;
    }
}

/* Not compared: the library judges a close's reason by the pieces it comes in. */
static void on_closed(void *arg, unsigned code)
{
    struct reader *r = arg;

    if (r->is_closed || code < WS_NORMAL)
        abort();
    r->is_closed = true;
}

static const struct ws_events events = {on_binary, on_text, on_closed};

static void read_all(struct reader *r, bool is_client, size_t step, const uint8_t *data,
                     size_t size)
{
    r->seen = BUF(16 << 20);
    r->ws = ws_new(is_client, TEXT_MAX, OUT_MAX, &events, r);
    while (size > 0) {
        size_t n = size < step ? size : step;
        size_t used = ws_feed(r->ws, data, n);

        if (used > n || (used < n && !ws_is_paused(r->ws)))
            abort();
        if (used == 0 && !ws_is_paused(r->ws))
            abort();
        ws_resume(r->ws);
        data += used;
        size -= used;
    }
    if (!buf_ok(ws_out(r->ws)) || ws_out(r->ws)->len > 2 * 4096 + OUT_MAX)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader whole = {0};
    struct reader parts = {.pauses = true};
    bool is_client;

    if (size == 0)
        return 0;
    is_client = data[0] & 1;
    read_all(&whole, is_client, size, data + 1, size - 1);
    read_all(&parts, is_client, (size_t)(data[0] >> 1) + 1, data + 1, size - 1);
    if (whole.seen.len != parts.seen.len ||
        memcmp(buf_str(&whole.seen), buf_str(&parts.seen), whole.seen.len) != 0)
        abort();
    ws_free(whole.ws);
    ws_free(parts.ws);
    buf_free(&whole.seen);
    buf_free(&parts.seen);
    return 0;
}
