/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop's connection to QEMU, over events.sock.
 *
 * A daemon that was restarted connects to the same socket again: the connection
 * of the one before ended with it. An idle VM costs the struct alone, since the
 * buffer exists only while part of a line waits for the rest.
 */
#include "vmm/qemu.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"
#include "vmm/monitor.h"
#include "vmm/qmp_line.h"
#include "vmm/sock.h"

enum {
    LINE_MAX_BYTES = 64 * 1024,
    CHUNK = 4096,
    DRAIN_MAX_CHUNKS = 256, /* a socket buffer several times over */
};

struct qemu_monitor {
    struct vmm_monitor base;
    struct watch watch; /* watch.fd is owned; -1 once the stream is LOST */
    struct buf in;
    int64_t handshake_id;
    int64_t probe_id; /* of the probe under way; 0 when there is none */
    int64_t last_id;
    bool greeted;
    bool busy; /* take_lines() is at work, and frees it if the callback closed it */
    bool closed;
};

static void stop_watching(struct qemu_monitor *m)
{
    int fd = m->watch.fd;

    if (fd < 0)
        return;
    loop_unwatch(m->base.loop, &m->watch);
    close(fd);
    buf_free(&m->in);
}

static void tell(struct qemu_monitor *m, const struct vmm_event *event)
{
    m->base.fn(m->base.owner, event);
}

static void lose(struct qemu_monitor *m, const char *reason)
{
    struct vmm_event event = {.kind = VMM_EVENT_LOST, .reason = reason};

    stop_watching(m);
    tell(m, &event);
}

/* Returns the command's id, or 0. What does not fit into the socket at once is not waited for. */
static int64_t send_command(struct qemu_monitor *m, const char *command)
{
    char text[128];
    int n = snprintf(
        text, sizeof(text), "{\"execute\":\"%s\",\"id\":%" PRId64 "}\n", command, ++m->last_id);

    if (send(m->watch.fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n)
        return 0;
    return m->last_id;
}

static const struct {
    const char *name;
    enum vmm_event_kind kind;
} events[] = {
    {"SHUTDOWN", VMM_EVENT_SHUTDOWN},
    {"STOP", VMM_EVENT_PAUSED},
    {"RESUME", VMM_EVENT_RESUMED},
    {"RESET", VMM_EVENT_REBOOT},
    {"GUEST_PANICKED", VMM_EVENT_PANIC},
};

static void take_event(struct qemu_monitor *m, const struct qmp_line *line)
{
    struct vmm_event event = {.reason = qmp_text(line->data, "reason")};

    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        if (strcmp(events[i].name, line->event) == 0) {
            event.kind = events[i].kind;
            tell(m, &event);
            return;
        }
    }
}

static void take_answer(struct qemu_monitor *m, const struct qmp_line *line)
{
    struct vmm_event event = {.kind = VMM_EVENT_READY};

    if (line->id == 0)
        return;
    if (line->id == m->handshake_id) {
        m->handshake_id = 0;
        tell(m, &event);
    } else if (line->id == m->probe_id) {
        m->probe_id = 0;
        event.kind = VMM_EVENT_STATUS;
        event.status = qmp_status(line->data);
        tell(m, &event);
    }
}

static void take_line(struct qemu_monitor *m, const struct qmp_line *line)
{
    switch (line->kind) {
    case QMP_GREETING:
        m->greeted = true;
        m->handshake_id = send_command(m, "qmp_capabilities");
        if (m->handshake_id == 0)
            lose(m, "QEMU does not take commands");
        break;
    case QMP_EVENT:
        take_event(m, line);
        break;
    case QMP_RETURN:
        take_answer(m, line);
        break;
    case QMP_ERROR:
        lose(m, "QEMU refused a command");
        break;
    }
}

/* Acts on every whole line. False once the monitor is lost or closed. */
static bool take_lines(struct qemu_monitor *m)
{
    bool alive = true;
    const char *end;

    m->busy = true;
    while (alive && m->in.data && (end = memchr(m->in.data, '\n', m->in.len))) {
        struct qmp_line line = {0};
        struct err e = {0};
        size_t len = (size_t)(end - m->in.data);
        int rc = qmp_line_parse(m->in.data, len, &line, &e);

        buf_consume(&m->in, len + 1);
        if (rc < 0)
            lose(m, "QEMU sent what is not QMP");
        else
            take_line(m, &line);
        qmp_line_fini(&line);
        alive = m->watch.fd >= 0;
    }
    m->busy = false;
    if (m->closed) {
        free(m);
        return false;
    }
    if (m->in.len == 0)
        buf_free(&m->in);
    return alive;
}

/* Takes one piece of what has arrived. False when there is nothing more to take for now. */
static bool take_some(struct qemu_monitor *m)
{
    char chunk[CHUNK];
    ssize_t n = recv(m->watch.fd, chunk, sizeof(chunk), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        lose(m, "QEMU closed the connection");
        return false;
    }
    buf_append(&m->in, chunk, (size_t)n);
    if (!buf_ok(&m->in)) {
        lose(m, "QEMU sent too long a line");
        return false;
    }
    return take_lines(m);
}

static void on_readable(struct watch *w, uint32_t events_ready)
{
    (void)events_ready;
    (void)take_some(container_of(w, struct qemu_monitor, watch));
}

static void qemu_monitor_close(struct vmm_monitor *base)
{
    struct qemu_monitor *m = container_of(base, struct qemu_monitor, base);

    stop_watching(m);
    m->closed = true;
    if (!m->busy)
        free(m);
}

static struct vmm_monitor *qemu_monitor_open(struct loop *loop, int dir_fd, vmm_event_fn *fn,
                                             void *owner, struct err *e)
{
    struct qemu_monitor *m;
    int fd = sock_connect(dir_fd, VMM_EVENTS_SOCKET, e);

    if (fd < 0)
        return NULL;
    m = mem_new(struct qemu_monitor);
    m->base = (struct vmm_monitor){&qemu_monitor_driver, loop, fn, owner};
    m->in = BUF(LINE_MAX_BYTES);
    m->last_id = clock_us(); /* unlike those of a daemon before us; see qmp_open() */
    m->watch.fn = on_readable;
    if (loop_watch(loop, &m->watch, fd, EPOLLIN, e) < 0) {
        close(fd);
        free(m);
        return NULL;
    }
    return &m->base;
}

static int qemu_monitor_probe(struct vmm_monitor *base, struct err *e)
{
    struct qemu_monitor *m = container_of(base, struct qemu_monitor, base);

    if (m->watch.fd < 0 || !m->greeted || m->handshake_id != 0)
        return err_set(e, ERR_BAD_STATE, "the monitor is not connected");
    if (m->probe_id != 0)
        return 0;
    m->probe_id = send_command(m, "query-status");
    return m->probe_id ? 0 : err_set(e, ERR_INTERNAL, "QEMU does not take commands");
}

static void qemu_monitor_drain(struct vmm_monitor *base)
{
    struct qemu_monitor *m = container_of(base, struct qemu_monitor, base);

    if (m->watch.fd < 0 || m->busy) /* in the callback: take_lines() goes on after it */
        return;
    for (int i = 0; i < DRAIN_MAX_CHUNKS && take_some(m); i++)
        ;
}

const struct vmm_monitor_driver qemu_monitor_driver = {
    .attach = qemu_monitor_open,
    .probe = qemu_monitor_probe,
    .drain = qemu_monitor_drain,
    .close = qemu_monitor_close,
};
