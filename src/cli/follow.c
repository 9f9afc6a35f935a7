/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/follow.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cli/session.h"
#include "cli/text.h"

enum {
    WAIT_ONCE_MS = 5 * 60 * 1000, /* the most that the daemon holds one wait */
    WAIT_GRACE_MS = 30 * 1000,
    LOG_REST_MS = 500, /* for what of an ended instance's log is still under way */
};

/* --- the log --- */

static int print_line(void *ctx, const char *data, size_t len, struct err *e)
{
    json_auto_t *line = json_loadb(data, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

    (void)ctx;
    if (!json_is_string(line))
        return err_set(e, ERR_INTERNAL, "the daemon sent a log line that is no JSON string");
    fwrite(json_string_value(line), 1, json_string_length(line), stdout);
    putchar('\n');
    return 0;
}

static int feed(void *ctx, const char *data, size_t len, struct err *e)
{
    int rc = sse_feed(ctx, data, len, e);

    /* Who reads a followed log through a pipe wants each line now. */
    if (fflush(stdout) != 0 && rc == 0)
        rc = err_errno(e, "write to standard output");
    return rc;
}

void follow_begin(struct log_stream *log)
{
    log->x = EXCHANGE;
    sse_init(&log->events, print_line, NULL);
}

void log_close(struct log_stream *log)
{
    exchange_fini(&log->x);
    sse_fini(&log->events);
}

int log_open(struct log_stream *log, const char *path, struct err *e)
{
    const struct op op = session_op(SESSION_CALL_MS);
    const struct client_request request = {"GET", path, NULL};

    if (session_send(&op, &log->x, &request, e) < 0 || session_head(&op, &log->x, e) < 0)
        return -1;
    if (!log->x.response.is_event_stream)
        return err_set(e, ERR_INTERNAL, "the daemon's answer is no event stream");
    return 0;
}

int log_print(const struct op *op, struct log_stream *log, struct err *e)
{
    const struct response_sink sink = {feed, &log->events};

    return client_body(op, &log->x, &sink, e);
}

/* --- the wait --- */

static int send_wait(const struct op *op, struct exchange *x, const char *name, const char *state,
                     int64_t timeout_ms, struct err *e)
{
    auto_buf struct buf rest = BUF(4096);
    auto_free char *path = NULL;
    struct client_request request = {.method = "GET"};

    buf_puts(&rest, "/wait?state=");
    url_puts(&rest, state);
    buf_printf(&rest, "&timeout=%" PRId64 "ms", timeout_ms);
    path = instance_path(name, buf_str(&rest));
    request.path = path;
    return session_send(op, x, &request, e);
}

static json_t *finish_wait(const struct op *op, struct exchange *x, struct err *e)
{
    return session_head(op, x, e) < 0 ? NULL : session_document(op, x, e);
}

json_t *wait_for_state(const char *name, const char *state, int64_t timeout_ms, struct err *e)
{
    int64_t now = clock_ms();
    int64_t until = timeout_ms > INT64_MAX - now ? INT64_MAX : now + timeout_ms;

    for (;;) {
        int64_t left = until - clock_ms();
        int64_t once = left < 0 ? 0 : left < WAIT_ONCE_MS ? left : WAIT_ONCE_MS;
        const struct op op = session_op(once + WAIT_GRACE_MS);
        auto_exchange struct exchange x = EXCHANGE;
        json_t *doc = NULL;

        if (send_wait(&op, &x, name, state, once, e) == 0)
            doc = finish_wait(&op, &x, e);
        if (!doc || !json_is_true(json_object_get(doc, "timed_out")) || clock_ms() >= until)
            return doc;
        json_decref(doc);
    }
}

/* --- both --- */

/* An fd that is readable once one of the two is. */
static int either_fd(int a, int b, struct err *e)
{
    auto_close int fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ready = {.events = EPOLLIN};

    if (fd < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, a, &ready) < 0 ||
        epoll_ctl(fd, EPOLL_CTL_ADD, b, &ready) < 0)
        return err_errno(e, "epoll");
    return take_fd(&fd);
}

static bool is_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

/* Prints until the wait has its answer; the log may end first. */
static int print_until_answer(struct log_stream *log, const struct exchange *waiting, struct err *e)
{
    struct op op = session_op(INT64_MAX);
    int interrupt_fd = op.cancel_fd;
    auto_close int either = either_fd(interrupt_fd, waiting->fd, e);

    if (either < 0)
        return -1;
    op.cancel_fd = either;
    if (log_print(&op, log, e) == 0)
        return 0;
    if (e->code != ERR_CANCELLED || is_readable(interrupt_fd))
        return -1;
    err_clear(e);
    return 0;
}

static int print_rest(struct log_stream *log, struct err *e)
{
    const struct op op = session_op(LOG_REST_MS);

    if (log_print(&op, log, e) == 0)
        return 0;
    if (e->code != ERR_TIMEOUT)
        return -1;
    err_clear(e);
    return 0;
}

json_t *follow_until_end(const char *id, struct err *e)
{
    auto_free char *path = instance_path(id, "/logs?follow=true&tail=5000&source=app");
    auto_log struct log_stream log;

    follow_begin(&log);
    if (log_open(&log, path, e) < 0)
        return NULL;
    for (;;) {
        const struct op op = session_op(WAIT_ONCE_MS + WAIT_GRACE_MS);
        auto_exchange struct exchange x = EXCHANGE;
        json_t *doc = NULL;

        if (send_wait(&op, &x, id, "Stopped", WAIT_ONCE_MS, e) == 0 &&
            print_until_answer(&log, &x, e) == 0)
            doc = finish_wait(&op, &x, e);
        if (doc && json_is_true(json_object_get(doc, "timed_out"))) {
            json_decref(doc);
            continue;
        }
        if (doc && print_rest(&log, e) < 0) {
            json_decref(doc);
            return NULL;
        }
        return doc;
    }
}
