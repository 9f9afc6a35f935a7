/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop's connection to a Firecracker. It tells of nothing by itself (an end is
 * the process's end), so this is a connection that is kept for probes: GET / and
 * its answer. The first one is the handshake.
 *
 * A Firecracker that is busy with another request, as while it writes a snapshot,
 * answers after it; whether that is late is the owner's to say.
 */
#include "vmm/firecracker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "base/list.h"
#include "base/mem.h"
#include "vmm/http_answer.h"
#include "vmm/sock.h"

enum { ANSWER_MAX = 64 * 1024, CHUNK = 4096 };

struct firecracker_monitor {
    struct vmm_monitor base;
    struct watch watch; /* watch.fd is owned; -1 once the connection is LOST */
    struct buf in;      /* exists only while part of an answer waits for the rest */
    bool asking;
    bool greeted;
    bool busy; /* take_answer() is at work, and frees it if the callback closed it */
    bool closed;
};

static const char question[] = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";

static void stop_watching(struct firecracker_monitor *m)
{
    int fd = m->watch.fd;

    if (fd < 0)
        return;
    loop_unwatch(m->base.loop, &m->watch);
    close(fd);
    buf_free(&m->in);
}

static void lose(struct firecracker_monitor *m, const char *reason)
{
    struct vmm_event event = {.kind = VMM_EVENT_LOST, .reason = reason};

    stop_watching(m);
    m->base.fn(m->base.owner, &event);
}

/* What does not fit into the socket at once is not waited for. */
static bool ask(struct firecracker_monitor *m, int fd)
{
    m->asking = send(fd, question, sizeof(question) - 1, MSG_DONTWAIT | MSG_NOSIGNAL) ==
                (ssize_t)sizeof(question) - 1;
    return m->asking;
}

static enum vmm_status status_of(const struct http_answer *a)
{
    static const struct {
        const char *state;
        enum vmm_status status;
    } states[] = {
        {"Not started", VMM_STATUS_CREATED},
        {"Running", VMM_STATUS_RUNNING},
        {"Paused", VMM_STATUS_PAUSED},
    };
    struct err ignored = {0};
    json_auto_t *body = a->status == 200 ? parse_json(a->body, a->body_len, &ignored) : NULL;
    const char *state = json_string_value(json_object_get(body, "state"));

    for (size_t i = 0; state && i < sizeof(states) / sizeof(states[0]); i++) {
        if (strcmp(states[i].state, state) == 0)
            return states[i].status;
    }
    return VMM_STATUS_UNKNOWN;
}

static void tell(struct firecracker_monitor *m, const struct http_answer *a)
{
    struct vmm_event event = {.kind = m->greeted ? VMM_EVENT_STATUS : VMM_EVENT_READY,
                              .status = status_of(a)};

    m->asking = false;
    m->greeted = true;
    buf_free(&m->in);
    m->busy = true;
    m->base.fn(m->base.owner, &event);
    m->busy = false;
    if (m->closed)
        free(m);
}

static void take_answer(struct firecracker_monitor *m)
{
    struct http_answer a = {0};
    struct err e = {0};
    int rc = http_answer_parse(buf_str(&m->in), m->in.len, &a, &e);

    if (rc < 0 || m->in.len > (rc == 1 ? a.len : m->in.max) || !m->asking)
        lose(m, "Firecracker sent what is not an answer");
    else if (rc == 1)
        tell(m, &a);
}

static void take_some(struct firecracker_monitor *m)
{
    char chunk[CHUNK];
    ssize_t n = recv(m->watch.fd, chunk, sizeof(chunk), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        lose(m, "Firecracker closed the connection");
        return;
    }
    buf_append(&m->in, chunk, (size_t)n);
    if (buf_ok(&m->in))
        take_answer(m);
    else
        lose(m, "Firecracker sent too long an answer");
}

static void on_readable(struct watch *w, uint32_t events)
{
    (void)events;
    take_some(container_of(w, struct firecracker_monitor, watch));
}

static void monitor_close(struct vmm_monitor *base)
{
    struct firecracker_monitor *m = container_of(base, struct firecracker_monitor, base);

    stop_watching(m);
    m->closed = true;
    if (!m->busy)
        free(m);
}

static struct vmm_monitor *monitor_open(struct loop *loop, int dir_fd, vmm_event_fn *fn,
                                        void *owner, struct err *e)
{
    struct firecracker_monitor *m;
    int fd = sock_connect(dir_fd, VMM_API_SOCKET, e);

    if (fd < 0)
        return NULL;
    m = mem_new(struct firecracker_monitor);
    m->base = (struct vmm_monitor){&firecracker_monitor_driver, loop, fn, owner};
    m->in = BUF(ANSWER_MAX);
    m->watch.fn = on_readable;
    if (!ask(m, fd))
        err_set(e, ERR_INTERNAL, "Firecracker does not take questions");
    else if (loop_watch(loop, &m->watch, fd, EPOLLIN, e) == 0)
        return &m->base;
    close(fd);
    free(m);
    return NULL;
}

static int monitor_probe(struct vmm_monitor *base, struct err *e)
{
    struct firecracker_monitor *m = container_of(base, struct firecracker_monitor, base);

    if (m->watch.fd < 0 || !m->greeted)
        return err_set(e, ERR_BAD_STATE, "the monitor is not connected");
    if (m->asking || ask(m, m->watch.fd))
        return 0;
    return err_set(e, ERR_INTERNAL, "Firecracker does not take questions");
}

static void monitor_drain(struct vmm_monitor *base)
{
    struct firecracker_monitor *m = container_of(base, struct firecracker_monitor, base);

    if (m->watch.fd >= 0 && !m->busy)
        take_some(m);
}

const struct vmm_monitor_driver firecracker_monitor_driver = {
    .attach = monitor_open,
    .probe = monitor_probe,
    .drain = monitor_drain,
    .close = monitor_close,
};
