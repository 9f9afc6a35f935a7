/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/sse.h"

#include <string.h>

void sse_init(struct sse *s,
              int (*on_event)(void *ctx, const char *data, size_t len, struct err *e), void *ctx)
{
    *s = (struct sse){BUF(SSE_EVENT_MAX), BUF(SSE_EVENT_MAX), on_event, ctx};
}

void sse_fini(struct sse *s)
{
    buf_free(&s->line);
    buf_free(&s->event);
}

static int take_line(struct sse *s, const char *line, size_t len, struct err *e)
{
    int rc = 0;

    if (len > 0 && line[len - 1] == '\r')
        len--;
    if (len >= 5 && memcmp(line, "data:", 5) == 0) {
        size_t skip = len > 5 && line[5] == ' ' ? 6 : 5;

        buf_append(&s->event, line + skip, len - skip);
        buf_puts(&s->event, "\n"); /* what joins the lines; the last one's is dropped below */
    } else if (len == 0 && s->event.len > 0) {
        rc = s->on_event(s->ctx, s->event.data, s->event.len - 1, e);
        buf_reset(&s->event);
    }
    return rc;
}

int sse_feed(struct sse *s, const char *data, size_t len, struct err *e)
{
    while (len > 0) {
        const char *lf = memchr(data, '\n', len);
        size_t n = lf ? (size_t)(lf - data) : len;

        buf_append(&s->line, data, n);
        if (lf && take_line(s, buf_str(&s->line), s->line.len, e) < 0)
            return -1;
        if (!buf_ok(&s->line) || !buf_ok(&s->event))
            return err_set(e, ERR_TOO_LARGE, "an event is longer than %d bytes", SSE_EVENT_MAX);
        if (lf)
            buf_reset(&s->line);
        data += n + (lf != NULL);
        len -= n + (lf != NULL);
    }
    return 0;
}
