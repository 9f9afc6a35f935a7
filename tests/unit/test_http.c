/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server on its loop in the main thread, a client with plain sockets in
 * another: what a client does is written as straight-line code, and every byte
 * on the wire is the test's own.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "beside_loop.h"
#include "http/guard.h"
#include "http/private.h"

enum { ECHO_MAX = 1000, STREAM_MAX = 64 << 10, BIG = 2 << 20 };

struct fixture {
    struct beside beside;
    struct http_server *server;
    int port;
    char dir[32];
    char path[64];
    char *big;
    size_t fds;

    /* The loop's. */
    struct http_request *held;
    struct http_stream *stream;
    struct timer timer;
    int n_handled;
    int n_released;
    int n_gone;
    int n_drained;
    int n_late; /* requests that timer answers */
    struct http_request *late[8];
};

static void reply_text(struct http_request *req, int status, const char *text)
{
    struct buf b = BUF(1 << 20);

    buf_puts(&b, text);
    http_reply(req, status, "text/plain", &b);
}

static void on_late(struct timer *t)
{
    struct fixture *f = container_of(t, struct fixture, timer);

    while (f->n_late > 0)
        reply_text(f->late[--f->n_late], 200, "late");
}

static void on_gone(void *arg)
{
    struct fixture *f = arg;

    f->n_gone++;
    if (f->held)
        reply_text(f->held, 200, "nobody reads this");
    f->held = NULL;
}

static void on_stream_gone(void *arg)
{
    struct fixture *f = arg;

    f->n_gone++;
    http_stream_close(f->stream);
    f->stream = NULL;
}

static void on_drained(void *arg)
{
    struct fixture *f = arg;

    f->n_drained++;
}

static void on_released(void *arg)
{
    struct fixture *f = arg;

    f->n_released++;
}

static void show_parameter(void *arg, const char *key, const char *value)
{
    buf_printf(arg, " %s=%s", key, value);
}

static void show(struct http_request *req)
{
    struct buf b = BUF(32 << 10);
    struct http_peer peer = http_peer(req);
    const char *state = http_query(req, "state");

    buf_printf(&b, "%s %s", http_method(req), http_path(req));
    http_each_query(req, show_parameter, &b);
    buf_printf(&b, " state is %s", state ? state : "not there");
    if (peer.is_unix)
        buf_printf(&b, " uid %u pid %d", peer.uid, peer.pid);
    if (http_header(req, "X-In"))
        http_add_header(req, "X-Out", http_header(req, "x-in"));
    http_reply(req, 200, "text/plain", &b);
}

static void open_stream(struct fixture *f, struct http_request *req)
{
    struct http_stream_events events = {on_stream_gone, on_drained, f};

    f->stream = http_stream_open(req, "text/event-stream", STREAM_MAX, &events);
}

static void handle(void *ctx, struct http_request *req)
{
    struct fixture *f = ctx;
    const char *path = http_path(req);
    struct buf b = BUF(4096);

    f->n_handled++;
    if (strcmp(path, "/hello") == 0)
        reply_text(req, 200, "hello");
    else if (strcmp(path, "/echo") == 0) {
        buf_append(&b, buf_str(http_body(req)), http_body(req)->len);
        http_reply(req, 200, NULL, &b);
    } else if (strcmp(path, "/late") == 0) {
        f->late[f->n_late++] = req;
        loop_timer_start(f->beside.loop, &f->timer, 20);
    } else if (strcmp(path, "/hold") == 0) {
        f->held = req;
        http_on_gone(req, on_gone, f);
    } else if (strcmp(path, "/events") == 0) {
        open_stream(f, req);
    } else if (strcmp(path, "/big") == 0) {
        http_reply_shared(req, 200, "x/y", &(struct http_shared){f->big, BIG, on_released, f});
    } else if (strcmp(path, "/overflow") == 0) {
        b.max = 3;
        buf_puts(&b, "more than three");
        http_reply(req, 200, "text/plain", &b);
    } else if (strcmp(path, "/nothing") == 0) {
        http_reply(req, 204, NULL, NULL);
    } else
        show(req);
}

static size_t body_limit(void *ctx, const char *method, const char *path)
{
    (void)ctx, (void)method;
    return strcmp(path, "/echo") == 0 ? ECHO_MAX : 0;
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    struct http_handler handler = {handle, body_limit, f};
    struct err e = {0};

    f->fds = open_fds();
    beside_init(f);
    f->server = http_server_new(f->beside.loop, &handler);
    f->timer.fn = on_late;
    f->big = mem_zalloc(BIG, 1);
    for (size_t i = 0; i < BIG; i++)
        f->big[i] = (char)('a' + i % 23);
    snprintf(f->dir, sizeof(f->dir), "/tmp/test-http-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
    if (http_listen_tcp(f->server, "127.0.0.1", "0", &f->port, &e) < 0 ||
        http_listen_unix(f->server, f->path, 0660, NULL, &e) < 0)
        return -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    loop_timer_stop(f->beside.loop, &f->timer);
    http_server_free(f->server);
    assert_int_equal(access(f->path, F_OK), -1);
    assert_int_equal(rmdir(f->dir), 0);
    beside_free(f);
    free(f->big);
    assert_int_equal(open_fds(), f->fds);
    free(f);
    return 0;
}

static int number; /* what an errand found out */

static void ask_handled(struct fixture *f)
{
    number = f->n_handled;
}

static void ask_gone(struct fixture *f)
{
    number = f->n_gone;
}

static void ask_released(struct fixture *f)
{
    number = f->n_released;
}

static void ask_open(struct fixture *f)
{
    number = (int)http_server_open(f->server);
}

static void ask_connections(struct fixture *f)
{
    number = 0;
    for (struct list *i = f->server->requests.next; i != &f->server->requests; i = i->next)
        number++;
}

static void ask_drained(struct fixture *f)
{
    number = f->n_drained;
}

/* Waits until what an errand asks for is so. */
static bool becomes(struct fixture *f, void (*ask)(struct fixture *f), int wanted)
{
    int64_t until = clock_ms() + PATIENCE_MS;

    do {
        on_loop(f, ask);
        if (number == wanted)
            return true;
        poll(NULL, 0, 1);
    } while (clock_ms() < until);
    return false;
}

static int connect_to(struct fixture *f, bool is_unix)
{
    return connect_client(is_unix ? f->path : NULL, f->port);
}

static bool put(int fd, const char *text)
{
    size_t len = strlen(text);

    return send(fd, text, len, MSG_NOSIGNAL) == (ssize_t)len;
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"

/* Reads until the text ends with end, or, without one, until the connection does. */
static bool take_until(int fd, struct buf *b, const char *end)
{
    char part[65536];

    for (;;) {
        size_t len = end ? strlen(end) : 0;
        ssize_t n;

        if (end && b->len >= len && memcmp(b->data + b->len - len, end, len) == 0)
            return true;
        n = recv(fd, part, end ? 1 : sizeof(part), 0);
        if (n <= 0)
            return n == 0 && !end;
        buf_append(b, part, (size_t)n);
    }
}

/* One whole answer with a Content-Length. */
static bool take_answer(int fd, struct buf *b)
{
    const char *length;
    size_t left;

    buf_reset(b);
    if (!take_until(fd, b, "\r\n\r\n"))
        return false;
    length = strstr(b->data, "Content-Length: ");
    left = length ? strtoul(length + 16, NULL, 10) : 0;
    while (left > 0) {
        char part[65536];
        ssize_t n = recv(fd, part, left < sizeof(part) ? left : sizeof(part), 0);

        if (n <= 0)
            return false;
        buf_append(b, part, (size_t)n);
        left -= (size_t)n;
    }
    return true;
}

static bool has(const struct buf *b, const char *text)
{
    return strstr(buf_str(b), text) != NULL;
}

static bool ends_with(const struct buf *b, const char *text)
{
    size_t len = strlen(text);

    return b->len >= len && strcmp(buf_str(b) + b->len - len, text) == 0;
}

static bool is_at_end(int fd)
{
    char byte;

    errno = 0;
    return recv(fd, &byte, 1, 0) <= 0 && errno != EAGAIN;
}

static void ask_for_things(struct fixture *f)
{
    for (int is_unix = 0; is_unix <= 1; is_unix++) {
        auto_close int fd = connect_to(f, is_unix);
        auto_buf struct buf b = BUF(1 << 20);

        CHECK(put(fd, GET("/hello")) && take_answer(fd, &b));
        CHECK(has(&b, "HTTP/1.1 200 OK\r\n") && has(&b, "Content-Type: text/plain\r\n"));
        CHECK(has(&b, "Content-Length: 5\r\n") && ends_with(&b, "\r\n\r\nhello"));
        CHECK(put(fd,
                  "GET /a%20b/c?state=Running&tags%5Bx%5D=%C3%BC+y&flag HTTP/1.1\r\nHost: x\r\n"
                  "X-In: there and back\r\n\r\n"));
        CHECK(take_answer(fd, &b) && has(&b, "X-Out: there and back\r\n"));
        CHECK(has(&b, "GET /a%20b/c state=Running tags[x]=\xc3\xbc y flag= state is Running"));
        CHECK(put(fd, "BREW /pot?State=x HTTP/1.1\r\nHost: x\r\n\r\n") && take_answer(fd, &b));
        CHECK(has(&b, "BREW /pot State=x state is not there"));
        CHECK(put(fd, GET("/nothing")) && take_answer(fd, &b));
        CHECK(has(&b, "HTTP/1.1 204 "));
        CHECK(put(fd, GET("/overflow")) && take_answer(fd, &b));
        CHECK(has(&b, "HTTP/1.1 500 ") && ends_with(&b,
                                                    "{\"code\":\"Internal Server Error\","
                                                    "\"message\":\"the answer passed its "
                                                    "limit\"}"));
    }
}

static void a_request_is_answered_at_once(void **state)
{
    beside_run(*state, ask_for_things);
}

static void ask_by_post(struct fixture *f)
{
    auto_close int fd = connect_to(f, false);
    auto_buf struct buf b = BUF(1 << 20);

    CHECK(put(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234"));
    poll(NULL, 0, 5);
    CHECK(put(fd, "56789") && take_answer(fd, &b) && ends_with(&b, "\r\n\r\n0123456789"));
    CHECK(put(fd,
              "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
              "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"));
    CHECK(take_answer(fd, &b) && ends_with(&b, "\r\n\r\nabcde"));
    CHECK(put(fd,
              "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
              "Expect: 100-continue\r\n\r\n"));
    CHECK(take_answer(fd, &b) && has(&b, "HTTP/1.1 100 Continue"));
    CHECK(put(fd, "ok") && take_answer(fd, &b) && ends_with(&b, "\r\n\r\nok"));
}

static void a_post_is_handled_once_its_body_is_whole(void **state)
{
    struct fixture *f = *state;

    beside_run(f, ask_by_post);
    assert_int_equal(f->n_handled, 3);
}

static void ask_and_wait(struct fixture *f)
{
    auto_close int one = connect_to(f, false);
    auto_close int two = connect_to(f, true);
    auto_buf struct buf b = BUF(1 << 20);

    CHECK(put(one, GET("/late")) && put(two, GET("/late")));
    CHECK(take_answer(one, &b) && ends_with(&b, "\r\n\r\nlate"));
    CHECK(take_answer(two, &b) && ends_with(&b, "\r\n\r\nlate"));
    CHECK(put(one, GET("/hello")) && take_answer(one, &b) && ends_with(&b, "hello"));
}

static void a_kept_request_is_answered_later(void **state)
{
    beside_run(*state, ask_and_wait);
}

static void ask_all_at_once(struct fixture *f)
{
    auto_close int fd = connect_to(f, false);
    auto_buf struct buf b = BUF(1 << 20);

    CHECK(put(fd, GET("/hello") GET("/late") GET("/one") GET("/late") GET("/two")));
    CHECK(take_answer(fd, &b) && ends_with(&b, "hello"));
    CHECK(take_answer(fd, &b) && ends_with(&b, "late"));
    CHECK(take_answer(fd, &b) && has(&b, "GET /one"));
    CHECK(take_answer(fd, &b) && ends_with(&b, "late"));
    CHECK(take_answer(fd, &b) && has(&b, "GET /two"));
}

static void requests_in_one_packet_are_answered_in_order(void **state)
{
    beside_run(*state, ask_all_at_once);
}

static void ask_for_heads(struct fixture *f)
{
    auto_close int fd = connect_to(f, false);
    auto_buf struct buf b = BUF(1 << 20);

    CHECK(put(fd, "HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n") && take_until(fd, &b, "\r\n\r\n"));
    CHECK(has(&b, "Content-Length: 5\r\n"));
    buf_reset(&b);
    CHECK(put(fd, "HEAD /big HTTP/1.1\r\nHost: x\r\n\r\n") && take_until(fd, &b, "\r\n\r\n"));
    CHECK(has(&b, "Content-Length: 2097152\r\n"));
    CHECK(put(fd, GET("/hello")) && take_answer(fd, &b) && has(&b, "HTTP/1.1 200"));
    buf_reset(&b);
    CHECK(put(fd, "HEAD /events HTTP/1.1\r\nHost: x\r\n\r\n") && take_until(fd, &b, "\r\n\r\n"));
    CHECK(has(&b, "text/event-stream") && becomes(f, ask_gone, 1));
}

static void head_is_answered_without_a_body(void **state)
{
    struct fixture *f = *state;

    beside_run(f, ask_for_heads);
    assert_int_equal(f->n_released, 1);
}

static void leave_while_held(struct fixture *f)
{
    for (int is_unix = 0; is_unix <= 1; is_unix++) {
        auto_close int fd = connect_to(f, is_unix);

        CHECK(put(fd, GET("/hold") GET("/hello")) && becomes(f, ask_open, 1));
        close(take_fd(&fd));
        CHECK(becomes(f, ask_gone, is_unix + 1));
        CHECK(becomes(f, ask_open, 0));
    }
}

static void a_kept_request_learns_that_its_client_is_gone(void **state)
{
    struct fixture *f = *state;

    beside_run(f, leave_while_held);
    assert_int_equal(f->n_handled, 2); /* what was sent behind it has nobody to answer to */
}

static void tell_no_longer(struct fixture *f)
{
    http_on_gone(f->held, NULL, NULL);
}

static void answer_held(struct fixture *f)
{
    reply_text(f->held, 200, "nobody reads this");
    f->held = NULL;
}

static void leave_unwatched(struct fixture *f)
{
    auto_close int fd = connect_to(f, false);

    CHECK(put(fd, GET("/hold")) && becomes(f, ask_open, 1));
    on_loop(f, tell_no_longer);
    close(take_fd(&fd));
    poll(NULL, 0, 20);
    on_loop(f, answer_held);
    CHECK(becomes(f, ask_open, 0));
}

static void who_does_not_want_to_know_is_not_told(void **state)
{
    struct fixture *f = *state;

    beside_run(f, leave_unwatched);
    assert_int_equal(f->n_gone, 0);
}

struct refusal {
    const char *request;
    int status;
};

static bool is_refused(struct fixture *f, const char *request, int status)
{
    auto_close int fd = connect_to(f, false);
    auto_buf struct buf b = BUF(1 << 20);
    char line[32];

    snprintf(line, sizeof(line), "HTTP/1.1 %d ", status);
    if (!put(fd, request) || !take_until(fd, &b, NULL))
        return false;
    return strncmp(buf_str(&b), line, strlen(line)) == 0 &&
           (!has(&b, "application/json") || ends_with(&b, "\"}"));
}

static const struct refusal refusals[] = {
    {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
     400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
     400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx", 400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\nx", 400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\nx", 400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999999999\r\n\r\nx", 400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", 400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked \r\n\r\n", 400},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
     "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     400},
    {"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"GET /hello HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400},
    {"GET /hello HTTP/1.1\r\nhost: x\r\nHOST: y\r\n\r\n", 400},
    {"GET /hello HTTP/1.1\r\n\r\n", 400},
    {"GET /hello HTTP/1.1\r\nHost : x\r\n\r\n", 400},
    {"GET /hello HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n", 400},
    {"GET /hello HTTP/1.1\r\nHost: x\r\nA\x80: c\r\n\r\n", 400},
    {"GET /hello HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400},
    {"GET /hello HTTP/1.1\r\nHost: x\r\nA: b\x01\r\n\r\n", 400},
    {"GET /hello HTTP/1.1\r\nHost: x\r\nA: b\x7f\r\n\r\n", 400},
    {"GET /hello HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400},
    {"GET /hel lo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
    {"GET /hel\tlo HTTP/1.1\r\nHost: x\r\n\r\n", 400},
    {"GET /\xc3\xbc HTTP/1.1\r\nHost: x\r\n\r\n", 400},
    {"GET /hello?a=%00b HTTP/1.1\r\nHost: x\r\n\r\n", 400},
    {"G(T /hello HTTP/1.1\r\nHost: x\r\n\r\n", 400},
    {"GET /hello\r\nHost: x\r\n\r\n", 400},
    {"GET /hello HTTP/3.0\r\nHost: x\r\n\r\n", 505},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413},
    {"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", 413},
    {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n", 413},
};

static void send_refusals(struct fixture *f)
{
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        if (!is_refused(f, refusals[i].request, refusals[i].status)) {
            f->beside.failed_line = (int)i;
            f->beside.failed = refusals[i].request;
            return;
        }
    }
}

static void what_the_guard_refuses_never_reaches_the_handler(void **state)
{
    struct fixture *f = *state;

    beside_run(f, send_refusals);
    assert_int_equal(f->n_handled, 0);
}

static void ask_badly(struct fixture *f)
{
    auto_close int fd = connect_to(f, false);
    auto_buf struct buf b = BUF(1 << 20);

    CHECK(put(fd, GET("/hello") "GET /hello HTTP/1.1\r\n\r\n") && take_answer(fd, &b));
    CHECK(ends_with(&b, "hello"));
    buf_reset(&b);
    CHECK(take_until(fd, &b, NULL));
    CHECK(has(&b, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"));
    CHECK(has(&b, "Connection: close\r\n"));
    CHECK(ends_with(&b, "\r\n\r\n{\"code\":\"Bad Request\",\"message\":\"no Host\"}"));
    close(fd);
    fd = connect_to(f, false);
    buf_reset(&b);
    CHECK(put(fd, "HEAD / HTTP/1.1\r\n\r\n") && take_until(fd, &b, NULL));
    CHECK(has(&b, "HTTP/1.1 400 ") && ends_with(&b, "\r\n\r\n"));
}

static void a_refusal_has_the_contracts_form(void **state)
{
    beside_run(*state, ask_badly);
}

static void ask_at_length(struct fixture *f)
{
    auto_free char *fill = mem_zalloc(200 << 10, 1);
    auto_buf struct buf request = BUF(1 << 20);
    static const struct {
        size_t target, field;
        int status;
    } cases[] = {{9 << 10, 1, 414},
                 {1, 17 << 10, 431},
                 {1, 100 << 10, 431},
                 {100 << 10, 1, 414},
                 {7 << 10, 7 << 10, 200}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memset(fill, 'x', 200 << 10);
        buf_reset(&request);
        buf_printf(&request, "GET /%.*s", (int)cases[i].target, fill);
        buf_printf(&request,
                   " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: %.*s\r\n\r\n",
                   (int)cases[i].field,
                   fill);
        if (!is_refused(f, buf_str(&request), cases[i].status)) {
            f->beside.failed_line = cases[i].status;
            f->beside.failed = "not that status";
            return;
        }
    }
}

static void heads_have_a_limit(void **state)
{
    beside_run(*state, ask_at_length);
}

/* The whole body is sent before the answer is read, as most clients do it. */
static void send_too_much(struct fixture *f)
{
    auto_free char *fill = mem_zalloc(8 << 20, 1);
    auto_close int sized = connect_to(f, false);
    auto_close int chunked = connect_to(f, true);
    auto_buf struct buf b = BUF(1 << 20);

    memset(fill, 'x', (8 << 20) - 1);
    CHECK(put(sized, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8388607\r\n\r\n"));
    CHECK(put(sized, fill) && take_answer(sized, &b));
    CHECK(ends_with(&b,
                    "{\"code\":\"Request Entity Too Large\",\"message\":\"the body is larger "
                    "than this request may have\"}"));
    CHECK(is_at_end(sized));
    CHECK(put(chunked, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"));
    CHECK(put(chunked, "3e8\r\n"));
    CHECK(send(chunked, fill, 1000, 0) == 1000 && put(chunked, "\r\n7ffc00\r\n"));
    CHECK(put(chunked, fill) && take_answer(chunked, &b) && has(&b, "HTTP/1.1 413 "));
    CHECK(is_at_end(chunked));
}

static void a_body_over_the_limit_is_refused_and_the_client_can_read_why(void **state)
{
    struct fixture *f = *state;

    beside_run(f, send_too_much);
    assert_int_equal(f->n_handled, 0);
}

/* The end comes together with the last bytes, or after them. */
static void send_too_little(struct fixture *f)
{
    static const char *const requests[] = {
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01",
    };

    for (size_t i = 0; i < 6; i++) {
        auto_close int fd = connect_to(f, false);
        auto_buf struct buf b = BUF(1 << 20);

        CHECK(put(fd, requests[i % 3]));
        poll(NULL, 0, i < 3 ? 0 : 10);
        shutdown(fd, SHUT_WR);
        CHECK(take_until(fd, &b, NULL) && has(&b, "HTTP/1.1 400 "));
        CHECK(ends_with(&b, "\"the body is shorter than announced\"}"));
    }
}

static void send_and_hang_up(struct fixture *f)
{
    static const char *const requests[] = {
        GET("/hello"), GET("/hello") "GET /", "GET /", "", GET("/hello") GET("/hello")};
    static const size_t n_answers[] = {1, 1, 0, 0, 2};

    for (size_t i = 0; i < 10; i++) {
        auto_close int fd = connect_to(f, i >= 5);
        auto_buf struct buf b = BUF(1 << 20);
        size_t n = 0;

        CHECK(put(fd, requests[i % 5]));
        shutdown(fd, SHUT_WR);
        CHECK(take_until(fd, &b, NULL));
        for (const char *p = buf_str(&b); (p = strstr(p, "\r\n\r\nhello")); p++)
            n++;
        CHECK(n == n_answers[i % 5]);
    }
}

static void who_sends_no_more_is_answered_and_let_go(void **state)
{
    beside_run(*state, send_and_hang_up);
}

static void a_truncated_body_is_refused(void **state)
{
    struct fixture *f = *state;

    beside_run(f, send_too_little);
    assert_int_equal(f->n_handled, 0);
}

static void take_big(struct fixture *f)
{
    auto_close int fd = connect_to(f, false);
    auto_close int deserter = connect_to(f, true); /* whose socket does not hold it all */
    auto_buf struct buf b = BUF(4 << 20);

    CHECK(put(fd, GET("/big") GET("/big")));
    for (int i = 0; i < 2; i++) {
        CHECK(take_answer(fd, &b) && b.len > BIG);
        CHECK(memcmp(b.data + b.len - BIG, f->big, BIG) == 0);
    }
    CHECK(becomes(f, ask_released, 2));
    CHECK(put(deserter, GET("/big")) && becomes(f, ask_handled, 3));
    on_loop(f, ask_released);
    CHECK(number == 2);
    close(take_fd(&deserter));
    CHECK(becomes(f, ask_released, 3) && becomes(f, ask_open, 0));
}

static void a_shared_answer_is_released_once_it_is_sent_or_dropped(void **state)
{
    beside_run(*state, take_big);
}

static void write_event(struct fixture *f)
{
    number = http_stream_write(f->stream, "data: 1\n\n", 9);
}

static void close_stream(struct fixture *f)
{
    http_stream_close(f->stream);
    f->stream = NULL;
}

static void listen_to_events(struct fixture *f)
{
    auto_close int fd = connect_to(f, false);
    auto_buf struct buf b = BUF(1 << 20);

    CHECK(put(fd, GET("/events")) && take_until(fd, &b, "\r\n\r\n"));
    CHECK(has(&b, "Content-Type: text/event-stream\r\n") && has(&b, "Cache-Control: no-cache\r\n"));
    CHECK(has(&b, "Connection: Keep-Alive\r\n") && has(&b, "X-Accel-Buffering: no\r\n"));
    for (int i = 0; i < 3; i++) {
        buf_reset(&b);
        on_loop(f, write_event);
        CHECK(number == 0 && take_until(fd, &b, "9\r\ndata: 1\n\n\r\n"));
    }
    on_loop(f, write_event);
    on_loop(f, close_stream);
    CHECK(take_until(fd, &b, "0\r\n\r\n") && becomes(f, ask_open, 0));
    CHECK(put(fd, GET("/hello")) && take_answer(fd, &b) && ends_with(&b, "hello"));
    on_loop(f, ask_gone);
    CHECK(number == 0);
}

/* Without chunks the end of the connection is the end of the stream. */
static void listen_as_of_old(struct fixture *f)
{
    auto_close int fd = connect_to(f, false);
    auto_buf struct buf b = BUF(1 << 20);

    CHECK(put(fd, "GET /events HTTP/1.0\r\n\r\n") && take_until(fd, &b, "\r\n\r\n"));
    CHECK(!has(&b, "chunked"));
    for (int i = 0; i < 3; i++) {
        buf_reset(&b);
        on_loop(f, write_event);
        CHECK(number == 0 && take_until(fd, &b, "data: 1\n\n"));
    }
    on_loop(f, close_stream);
    CHECK(is_at_end(fd) && becomes(f, ask_open, 0));
}

static void an_old_client_gets_a_stream_without_chunks(void **state)
{
    beside_run(*state, listen_as_of_old);
}

static void a_stream_goes_on_until_it_is_closed(void **state)
{
    beside_run(*state, listen_to_events);
}

enum { EVENT_LEN = 97 };

static int n_written;

/* Fills the stream, its socket included, until a write fails. */
static void write_until_full(struct fixture *f)
{
    char event[EVENT_LEN + 1];

    do
        snprintf(event, sizeof(event), "data: %089d\n\n", n_written);
    while (http_stream_write(f->stream, event, EVENT_LEN) == 0 && ++n_written);
}

static bool is_event(const char *text, int which)
{
    char event[EVENT_LEN + 1];

    snprintf(event, sizeof(event), "data: %089d\n\n", which);
    return strncmp(text, event, EVENT_LEN) == 0;
}

static bool join_chunks(const struct buf *b, struct buf *out)
{
    const char *p = strstr(buf_str(b), "\r\n\r\n");

    for (p = p ? p + 4 : ""; *p;) {
        size_t len = strtoul(p, NULL, 16);

        if (len == 0)
            return strcmp(p, "0\r\n\r\n") == 0;
        p = strstr(p, "\r\n") + 2;
        buf_append(out, p, len);
        p += len + 2;
    }
    return false;
}

static void read_slowly(struct fixture *f)
{
    auto_close int fd = connect_to(f, true);
    auto_buf struct buf b = BUF(16 << 20);
    auto_buf struct buf events = BUF(16 << 20);
    int last = -1;

    n_written = 0;
    CHECK(put(fd, GET("/events")) && becomes(f, ask_open, 1));
    while (last != n_written) { /* until the socket takes no more */
        last = n_written;
        on_loop(f, write_until_full);
        poll(NULL, 0, 10);
    }
    CHECK(n_written > STREAM_MAX / EVENT_LEN);
    on_loop(f, ask_drained);
    last = number;
    while (number == last) { /* until reading has made room */
        char part[4096];
        ssize_t n = recv(fd, part, sizeof(part), 0);

        CHECK(n > 0);
        buf_append(&b, part, (size_t)n);
        on_loop(f, ask_drained);
    }
    on_loop(f, write_until_full); /* while part of the buffer has been sent */
    while (number < last + 2) {
        char part[4096];
        ssize_t n = recv(fd, part, sizeof(part), 0);

        CHECK(n > 0);
        buf_append(&b, part, (size_t)n);
        on_loop(f, ask_drained);
    }
    on_loop(f, write_event);
    CHECK(number == 0);
    on_loop(f, close_stream);
    CHECK(take_until(fd, &b, "\r\n0\r\n\r\n") && join_chunks(&b, &events));
    for (int i = 0; i < n_written; i++)
        CHECK(is_event(buf_str(&events) + (ptrdiff_t)i * EVENT_LEN, i));
    CHECK(strcmp(buf_str(&events) + (ptrdiff_t)n_written * EVENT_LEN, "data: 1\n\n") == 0);
}

static void a_stream_that_is_not_read_refuses_writes_until_it_is(void **state)
{
    struct fixture *f = *state;

    beside_run(f, read_slowly);
    assert_int_equal(f->n_gone, 0);
    assert_true(f->n_drained > 0);
}

static void leave_events(struct fixture *f)
{
    auto_close int fd = connect_to(f, false);
    auto_buf struct buf b = BUF(1 << 20);

    CHECK(put(fd, GET("/events")) && take_until(fd, &b, "\r\n\r\n"));
    close(take_fd(&fd));
    CHECK(becomes(f, ask_gone, 1) && becomes(f, ask_open, 0));
    fd = connect_to(f, false); /* and in the middle of being written to */
    CHECK(put(fd, GET("/events")) && becomes(f, ask_open, 1));
    for (int i = 0; i < 200; i++) {
        on_loop(f, write_until_full);
        poll(NULL, 0, i % 10 == 0);
    }
    close(take_fd(&fd));
    CHECK(becomes(f, ask_gone, 2) && becomes(f, ask_open, 0));
}

static void a_stream_learns_that_its_client_is_gone(void **state)
{
    struct fixture *f = *state;

    beside_run(f, leave_events);
    assert_null(f->stream);
}

/* The library looks for connections that have ended from the longest idle one on, and stops at
 * the first that lives. */
static void leave_events_behind_an_idle_client(struct fixture *f)
{
    auto_close int idle = connect_to(f, true);
    auto_close int fd = -1;
    auto_buf struct buf b = BUF(1 << 20);

    CHECK(put(idle, GET("/hello")) && take_answer(idle, &b));
    for (int i = 0; i < 2; i++) {
        buf_reset(&b);
        fd = connect_to(f, i == 0);
        CHECK(put(fd, GET("/events")) && take_until(fd, &b, "\r\n\r\n"));
        close(take_fd(&fd));
        CHECK(becomes(f, ask_gone, i + 1) && becomes(f, ask_connections, 1));
    }
}

static void the_connection_of_a_stream_ends_with_its_client(void **state)
{
    beside_run(*state, leave_events_behind_an_idle_client);
}

static void stop_server(struct fixture *f)
{
    http_server_stop(f->server);
}

static void live_through_stop(struct fixture *f)
{
    auto_close int idle = connect_to(f, false);
    auto_close int fresh = connect_to(f, true);
    auto_close int held = connect_to(f, false);
    auto_close int events = connect_to(f, true);
    auto_buf struct buf b = BUF(1 << 20);

    CHECK(put(idle, GET("/hello")) && take_answer(idle, &b));
    CHECK(put(held, GET("/hold")) && becomes(f, ask_open, 1));
    CHECK(put(events, GET("/events")) && becomes(f, ask_open, 2));
    on_loop(f, stop_server);
    CHECK(is_at_end(idle) && is_at_end(fresh));
    CHECK(connect_to(f, false) < 0 && connect_to(f, true) < 0);
    on_loop(f, write_event);
    on_loop(f, close_stream);
    buf_reset(&b);
    CHECK(take_until(events, &b, "data: 1\n\n\r\n0\r\n\r\n") && is_at_end(events));
    on_loop(f, answer_held);
    CHECK(take_answer(held, &b) && has(&b, "Connection: close\r\n") && is_at_end(held));
    CHECK(becomes(f, ask_open, 0));
}

static void stop_lets_what_was_begun_end(void **state)
{
    beside_run(*state, live_through_stop);
}

static int leftovers[4];

static void leave_things_open(struct fixture *f)
{
    for (int i = 0; i < 4; i++)
        leftovers[i] = connect_to(f, i % 2);
    CHECK(put(leftovers[0], GET("/hello")) && put(leftovers[1], GET("/hold")));
    CHECK(put(leftovers[2], GET("/events")) && put(leftovers[3], GET("/big")));
    CHECK(becomes(f, ask_handled, 4));
}

static void free_ends_what_is_left(void **state)
{
    struct fixture *f = *state;
    struct http_handler handler = {handle, body_limit, f};

    beside_run(f, leave_things_open);
    write_event(f); /* which is still in the buffer then */
    http_server_free(f->server);
    assert_int_equal(f->n_gone, 2);
    assert_null(f->held);
    assert_null(f->stream);
    assert_int_equal(f->n_released, 1);
    for (int i = 0; i < 4; i++) {
        char part[65536];

        while (recv(leftovers[i], part, sizeof(part), 0) > 0)
            ;
        close(leftovers[i]);
    }
    f->server = http_server_new(f->beside.loop, &handler); /* for the teardown */
}

static void connect_crowd(struct fixture *f)
{
    enum { N = 500 };
    static int fds[N];
    auto_buf struct buf b = BUF(1 << 20);
    size_t n_good = 0;

    for (int i = 0; i < N; i++) {
        fds[i] = connect_to(f, i % 2);
        CHECK(fds[i] >= 0);
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++)
            put(fds[i], GET("/hello"));
        for (int i = 0; i < N; i++)
            n_good += take_answer(fds[i], &b) && ends_with(&b, "hello");
    }
    for (int i = 0; i < N; i++)
        close(fds[i]);
    CHECK(n_good == 2 * (size_t)N);
}

static void five_hundred_clients_are_served(void **state)
{
    beside_run(*state, connect_crowd);
}

static void ask_who(struct fixture *f)
{
    auto_close int fd = connect_to(f, true);
    auto_buf struct buf b = BUF(1 << 20);
    char want[64];

    snprintf(want, sizeof(want), " uid %u pid %d", getuid(), getpid());
    CHECK(put(fd, GET("/who")) && take_answer(fd, &b) && ends_with(&b, want));
}

static void a_unix_client_is_known_by_its_credentials(void **state)
{
    beside_run(*state, ask_who);
}

static void shorten_times(struct fixture *f)
{
    f->server->quick_ms = 300;
    f->server->idle_ms = 400;
}

static void lengthen_idle_time(struct fixture *f)
{
    f->server->idle_ms = 60000;
}

/* Drips bytes until the server has had enough. */
static bool is_cut_while_dripping(int fd, const char *text)
{
    int64_t began = clock_ms();

    if (!put(fd, text))
        return false;
    while (clock_ms() - began < PATIENCE_MS) {
        char byte;

        (void)send(fd, "x", 1, MSG_NOSIGNAL);
        poll(NULL, 0, 5);
        if (recv(fd, &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET)
            return clock_ms() - began >= 290;
    }
    return false;
}

static void dawdle(struct fixture *f)
{
    auto_buf struct buf b = BUF(1 << 20);
    auto_close int held = connect_to(f, false);
    auto_close int events = connect_to(f, false);
    auto_close int idle = -1;
    auto_close int head = -1;
    auto_close int body = -1;
    auto_close int second = -1;

    on_loop(f, shorten_times);
    CHECK(put(held, GET("/hold")) && put(events, GET("/events")) && becomes(f, ask_open, 2));
    idle = connect_to(f, false);
    CHECK(put(idle, GET("/hello")) && take_answer(idle, &b) && is_at_end(idle));
    head = connect_to(f, false);
    CHECK(is_cut_while_dripping(head, "GET / HTTP/1.1\r\nHost: "));
    body = connect_to(f, false);
    CHECK(is_cut_while_dripping(body,
                                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n"));
    on_loop(f, lengthen_idle_time); /* a head is not part of it */
    second = connect_to(f, false);
    CHECK(put(second, GET("/hello")) && take_answer(second, &b));
    CHECK(is_cut_while_dripping(second, "GET / HTTP/1.1\r\nHost: "));
    on_loop(f, answer_held);
    CHECK(take_answer(held, &b) && has(&b, "200 OK"));
    on_loop(f, write_event);
    CHECK(take_until(events, &b, "data: 1\n\n\r\n"));
    on_loop(f, ask_gone);
    CHECK(number == 0);
}

static void only_clients_that_dawdle_are_cut(void **state)
{
    beside_run(*state, dawdle);
}

static void unix_sockets_are_taken_over_only_from_the_dead(void **state)
{
    struct fixture *f = *state;
    struct http_handler handler = {handle, body_limit, f};
    struct http_server *other = http_server_new(f->beside.loop, &handler);
    auto_close int fd = -1;
    auto_close int full = -1;
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    char stale[64];
    char file[64];
    struct stat st;
    struct err e = {0};

    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
    assert_int_equal(http_listen_unix(other, f->path, 0600, NULL, &e), -1);
    assert_int_equal(e.code, ERR_EXISTS);
    assert_non_null(strstr(e.msg, "another daemon is listening"));
    err_clear(&e);

    snprintf(file, sizeof(file), "%s/file", f->dir);
    fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(take_fd(&fd));
    assert_int_equal(http_listen_unix(other, file, 0600, NULL, &e), -1);
    assert_int_equal(e.code, ERR_EXISTS);
    err_clear(&e);
    assert_int_equal(unlink(file), 0);

    snprintf(stale, sizeof(stale), "%s/stale", f->dir);
    memcpy(name.sun_path, stale, strlen(stale));
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(http_listen_unix(other, stale, 0600, NULL, &e), -1); /* not ours to judge */
    err_clear(&e);
    close(take_fd(&fd));
    assert_int_equal(unlink(stale), 0);

    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(listen(fd, 0), 0);
    full = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(full, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(http_listen_unix(other, stale, 0600, NULL, &e), -1); /* busy is not dead */
    assert_int_equal(e.code, ERR_EXISTS);
    err_clear(&e);
    close(take_fd(&fd));
    assert_int_equal(unlink(stale), 0);

    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(listen(fd, 1), 0);
    close(take_fd(&fd));
    assert_int_equal(http_listen_unix(other, stale, 0620, "no-such-group", &e), 0);
    assert_int_equal(stat(stale, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0620);
    http_server_free(other);
    assert_int_equal(access(stale, F_OK), -1);
}

static void bad_addresses_are_named(void **state)
{
    struct fixture *f = *state;
    char port[8];
    char path[200] = "/tmp/";
    struct err e = {0};

    assert_int_equal(http_listen_tcp(f->server, "not an address", "0", NULL, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    err_clear(&e);
    snprintf(port, sizeof(port), "%d", f->port);
    assert_int_equal(http_listen_tcp(f->server, "127.0.0.1", port, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "Address already in use"));
    err_clear(&e);
    memset(path + 5, 'x', 150);
    assert_int_equal(http_listen_unix(f->server, path, 0600, NULL, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
}

static const char *verdict(bool is_http11, const char *const fields[][2])
{
    struct http_guard g = {0};

    for (; (*fields)[0]; fields++)
        http_guard_field(
            &g, (*fields)[0], strlen((*fields)[0]), (*fields)[1], strlen((*fields)[1]));
    return http_guard_verdict(&g, is_http11);
}

static void the_guard_lets_ordinary_heads_pass(void **state)
{
    static const char *const get[][2] = {
        {"Host", "a:1"}, {"User-Agent", "x/1.0 (\t\xc3\xbc)"}, {"X-Stainless-Lang", ""}, {NULL}};
    static const char *const post[][2] = {{"HOST", ""}, {"content-length", "007"}, {NULL}};
    static const char *const chunked[][2] = {
        {"Host", "a"}, {"Transfer-Encoding", "Chunked"}, {NULL}};
    static const char *const none[][2] = {{NULL}};

    (void)state;
    assert_null(verdict(true, get));
    assert_null(verdict(true, post));
    assert_null(verdict(true, chunked));
    assert_null(verdict(false, none));
    assert_string_equal(verdict(true, none), "no Host");
    assert_non_null(verdict(false, chunked));
    assert_true(http_guard_method("GET") && !http_guard_method("") && !http_guard_method("G T"));
    assert_true(http_guard_target("*") && !http_guard_target(""));
}

#define server_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        server_test(a_request_is_answered_at_once),
        server_test(a_post_is_handled_once_its_body_is_whole),
        server_test(a_kept_request_is_answered_later),
        server_test(requests_in_one_packet_are_answered_in_order),
        server_test(head_is_answered_without_a_body),
        server_test(a_kept_request_learns_that_its_client_is_gone),
        server_test(who_does_not_want_to_know_is_not_told),
        server_test(what_the_guard_refuses_never_reaches_the_handler),
        server_test(a_refusal_has_the_contracts_form),
        server_test(heads_have_a_limit),
        server_test(a_body_over_the_limit_is_refused_and_the_client_can_read_why),
        server_test(a_truncated_body_is_refused),
        server_test(who_sends_no_more_is_answered_and_let_go),
        server_test(a_shared_answer_is_released_once_it_is_sent_or_dropped),
        server_test(a_stream_goes_on_until_it_is_closed),
        server_test(an_old_client_gets_a_stream_without_chunks),
        server_test(a_stream_that_is_not_read_refuses_writes_until_it_is),
        server_test(a_stream_learns_that_its_client_is_gone),
        server_test(the_connection_of_a_stream_ends_with_its_client),
        server_test(stop_lets_what_was_begun_end),
        server_test(free_ends_what_is_left),
        server_test(five_hundred_clients_are_served),
        server_test(a_unix_client_is_known_by_its_credentials),
        server_test(only_clients_that_dawdle_are_cut),
        server_test(unix_sockets_are_taken_over_only_from_the_dead),
        server_test(bad_addresses_are_named),
        checked_test(the_guard_lets_ordinary_heads_pass),
    };
    struct rlimit files;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
