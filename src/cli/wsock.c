/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/wsock.h"

#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/session.h"

enum { TEXT_MAX = 1 << 20, OUT_MAX = 4 << 20, READ_BYTES = 64 << 10 };

static void draw_key(char out[WS_KEY_LEN + 1])
{
    unsigned char bytes[16];

    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        abort();
    EVP_EncodeBlock((unsigned char *)out, bytes, sizeof(bytes));
}

/* What came together with the head, and every read after that. */
static void feed(struct wsock *s, const char *data, size_t len)
{
    while (len > 0 && !s->is_over) {
        size_t n = ws_feed(s->ws, data, len);

        data += n;
        len -= n;
        s->is_over = ws_close_received(s->ws);
    }
}

int wsock_open(const struct op *op, struct wsock *s, const char *path,
               const struct ws_events *events, void *arg, struct err *e)
{
    char key[WS_KEY_LEN + 1];
    char accept[WS_ACCEPT_SIZE];
    const struct client_request request = {.method = "GET", .path = path, .websocket_key = key};

    draw_key(key);
    if (session_send(op, &s->x, &request, e) < 0 || session_head(op, &s->x, e) < 0)
        return -1;
    ws_accept_of(key, accept);
    if (s->x.response.status != 101 || strcmp(s->x.response.accept, accept) != 0)
        return err_set(e, ERR_INTERNAL, "the daemon's answer is no WebSocket");
    s->ws = ws_new(true, TEXT_MAX, OUT_MAX, events, arg);
    return 0;
}

void wsock_fini(struct wsock *s)
{
    ws_free(s->ws);
    s->ws = NULL;
    exchange_fini(&s->x);
}

short wsock_wants(const struct wsock *s)
{
    return (short)(POLLIN | (ws_out(s->ws)->len > 0 ? POLLOUT : 0));
}

static int send_some(struct wsock *s, struct err *e)
{
    struct buf *out = ws_out(s->ws);

    while (out->len > 0) {
        ssize_t n = send(s->x.fd, out->data, out->len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n >= 0)
            buf_consume(out, (size_t)n);
        else if (errno == EAGAIN)
            break;
        else if (errno == EPIPE || errno == ECONNRESET)
            break; /* what the daemon has said before that is still to be read */
        else if (errno != EINTR)
            return err_errno(e, "send to the daemon");
    }
    return 0;
}

int wsock_io(struct wsock *s, struct err *e)
{
    char bytes[READ_BYTES];
    ssize_t n;

    feed(s, buf_str(&s->x.in), s->x.in.len);
    buf_free(&s->x.in);
    if (s->is_over)
        return 0;
    if (send_some(s, e) < 0)
        return -1;
    n = recv(s->x.fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n == 0 || (n < 0 && (errno == ECONNRESET || errno == EPIPE)))
        s->is_over = true;
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
        return err_errno(e, "read from the daemon");
    else if (n > 0)
        feed(s, bytes, (size_t)n);
    return 0;
}

int wsock_step(const struct op *op, struct wsock *s, struct err *e)
{
    if (s->x.in.len == 0 && client_wait(op, s->x.fd, wsock_wants(s), e) < 0)
        return -1;
    return wsock_io(s, e);
}

int wsock_drain(const struct op *op, struct wsock *s, size_t left, struct err *e)
{
    if (send_some(s, e) < 0)
        return -1;
    while (!s->is_over && ws_out(s->ws)->len > left) {
        if (wsock_step(op, s, e) < 0)
            return -1;
    }
    return 0;
}

int output_put(const struct op *op, int fd, const char *data, size_t len, struct err *e)
{
    while (len > 0) {
        ssize_t n;

        if (op_wait(op, fd, POLLOUT, e) < 0)
            return -1;
        n = write(fd, data, len < PIPE_BUF ? len : PIPE_BUF); /* so much of it does not block */
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return err_errno(e, "write the output");
        data += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}
