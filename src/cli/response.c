/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/response.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/parse.h"

enum { LINE_MAX_LEN = RESPONSE_HEAD_MAX };

void response_init(struct response *r)
{
    *r = (struct response){.line = BUF(LINE_MAX_LEN)};
}

void response_fini(struct response *r)
{
    buf_free(&r->line);
}

static int bad(struct err *e, const char *what)
{
    return err_set(e, ERR_INTERNAL, "not an HTTP answer: %s", what);
}

static int status_line(struct response *r, const char *line, struct err *e)
{
    char digits[4] = "";
    uint64_t status;

    if (strncmp(line, "HTTP/1.1 ", 9) != 0 && strncmp(line, "HTTP/1.0 ", 9) != 0)
        return bad(e, "no status line");
    memcpy(digits, line + 9, strnlen(line + 9, 3));
    if (!parse_u64(digits, 100, 599, &status) || (line[12] && line[12] != ' '))
        return bad(e, "no status");
    r->status = (int)status;
    r->state = RESPONSE_HEADERS;
    return 0;
}

static int header(struct response *r, char *line, struct err *e)
{
    char *value = strchr(line, ':');
    uint64_t length;

    if (!value || value == line)
        return bad(e, "a header without a name");
    *value++ = '\0';
    value += strspn(value, " \t");
    for (size_t n = strlen(value); n > 0 && (value[n - 1] == ' ' || value[n - 1] == '\t');)
        value[--n] = '\0';
    if (strcasecmp(line, "Content-Length") == 0) {
        if (r->has_length || !parse_u64(value, 0, INT64_MAX, &length))
            return bad(e, "a bad Content-Length");
        r->has_length = true;
        r->left = length;
    } else if (strcasecmp(line, "Transfer-Encoding") == 0) {
        if (r->is_chunked || strcasecmp(value, "chunked") != 0)
            return bad(e, "an unknown Transfer-Encoding");
        r->is_chunked = true;
    } else if (strcasecmp(line, "Content-Type") == 0)
        r->is_event_stream = strncasecmp(value, "text/event-stream", 17) == 0;
    else if (strcasecmp(line, "Sec-WebSocket-Accept") == 0)
        (void)snprintf(r->accept, sizeof(r->accept), "%s", value);
    return 0;
}

/* What follows the empty line of the head. */
static int head_end(struct response *r, struct err *e)
{
    if (r->status == 101 && r->may_switch) {
        r->has_head = r->is_done = true;
        return 0;
    }
    if (r->status < 200) {
        if (r->status == 101 || r->has_length || r->is_chunked)
            return bad(e, "a bad interim answer");
        r->state = RESPONSE_STATUS;
        return 0;
    }
    if (r->has_length && r->is_chunked)
        return bad(e, "two lengths");
    r->has_head = true;
    if (r->status == 204 || r->status == 304)
        r->is_done = true;
    else if (r->is_chunked)
        r->state = RESPONSE_CHUNK_SIZE;
    else if (!r->has_length)
        r->state = RESPONSE_REST;
    else {
        r->state = RESPONSE_BODY;
        r->is_done = r->left == 0;
    }
    return 0;
}

static int chunk_size(struct response *r, const char *line, struct err *e)
{
    static const char hex[] = "0123456789abcdef0123456789ABCDEF";
    uint64_t size = 0;
    size_t n = 0;

    for (; line[n] && strchr(hex, line[n]); n++) {
        if (n == 15)
            return bad(e, "a chunk beyond all measure");
        size = size << 4 | (uint64_t)((strchr(hex, line[n]) - hex) & 15);
    }
    if (n == 0 || (line[n] && line[n] != ';' && line[n] != ' '))
        return bad(e, "a bad chunk size");
    r->head_len = 0; /* a stream may have any number of these lines */
    r->left = size;
    r->state = size ? RESPONSE_CHUNK : RESPONSE_TRAILERS;
    return 0;
}

static int one_line(struct response *r, char *line, struct err *e)
{
    switch (r->state) {
    case RESPONSE_STATUS:
        return status_line(r, line, e);
    case RESPONSE_HEADERS:
        return *line ? header(r, line, e) : head_end(r, e);
    case RESPONSE_CHUNK_SIZE:
        return chunk_size(r, line, e);
    case RESPONSE_CHUNK_END:
        r->state = RESPONSE_CHUNK_SIZE;
        return *line ? bad(e, "a chunk longer than it said") : 0;
    case RESPONSE_TRAILERS:
        r->is_done = *line == '\0';
        return 0;
    case RESPONSE_BODY:
    case RESPONSE_CHUNK:
    case RESPONSE_REST:
        break;
    }
    return bad(e, "a line where none may be");
}

/* Collects up to the next line feed; a whole line is acted on. */
static ssize_t feed_line(struct response *r, const char *data, size_t len, struct err *e)
{
    const char *lf = memchr(data, '\n', len);
    size_t n = lf ? (size_t)(lf - data) + 1 : len;

    buf_append(&r->line, data, n);
    r->head_len += n;
    if (!buf_ok(&r->line) || r->head_len > RESPONSE_HEAD_MAX)
        return bad(e, "its head is too long");
    if (!lf)
        return (ssize_t)n;
    if (r->line.len < 2 || r->line.data[r->line.len - 2] != '\r')
        return bad(e, "a line without its carriage return");
    r->line.data[r->line.len - 2] = '\0';
    if (strlen(r->line.data) != r->line.len - 2)
        return bad(e, "a NUL in its head");
    if (one_line(r, r->line.data, e) < 0)
        return -1;
    buf_reset(&r->line);
    return (ssize_t)n;
}

static ssize_t feed_body(struct response *r, const char *data, size_t len,
                         const struct response_sink *sink, struct err *e)
{
    size_t n = r->state == RESPONSE_REST || len < r->left ? len : (size_t)r->left;

    assert(sink && "a body needs a sink");
    if (sink->data(sink->ctx, data, n, e) < 0)
        return -1;
    if (r->state == RESPONSE_REST)
        return (ssize_t)n;
    r->left -= n;
    if (r->left == 0 && r->state == RESPONSE_CHUNK)
        r->state = RESPONSE_CHUNK_END;
    else if (r->left == 0)
        r->is_done = true;
    return (ssize_t)n;
}

ssize_t response_feed(struct response *r, const char *data, size_t len,
                      const struct response_sink *sink, struct err *e)
{
    bool had_head = r->has_head;
    size_t used = 0;

    while (used < len && !r->is_done && r->has_head == had_head) {
        bool in_body =
            r->state == RESPONSE_BODY || r->state == RESPONSE_CHUNK || r->state == RESPONSE_REST;
        ssize_t n = in_body ? feed_body(r, data + used, len - used, sink, e)
                            : feed_line(r, data + used, len - used, e);

        if (n < 0)
            return -1;
        used += (size_t)n;
    }
    return (ssize_t)used;
}

int response_eof(const struct response *r, struct err *e)
{
    if (r->is_done || (r->has_head && r->state == RESPONSE_REST))
        return 0;
    if (r->state == RESPONSE_STATUS && r->line.len == 0)
        return err_set(e, ERR_INTERNAL, "the connection was closed without an answer");
    return err_set(e, ERR_INTERNAL, "the connection was closed within the answer");
}
