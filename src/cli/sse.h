/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Server-sent events, as they come in. Only data counts: names, ids and
 * comments (which keep a connection alive) are passed over.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

enum { SSE_EVENT_MAX = 4 << 20 };

struct sse {
    struct buf line;
    struct buf event; /* the data lines of the event that is not complete */
    int (*on_event)(void *ctx, const char *data, size_t len, struct err *e);
    void *ctx;
};

void sse_init(struct sse *s,
              int (*on_event)(void *ctx, const char *data, size_t len, struct err *e), void *ctx);
void sse_fini(struct sse *s);
int sse_feed(struct sse *s, const char *data, size_t len, struct err *e);
