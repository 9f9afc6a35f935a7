/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qmp.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/scm.h"
#include "vmm/qmp_line.h"
#include "vmm/sock.h"

enum { LINE_MAX_BYTES = 1 << 20, CHUNK = 4096 };

static int gone(struct err *e)
{
    return err_set(e, ERR_NOT_FOUND, "QEMU closed the connection");
}

/* Appends what has arrived, waiting for it if need be. */
static int receive(const struct op *op, struct qmp *q, struct err *e)
{
    char chunk[CHUNK];
    ssize_t n;

    if (op_wait(op, q->fd, POLLIN, e) < 0)
        return -1;
    n = recv(q->fd, chunk, sizeof(chunk), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n == 0 || (n < 0 && errno == ECONNRESET))
        return gone(e);
    if (n < 0)
        return err_errno(e, "read from QEMU");
    buf_append(&q->in, chunk, (size_t)n);
    if (!buf_ok(&q->in))
        return err_set(e, ERR_INTERNAL, "QEMU sent a line of more than %zu bytes", q->in.max);
    return 0;
}

/* Takes the next line. */
static int next_line(const struct op *op, struct qmp *q, struct qmp_line *out, struct err *e)
{
    const char *end;
    size_t len;
    int rc;

    while (!q->in.data ||
           !(end = memchr(q->in.data + q->searched, '\n', q->in.len - q->searched))) {
        q->searched = q->in.len;
        if (receive(op, q, e) < 0)
            return -1;
    }
    /* op_wait() lets what is ready pass, so a stream without end would never meet the deadline. */
    if (clock_ms() > op->deadline_ms)
        return err_set(e, ERR_TIMEOUT, "deadline passed");
    len = (size_t)(end - q->in.data);
    rc = qmp_line_parse(q->in.data, len, out, e);
    buf_consume(&q->in, len + 1);
    q->searched = 0;
    if (rc < 0) {
        e->code = ERR_INTERNAL; /* QEMU's fault, not the client's */
        return err_wrap(e, "QEMU sent what is not QMP");
    }
    return 0;
}

static void keep_event(struct qmp *q, const struct qmp_line *line)
{
    if (!q->wanted || strcmp(q->wanted, line->event) != 0)
        return;
    json_decref(q->event);
    q->event = line->data ? json_deep_copy(line->data) : json_null();
}

/* Sends the text; with it travels a copy of fd unless that is -1. */
static int send_command(const struct op *op, struct qmp *q, const struct buf *text, int fd,
                        struct err *e)
{
    const char *at = text->data;
    size_t left = text->len;

    while (left > 0) {
        ssize_t n;

        if (op_wait(op, q->fd, POLLOUT, e) < 0)
            return -1;
        n = scm_send(q->fd, at, left, fd);
        if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
            return gone(e);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return err_errno(e, "write to QEMU");
        if (n > 0) {
            at += n;
            left -= (size_t)n;
            fd = -1; /* it went with the first byte */
        }
    }
    return 0;
}

/* An answer to somebody else's command is one that a client before us did not wait for. */
static int await_answer(const struct op *op, struct qmp *q, json_t **value_out, struct err *e)
{
    for (;;) {
        auto_qmp_line struct qmp_line line = {0};

        if (next_line(op, q, &line, e) < 0)
            return -1;
        if (line.kind == QMP_EVENT)
            keep_event(q, &line);
        else if (line.kind == QMP_RETURN && line.id == q->last_id) {
            *value_out = json_incref(json_object_get(line.root, "return"));
            return 0;
        } else if (line.kind == QMP_ERROR && (line.id == q->last_id || line.id == 0))
            return err_set(e, ERR_INTERNAL, "%s", line.desc);
    }
}

json_t *qmp_call_fd(const struct op *op, struct qmp *q, const char *command, const char *arguments,
                    int fd, struct err *e)
{
    auto_buf struct buf text = BUF(LINE_MAX_BYTES);
    struct jout j = JOUT(&text);
    json_t *value = NULL;

    jout_open(&j, NULL, '{');
    jout_str(&j, "execute", command);
    if (arguments)
        jout_raw(&j, "arguments", arguments);
    jout_int(&j, "id", ++q->last_id);
    jout_close(&j, '}');
    buf_puts(&text, "\n");
    if (!buf_ok(&text))
        err_set(e, ERR_INTERNAL, "the command is too long");
    else if (send_command(op, q, &text, fd, e) == 0 && await_answer(op, q, &value, e) == 0)
        return value;
    err_wrap(e, "%s", command);
    return NULL;
}

json_t *qmp_call(const struct op *op, struct qmp *q, const char *command, const char *arguments,
                 struct err *e)
{
    return qmp_call_fd(op, q, command, arguments, -1, e);
}

int qmp_do(const struct op *op, struct qmp *q, const char *command, const char *arguments,
           struct err *e)
{
    json_t *value = qmp_call_fd(op, q, command, arguments, -1, e);

    json_decref(value);
    return value ? 0 : -1;
}

void qmp_want(struct qmp *q, const char *name)
{
    json_decref(q->event);
    q->event = NULL;
    q->wanted = name;
}

json_t *qmp_next_event(const struct op *op, struct qmp *q, struct err *e)
{
    json_t *event;

    while (!q->event) {
        auto_qmp_line struct qmp_line line = {0};

        if (next_line(op, q, &line, e) < 0) {
            err_wrap(e, "wait for %s", q->wanted);
            return NULL;
        }
        if (line.kind == QMP_EVENT)
            keep_event(q, &line);
    }
    event = q->event;
    q->event = NULL;
    return event;
}

static int shake_hands(const struct op *op, struct qmp *q, struct err *e)
{
    bool greeted = false;

    while (!greeted) {
        auto_qmp_line struct qmp_line line = {0};

        if (next_line(op, q, &line, e) < 0)
            return err_wrap(e, "wait for QEMU's greeting");
        greeted = line.kind == QMP_GREETING;
    }
    return qmp_do(op, q, "qmp_capabilities", NULL, e);
}

int qmp_open(const struct op *op, int dir_fd, const char *socket, struct qmp *out, struct err *e)
{
    /* Ids are never those of an earlier client, whose late answers may still arrive. */
    auto_qmp struct qmp q = {.fd = -1, .in = BUF(LINE_MAX_BYTES), .last_id = clock_us()};

    q.fd = sock_connect(dir_fd, socket, e);
    if (q.fd < 0 || shake_hands(op, &q, e) < 0)
        return -1;
    *out = q;
    q = QMP_CLOSED;
    return 0;
}

void qmp_close(struct qmp *q)
{
    cleanup_close(&q->fd);
    buf_free(&q->in);
    json_decref(q->event);
    *q = QMP_CLOSED;
}
