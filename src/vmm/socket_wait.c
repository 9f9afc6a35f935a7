/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/socket_wait.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "vmm/sock.h"

/* An inotify instance that reports new names in the directory, or -1. */
static int watch_directory(int dir_fd)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    auto_close int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", dir_fd);
    if (fd >= 0 && inotify_add_watch(fd, path, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR) >= 0)
        return take_fd(&fd);
    if (!atomic_flag_test_and_set(&said))
        log_warn(
            "sockets of VMMs are looked for every millisecond, since inotify cannot be had: %s",
            strerrordesc_np(errno));
    return -1;
}

static void drop_events(int inotify_fd)
{
    char events[4096];

    while (read(inotify_fd, events, sizeof(events)) > 0)
        ;
}

/* Until something may have changed. pause_ms -1: only an event can tell. */
static int wait_for_change(const struct op *op, const struct socket_wait *w, int inotify_fd,
                           int pause_ms, struct err *e)
{
    struct pollfd fds[] = {
        {.fd = op->cancel_fd, .events = POLLIN},
        {.fd = *w->vmm->pidfd, .events = POLLIN},
        {.fd = inotify_fd, .events = POLLIN},
    };
    int64_t left = op->deadline_ms - clock_ms();
    int n;

    if (left <= 0)
        return err_set(e, ERR_TIMEOUT, "deadline passed");
    if (pause_ms < 0 || pause_ms > left)
        pause_ms = left > INT_MAX ? INT_MAX : (int)left;
    n = poll(fds, sizeof(fds) / sizeof(fds[0]), pause_ms);
    if (n < 0 && errno != EINTR)
        return err_errno(e, "poll");
    if (n > 0 && fds[0].revents)
        return err_set(e, ERR_CANCELLED, "cancelled");
    if (n > 0 && fds[1].revents)
        return err_set(e, ERR_NOT_FOUND, "the process has ended");
    if (n > 0 && fds[2].revents)
        drop_events(inotify_fd);
    return 0;
}

static int pause_of(const struct socket_wait *w, int inotify_fd)
{
    if (w->how == SOCKET_BY_POLL_50MS)
        return 50;
    return inotify_fd < 0 || faccessat(w->dir_fd, w->name, F_OK, 0) == 0 ? 1 : -1;
}

static int try_until_there(const struct op *op, const struct socket_wait *w, int inotify_fd,
                           struct err *e)
{
    for (;;) {
        auto_close int fd = sock_connect(w->dir_fd, w->name, e);

        if (fd >= 0)
            return 0;
        if (e->code != ERR_NOT_FOUND)
            return -1;
        err_clear(e);
        if (wait_for_change(op, w, inotify_fd, pause_of(w, inotify_fd), e) < 0)
            return -1;
    }
}

/* The watch comes before the first try: what happens in between is in its queue. */
int socket_wait(const struct op *op, const struct socket_wait *w, struct err *e)
{
    auto_close int inotify_fd = w->how == SOCKET_BY_EVENT ? watch_directory(w->dir_fd) : -1;
    char words[LAST_WORDS_SIZE];

    if (try_until_there(op, w, inotify_fd, e) == 0)
        return 0;
    if (e->code == ERR_NOT_FOUND)
        return last_words_explain(w->vmm, e);
    last_words(w->vmm->log_fd, w->vmm->log_from, words);
    return err_wrap(e,
                    "%s did not listen on %s%s%s",
                    w->vmm->program,
                    w->name,
                    words[0] ? "; its last words: " : "",
                    words);
}
