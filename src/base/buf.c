/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ckd.h"
#include "base/mem.h"

/* Makes room for len more bytes and a NUL. False when that passes the ceiling. */
static bool buf_reserve(struct buf *b, size_t len)
{
    size_t need;
    size_t cap;

    if (b->failed)
        return false;
    if (ckd_add(&need, b->len, len) || need > b->max) {
        b->failed = true;
        return false;
    }
    if (need < b->cap)
        return true;

    cap = b->cap ? b->cap : 128;
    while (cap <= need)
        cap = cap > b->max / 2 ? b->max + 1 : cap * 2;
    b->data = mem_realloc(b->data, cap);
    b->cap = cap;
    return true;
}

char *buf_space(struct buf *b, size_t len)
{
    return buf_reserve(b, len) ? b->data + b->len : NULL;
}

void buf_added(struct buf *b, size_t len)
{
    assert(len < b->cap - b->len);
    b->len += len;
    b->data[b->len] = '\0';
}

void buf_append(struct buf *b, const void *data, size_t len)
{
    if (len == 0 || !buf_reserve(b, len))
        return;
    memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
}

void buf_puts(struct buf *b, const char *s)
{
    buf_append(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_list again;
    int n;

    va_start(ap, fmt);
    va_copy(again, ap);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        b->failed = true;
    else if (n > 0 && buf_reserve(b, (size_t)n)) {
        (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

void buf_consume(struct buf *b, size_t len)
{
    assert(len <= b->len);
    if (len == 0)
        return;
    b->len -= len;
    memmove(b->data, b->data + len, b->len + 1);
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = BUF(b->max);
}
