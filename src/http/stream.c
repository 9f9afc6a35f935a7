/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "http/private.h"

/*
 * The stream belongs to its owner until http_stream_close(), and after that to
 * the connection, which frees it when the last byte is out. While there is
 * nothing to send the connection is suspended.
 */
struct http_stream {
    struct http_request *req; /* NULL once the connection is dead */
    struct http_stream_events events;
    struct buf buf;
    size_t n_taken; /* of buf, by the library */
    bool is_closed;
    bool is_waited_for; /* a write has failed and drained() is owed */
};

enum {
    KEEP_BYTES = 16 << 10, /* of an empty buffer */
    BLOCK_BYTES = 4 << 10, /* the library's own buffer, where it cannot send chunks */
};

static size_t n_buffered(const struct http_stream *stream)
{
    return stream->buf.len - stream->n_taken;
}

static void stream_free(struct http_stream *stream)
{
    buf_free(&stream->buf);
    free(stream);
}

static void take(struct http_stream *stream, char *out, size_t n)
{
    memcpy(out, stream->buf.data + stream->n_taken, n);
    stream->n_taken += n;
    if (n_buffered(stream) > 0)
        return;
    stream->n_taken = 0;
    if (stream->buf.cap > KEEP_BYTES)
        buf_free(&stream->buf);
    else
        buf_reset(&stream->buf);
}

/*
 * Never END_WITH_ERROR: the library (0.9.75, with epoll) then closes a connection and
 * forgets it. The socket of such a connection is cut, so the client cannot take this
 * for the end of the stream: the library fails to send, and cleans up.
 */
static ssize_t broken_off(struct http_request *req)
{
    conn_cut(req);
    return MHD_CONTENT_READER_END_OF_STREAM;
}

/* The library asks for more to send. */
static ssize_t on_read(void *cls, uint64_t pos, char *out, size_t max)
{
    struct http_request *req = cls;
    struct http_stream *stream = req->stream;
    size_t n;

    (void)pos;
    if (!stream)
        return broken_off(req);
    n = n_buffered(stream) < max ? n_buffered(stream) : max;
    if (n > 0)
        take(stream, out, n);
    else if (stream->is_closed)
        return MHD_CONTENT_READER_END_OF_STREAM;
    else if (req->server->is_dying)
        return broken_off(req);
    else
        conn_suspend(req);

    if (stream->is_waited_for && n_buffered(stream) <= stream->buf.max / 2) {
        stream->is_waited_for = false;
        stream->events.drained(stream->events.arg); /* may write, and so resume, or close */
    }
    return (ssize_t)n;
}

struct http_stream *http_stream_open(struct http_request *req, const char *content_type,
                                     size_t max_buffered, const struct http_stream_events *events)
{
    struct http_stream *stream = mem_new(struct http_stream);
    struct MHD_Response *response;

    stream->req = req;
    stream->events = *events;
    stream->buf = BUF(max_buffered);
    req->stream = stream;
    response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, on_read, req, NULL);
    MHD_set_response_options(response, MHD_RF_SEND_KEEP_ALIVE_HEADER, MHD_RO_END);
    /* Nothing on the way may hold back what is there. */
    http_add_header(req, "Cache-Control", "no-cache");
    http_add_header(req, "X-Accel-Buffering", "no");
    request_answer(req, 200, content_type, response);
    return stream;
}

int http_stream_write(struct http_stream *stream, const void *data, size_t len)
{
    if (!stream->req || len > stream->buf.max - n_buffered(stream)) {
        stream->is_waited_for = stream->req && stream->events.drained;
        return -1;
    }
    if (len > stream->buf.max - stream->buf.len) {
        buf_consume(&stream->buf, stream->n_taken);
        stream->n_taken = 0;
    }
    buf_append(&stream->buf, data, len);
    conn_resume(stream->req);
    return 0;
}

void http_stream_close(struct http_stream *stream)
{
    struct http_request *req = stream->req;

    if (!req) {
        stream_free(stream);
        return;
    }
    stream->is_closed = true;
    stream->is_waited_for = false;
    conn_deadline(req, req->server->idle_ms + (int64_t)(n_buffered(stream) / SLOWEST_BYTES_PER_MS));
    conn_resume(req);
}

void stream_detach(struct http_request *req)
{
    struct http_stream *stream = req->stream;

    req->stream = NULL;
    stream->req = NULL;
    if (stream->is_closed)
        stream_free(stream);
    else if (stream->events.gone)
        stream->events.gone(stream->events.arg); /* may close, and so free */
}
