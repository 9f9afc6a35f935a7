/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/client.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/version.h"
#include "cli/progress.h"

enum { CONNECT_MS = 5000, INPUT_MAX = 65536 };

/* --- where to --- */

/* What goes into a request's head must not be able to add to it. */
static bool is_plain(const char *s)
{
    for (; *s; s++) {
        if (*s <= ' ' || *s > '~')
            return false;
    }
    return true;
}

static char *copy_part(const char *s, size_t len)
{
    return mem_printf("%.*s", (int)len, s);
}

/* "host", "host:port" or "[::1]:port". */
static int parse_authority(struct client *c, const char *s, size_t len, struct err *e)
{
    const char *end = s + len;
    const char *host = *s == '[' ? s + 1 : s;
    const char *host_end = *s == '[' ? memchr(s, ']', len) : memchr(s, ':', len);
    const char *rest;

    if (*s == '[' && !host_end)
        return err_set(e, ERR_INVALID, "no ] behind the address in the base URL");
    if (!host_end)
        host_end = end;
    rest = *s == '[' ? host_end + 1 : host_end;
    if (host_end == host || memchr(s, '@', len) ||
        (rest < end && (*rest != ':' || rest + 1 == end)))
        return err_set(e, ERR_INVALID, "the base URL must be http://HOST:PORT");
    c->host = copy_part(host, (size_t)(host_end - host));
    c->port = rest < end ? copy_part(rest + 1, (size_t)(end - rest - 1)) : mem_strdup("80");
    return 0;
}

static int parse_base_url(struct client *c, const char *url, struct err *e)
{
    const char *authority = url + 7;
    size_t len;

    if (strncmp(url, "https://", 8) == 0)
        return err_set(e,
                       ERR_UNSUPPORTED,
                       "https is not spoken here: %s; put a TLS proxy on this host and use its "
                       "http address, or use the daemon's socket (--socket)",
                       url);
    if (strncmp(url, "http://", 7) != 0 || !is_plain(url) || strpbrk(url, "?#"))
        return err_set(e, ERR_INVALID, "the base URL must be http://HOST:PORT");
    len = strcspn(authority, "/");
    if (parse_authority(c, authority, len, e) < 0)
        return -1;
    c->prefix = mem_strdup(authority + len);
    for (size_t n = strlen(c->prefix); n > 0 && c->prefix[n - 1] == '/';)
        c->prefix[--n] = '\0';
    return 0;
}

int client_init(struct client *c, const char *base_url, const char *socket_path, const char *token,
                struct err *e)
{
    *c = (struct client){.where = mem_strdup(base_url ? base_url : socket_path)};
    if (token && !is_plain(token))
        return err_set(e, ERR_INVALID, "HYPEMAN_API_KEY holds blanks or control characters");
    c->token = token ? mem_strdup(token) : NULL;
    return base_url ? parse_base_url(c, base_url, e) : 0;
}

void client_fini(struct client *c)
{
    free(c->where);
    free(c->host);
    free(c->port);
    free(c->prefix);
    free(c->token);
    *c = (struct client){0};
}

void exchange_fini(struct exchange *x)
{
    if (x->fd >= 0)
        close(x->fd);
    response_fini(&x->response);
    buf_free(&x->in);
    *x = EXCHANGE;
}

/* --- waiting --- */

int client_wait(const struct op *op, int fd, short events, struct err *e)
{
    for (;;) {
        int64_t tick = progress_next_ms();
        bool is_last = op->deadline_ms <= tick;
        const struct op slice = {is_last ? op->deadline_ms : tick, op->cancel_fd};

        if (op_wait(&slice, fd, events, e) == 0)
            return 0;
        if (e->code != ERR_TIMEOUT || is_last)
            return -1;
        err_clear(e);
        progress_tick();
    }
}

/* --- connecting --- */

/* 0 with *sys_out, which is 0 or what errno says of the peer; -1 ends the command. */
static int try_connect(const struct op *op, int fd, const struct sockaddr *to, socklen_t len,
                       int *sys_out, struct err *e)
{
    socklen_t size = sizeof(*sys_out);
    int rc = 0;

    *sys_out = 0;
    while (connect(fd, to, len) < 0) {
        if (errno == EINPROGRESS) {
            rc = client_wait(op, fd, POLLOUT, e);
            if (rc == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, sys_out, &size) < 0)
                *sys_out = errno;
            if (rc == 0)
                return 0;
        } else if (errno == EAGAIN) /* the daemon's queue is full, and there is no event for that */
            rc = op_sleep(op, 10, e);
        else {
            *sys_out = errno;
            return 0;
        }
        if (rc < 0 && e->code == ERR_TIMEOUT) {
            err_clear(e);
            *sys_out = ETIMEDOUT;
            return 0;
        }
        if (rc < 0)
            return -1;
    }
    return 0;
}

/* Both return the fd, or -1 with either *e or *sys_out set. */
static int connect_unix(const struct op *op, const struct client *c, int *sys_out, struct err *e)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    auto_close int fd = -1;

    if (strlen(c->where) >= sizeof(to.sun_path))
        return err_set(e, ERR_INVALID, "the socket's path is too long: %s", c->where);
    memcpy(to.sun_path, c->where, strlen(c->where));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(e, "socket");
    if (try_connect(op, fd, (const struct sockaddr *)&to, sizeof(to), sys_out, e) < 0 || *sys_out)
        return -1;
    return take_fd(&fd);
}

static int connect_tcp(const struct op *op, const struct client *c, int *sys_out, struct err *e)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *all = NULL;
    int failed = getaddrinfo(c->host, c->port, &hints, &all);
    int found = -1;

    if (failed)
        return err_set(e, ERR_INVALID, "cannot look up %s: %s", c->where, gai_strerror(failed));
    *sys_out = EADDRNOTAVAIL;
    for (const struct addrinfo *a = all; a && *sys_out; a = a->ai_next) {
        auto_close int fd =
            socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);

        if (fd < 0)
            continue; /* a family that this host does not have */
        if (try_connect(op, fd, a->ai_addr, a->ai_addrlen, sys_out, e) < 0)
            break;
        if (!*sys_out)
            found = take_fd(&fd);
    }
    freeaddrinfo(all);
    return found;
}

static const char *advice(const struct client *c, int sys)
{
    if (c->host)
        return "is it running there? HYPEMAN_BASE_URL and --base-url say where to look";
    if (sys == EACCES)
        return "become root or a member of the group that owns the socket";
    return "is it running? 'hypeman serve' starts it";
}

static int open_connection(const struct op *op, const struct client *c, struct err *e)
{
    int64_t soon = clock_ms() + CONNECT_MS;
    const struct op limit = {soon < op->deadline_ms ? soon : op->deadline_ms, op->cancel_fd};
    int sys = 0;
    int fd = c->host ? connect_tcp(&limit, c, &sys, e) : connect_unix(&limit, c, &sys, e);

    if (fd >= 0 || e->code)
        return fd;
    errno = sys;
    return err_set(
        e, ERR_INTERNAL, "cannot connect to the daemon at %s: %m; %s", c->where, advice(c, sys));
}

/* --- sending --- */

static int send_all(const struct op *op, int fd, const struct buf *b, struct err *e)
{
    size_t sent = 0;

    while (sent < b->len) {
        ssize_t n = send(fd, b->data + sent, b->len - sent, MSG_NOSIGNAL);

        if (n >= 0)
            sent += (size_t)n;
        else if (errno == EPIPE || errno == ECONNRESET)
            return 0; /* it may have answered before it had read all; the answer says why */
        else if (errno != EAGAIN && errno != EINTR)
            return err_errno(e, "send");
        else if (errno == EAGAIN && client_wait(op, fd, POLLOUT, e) < 0)
            return -1;
    }
    return 0;
}

int client_send(const struct op *op, const struct client *c, struct exchange *x,
                const struct client_request *request, struct err *e)
{
    auto_buf struct buf b = BUF(16 << 20);
    bool is_v6 = c->host && strchr(c->host, ':');

    buf_printf(
        &b, "%s %s%s HTTP/1.1\r\n", request->method, c->prefix ? c->prefix : "", request->path);
    if (c->host)
        buf_printf(&b, is_v6 ? "Host: [%s]:%s\r\n" : "Host: %s:%s\r\n", c->host, c->port);
    else
        buf_puts(&b, "Host: localhost\r\n");
    buf_printf(&b, "User-Agent: Hypeman/CLI %s\r\n", version_number);
    if (request->websocket_key)
        buf_printf(&b,
                   "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                   "Sec-WebSocket-Key: %s\r\n",
                   request->websocket_key);
    else
        buf_puts(&b, "Connection: close\r\n");
    if (c->token)
        buf_printf(&b, "Authorization: Bearer %s\r\n", c->token);
    if (request->body)
        buf_printf(&b,
                   "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                   strlen(request->body),
                   request->body);
    else
        buf_puts(&b, strcmp(request->method, "POST") == 0 ? "Content-Length: 0\r\n\r\n" : "\r\n");
    if (!buf_ok(&b))
        return err_set(e, ERR_TOO_LARGE, "the request is too large");

    response_init(&x->response);
    x->response.may_switch = request->websocket_key != NULL;
    x->in = BUF(INPUT_MAX);
    x->fd = open_connection(op, c, e);
    return x->fd < 0 ? -1 : send_all(op, x->fd, &b, e);
}

/* --- receiving --- */

/* One read. False at the end of what the peer sends. */
static int receive(const struct op *op, struct exchange *x, bool *is_open, struct err *e)
{
    char chunk[INPUT_MAX];
    ssize_t n;

    for (;;) {
        n = recv(x->fd, chunk, sizeof(chunk), 0);
        if (n >= 0)
            break;
        if (errno == EAGAIN && client_wait(op, x->fd, POLLIN, e) < 0)
            return -1;
        if (errno != EAGAIN && errno != EINTR)
            return err_errno(e, "the connection to the daemon broke");
    }
    buf_append(&x->in, chunk, (size_t)n);
    *is_open = n > 0;
    return 0;
}

/* Reads until the head, or the whole answer, is there. */
static int pump(const struct op *op, struct exchange *x, bool only_head,
                const struct response_sink *sink, struct err *e)
{
    struct response *r = &x->response;
    bool is_open = true;

    for (;;) {
        while (x->in.len > 0 && !r->is_done && !(only_head && r->has_head)) {
            ssize_t n = response_feed(r, x->in.data, x->in.len, sink, e);

            if (n < 0)
                return -1;
            buf_consume(&x->in, (size_t)n);
        }
        if (r->is_done || (only_head && r->has_head))
            return 0;
        if (!is_open)
            return response_eof(r, e);
        if (receive(op, x, &is_open, e) < 0)
            return -1;
    }
}

int client_head(const struct op *op, struct exchange *x, struct err *e)
{
    return pump(op, x, true, NULL, e);
}

int client_body(const struct op *op, struct exchange *x, const struct response_sink *sink,
                struct err *e)
{
    return pump(op, x, false, sink, e);
}
