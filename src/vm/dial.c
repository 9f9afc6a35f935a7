/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/dial.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "vmm/vmm.h"

enum {
    LEAST_PAUSE_MS = 2,
    MOST_PAUSE_MS = 1000,
    PATIENCE_MS = 600 * 1000,
    ANSWER_MS = 10000, /* a paused VM does not answer, nor hang up */
    ANSWER_MAX = 32,
};

struct dial {
    struct loop *loop;
    dial_fn *fn;
    void *owner;
    int socket_fd; /* O_PATH: the socket itself */
    uint32_t port;
    int64_t began_ms;
    int fd; /* -1: none; to wait for the next try, or done */
    struct watch watch;
    struct timer timer;
    char answer[ANSWER_MAX];
    size_t n;
};

static void hang_up(struct dial *d)
{
    loop_timer_stop(d->loop, &d->timer);
    if (d->fd < 0)
        return;
    loop_unwatch(d->loop, &d->watch);
    close(take_fd(&d->fd));
}

static void try_later(struct dial *d)
{
    int64_t tried_ms = clock_ms() - d->began_ms;
    int64_t pause_ms = tried_ms / 16;

    hang_up(d);
    if (tried_ms > PATIENCE_MS)
        return;
    if (pause_ms < LEAST_PAUSE_MS)
        pause_ms = LEAST_PAUSE_MS;
    loop_timer_start(d->loop, &d->timer, pause_ms < MOST_PAUSE_MS ? pause_ms : MOST_PAUSE_MS);
}

/* A connection that has asked for the port, or -1. */
static int ask(const struct dial *d)
{
    auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char line[32];
    int n = snprintf(line, sizeof(line), "CONNECT %" PRIu32 "\n", d->port);

    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", d->socket_fd);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
        return -1;
    return take_fd(&fd);
}

static void try_now(struct dial *d)
{
    struct err e = {0};

    d->n = 0;
    d->fd = ask(d);
    if (d->fd >= 0 && loop_watch(d->loop, &d->watch, d->fd, EPOLLIN, &e) < 0)
        close(take_fd(&d->fd));
    if (d->fd < 0)
        try_later(d);
    else
        loop_timer_start(d->loop, &d->timer, ANSWER_MS);
}

static void on_timer(struct timer *t)
{
    struct dial *d = container_of(t, struct dial, timer);

    if (d->fd >= 0)
        try_later(d);
    else
        try_now(d);
}

/* Byte by byte: what follows the line is the guest's already. 1: it is whole. */
static int take_line(struct dial *d)
{
    while (d->n < sizeof(d->answer)) {
        ssize_t got = recv(d->fd, d->answer + d->n, 1, MSG_DONTWAIT);

        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (got <= 0)
            return -1;
        if (d->answer[d->n++] == '\n')
            return d->n > 3 && memcmp(d->answer, "OK ", 3) == 0 ? 1 : -1;
    }
    return -1;
}

static void on_readable(struct watch *w, uint32_t events)
{
    struct dial *d = container_of(w, struct dial, watch);
    int rc = take_line(d);
    int fd;

    (void)events;
    if (rc < 0)
        try_later(d);
    if (rc <= 0)
        return;
    loop_timer_stop(d->loop, &d->timer);
    loop_unwatch(d->loop, &d->watch);
    fd = take_fd(&d->fd);
    d->fn(d->owner, fd);
}

struct dial *dial_new(struct loop *loop, int dir_fd, dial_fn *fn, void *owner, struct err *e)
{
    auto_close int socket_fd = openat(dir_fd, VMM_VSOCK_SOCKET, O_PATH | O_CLOEXEC | O_NOFOLLOW);
    struct dial *d;

    if (socket_fd < 0) {
        err_errno(e, "open %s", VMM_VSOCK_SOCKET);
        return NULL;
    }
    d = mem_new(struct dial);
    *d = (struct dial){.loop = loop,
                       .fn = fn,
                       .owner = owner,
                       .socket_fd = take_fd(&socket_fd),
                       .fd = -1,
                       .watch.fn = on_readable,
                       .timer.fn = on_timer};
    return d;
}

void dial_free(struct dial *d)
{
    if (!d)
        return;
    hang_up(d);
    close(d->socket_fd);
    free(d);
}

void dial_begin(struct dial *d, uint32_t port)
{
    hang_up(d);
    d->port = port;
    d->began_ms = clock_ms();
    try_now(d);
}
