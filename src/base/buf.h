/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growing byte buffer with a hard ceiling and a sticky failure.
 *
 * Appending never reports an error on the spot. Passing the ceiling marks the
 * buffer failed, further appends do nothing, and the one caller that sends the
 * result asks buf_ok() once. The content is always NUL-terminated.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *data;
    size_t len;
    size_t cap;
    size_t max; /* the most bytes this buffer may ever hold */
    bool failed;
};

#define BUF(limit) ((struct buf){.max = (limit)})
#define auto_buf __attribute__((cleanup(buf_free)))

void buf_append(struct buf *b, const void *data, size_t len);
void buf_puts(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Room for len bytes at the end, to read into, or NULL past the ceiling; buf_added() counts them.
 */
char *buf_space(struct buf *b, size_t len);
void buf_added(struct buf *b, size_t len);

void buf_consume(struct buf *b, size_t len); /* drops bytes from the front */
void buf_reset(struct buf *b);
void buf_free(struct buf *b);

static inline bool buf_ok(const struct buf *b)
{
    return !b->failed;
}

static inline const char *buf_str(const struct buf *b)
{
    return b->data ? b->data : "";
}
