/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers as a daemon, or whatever stands in its place, may send them. However
 * the bytes are cut into pieces, the result must be the same. The body goes on
 * into the event parser, under the same condition.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "cli/response.h"
#include "cli/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct result {
    int status;
    bool is_done;
    bool is_event_stream;
    enum err_code failed;
    struct buf body;
    struct buf events;
    struct sse sse;
};

static int take_event(void *ctx, const char *data, size_t len, struct err *e)
{
    struct result *r = ctx;

    (void)e;
    buf_append(&r->events, data, len);
    buf_puts(&r->events, "|");
    return 0;
}

static int take_body(void *ctx, const char *data, size_t len, struct err *e)
{
    struct result *r = ctx;

    if (len == 0)
        abort(); /* an empty piece would look like an end to some */
    buf_append(&r->body, data, len);
    return sse_feed(&r->sse, data, len, e);
}

static void parse(struct result *r, const char *data, size_t size, size_t piece)
{
    struct response parser;
    const struct response_sink sink = {take_body, r};
    struct err e = {0};
    size_t used = 0;

    *r = (struct result){.body = BUF(1 << 20), .events = BUF(1 << 20)};
    sse_init(&r->sse, take_event, r);
    response_init(&parser);
    while (used < size && !parser.is_done) {
        size_t n = size - used < piece ? size - used : piece;
        ssize_t taken = response_feed(&parser, data + used, n, &sink, &e);

        if (taken < 0)
            break;
        if (taken == 0 || (size_t)taken > n)
            abort(); /* no progress, or more than there is */
        used += (size_t)taken;
    }
    if (!e.code)
        (void)response_eof(&parser, &e);
    r->status = parser.has_head ? parser.status : 0;
    r->is_done = parser.is_done;
    r->is_event_stream = parser.is_event_stream;
    r->failed = e.code;
    response_fini(&parser);
    sse_fini(&r->sse);
}

static bool same_text(const struct buf *a, const struct buf *b)
{
    return a->len == b->len && strcmp(buf_str(a), buf_str(b)) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t pieces[] = {1, 7};
    struct result whole;

    parse(&whole, (const char *)data, size, SIZE_MAX);
    if (whole.status && (whole.status < 200 || whole.status > 599))
        abort();
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        struct result cut;

        parse(&cut, (const char *)data, size, pieces[i]);
        if (cut.status != whole.status || cut.is_done != whole.is_done ||
            cut.is_event_stream != whole.is_event_stream || cut.failed != whole.failed)
            abort();
        /* What came before an error may differ in pieces; a good answer may not. */
        if (!whole.failed &&
            (!same_text(&cut.body, &whole.body) || !same_text(&cut.events, &whole.events)))
            abort();
        buf_free(&cut.body);
        buf_free(&cut.events);
    }
    buf_free(&whole.body);
    buf_free(&whole.events);
    return 0;
}
