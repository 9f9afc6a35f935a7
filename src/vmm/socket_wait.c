/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/socket_wait.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "vmm/sock.h"

enum { KEPT = 8 };

/*
 * To close an inotify instance takes the kernel 10 to 20 ms, while it waits for all that
 * might still look at it; to take a watch off takes nothing. So a few are kept.
 */
static struct {
    pthread_mutex_t lock;
    int fds[KEPT];
    size_t n;
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int take_kept(void)
{
    int fd;

    pthread_mutex_lock(&kept.lock);
    fd = kept.n > 0 ? kept.fds[--kept.n] : -1;
    pthread_mutex_unlock(&kept.lock);
    return fd >= 0 ? fd : inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
}

static void keep(int fd)
{
    pthread_mutex_lock(&kept.lock);
    if (kept.n < KEPT) {
        kept.fds[kept.n++] = fd;
        fd = -1;
    }
    pthread_mutex_unlock(&kept.lock);
    cleanup_close(&fd);
}

void socket_wait_forget(void)
{
    pthread_mutex_lock(&kept.lock);
    while (kept.n > 0)
        close(kept.fds[--kept.n]);
    pthread_mutex_unlock(&kept.lock);
}

/* An inotify instance that reports new names in a directory, and nothing else; fd -1: none. */
struct dir_watch {
    int fd;
    int wd;
};

static void unwatch(struct dir_watch *w)
{
    if (w->fd < 0)
        return;
    (void)inotify_rm_watch(w->fd, w->wd);
    keep(w->fd);
}

#define auto_watch __attribute__((cleanup(unwatch)))

static struct dir_watch watch_directory(int dir_fd)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    struct dir_watch w = {.fd = take_kept()};
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", dir_fd);
    if (w.fd >= 0)
        w.wd = inotify_add_watch(w.fd, path, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
    if (w.fd >= 0 && w.wd >= 0)
        return w;
    if (!atomic_flag_test_and_set(&said))
        log_warn(
            "sockets of VMMs are looked for every millisecond, since inotify cannot be had: %s",
            strerrordesc_np(errno));
    cleanup_close(&w.fd);
    return (struct dir_watch){.fd = -1};
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
    auto_watch struct dir_watch watch =
        w->how == SOCKET_BY_EVENT ? watch_directory(w->dir_fd) : (struct dir_watch){.fd = -1};
    char words[LAST_WORDS_SIZE];

    if (try_until_there(op, w, watch.fd, e) == 0)
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
