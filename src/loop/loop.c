/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/loop.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "loop/fswatch.h"

enum { BATCH = 64 };

struct loop {
    int epoll_fd;
    int wake_fd;
    atomic_bool stopping;
    struct list ready;
    struct timer **heap; /* of running timers, soonest first; slot 0 stays empty */
    size_t n_timers;
    size_t heap_room;
    struct fswatcher *files; /* NULL until somebody watches a file */

    pthread_mutex_t lock; /* guards the queue of posts, nothing else */
    struct post *first;
    struct post **last;
};

struct loop *loop_new(struct err *e)
{
    struct loop *loop = mem_new(struct loop);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

    loop->wake_fd = -1;
    loop->last = &loop->first;
    list_init(&loop->ready);
    pthread_mutex_init(&loop->lock, NULL);

    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd >= 0)
        loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0 || epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &ev) < 0) {
        err_errno(e, "create event loop");
        loop_free(loop);
        return NULL;
    }
    return loop;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    fswatcher_free(loop->files);
    assert(list_empty(&loop->ready) && loop->n_timers == 0 && !loop->first);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    pthread_mutex_destroy(&loop->lock);
    free(loop->heap);
    free(loop);
}

struct fswatcher **loop_fswatcher(struct loop *loop)
{
    return &loop->files;
}

int loop_watch(struct loop *loop, struct watch *w, int fd, uint32_t events, struct err *e)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};

    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
        return err_errno(e, "watch fd %d", fd);
    w->fd = fd;
    w->ready = 0;
    list_init(&w->link);
    return 0;
}

int loop_rewatch(struct loop *loop, struct watch *w, uint32_t events, struct err *e)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};

    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) < 0)
        return err_errno(e, "watch fd %d", w->fd);
    return 0;
}

void loop_unwatch(struct loop *loop, struct watch *w)
{
    int rc = epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);

    assert(rc == 0 && "the fd was closed before loop_unwatch()");
    (void)rc;
    list_remove(&w->link);
    w->fd = -1;
}

static void place_timer(struct loop *loop, struct timer *t, size_t at)
{
    loop->heap[at] = t;
    t->place = at;
}

/* Moves the timer at this place towards the root or the leaves until the heap is in order. */
static void settle_timer(struct loop *loop, struct timer *t)
{
    size_t at = t->place;

    for (; at > 1 && loop->heap[at / 2]->due_ms > t->due_ms; at /= 2)
        place_timer(loop, loop->heap[at / 2], at);
    for (;;) {
        size_t child = 2 * at;

        if (child < loop->n_timers && loop->heap[child + 1]->due_ms < loop->heap[child]->due_ms)
            child++;
        if (child > loop->n_timers || loop->heap[child]->due_ms >= t->due_ms)
            break;
        place_timer(loop, loop->heap[child], at);
        at = child;
    }
    place_timer(loop, t, at);
}

void loop_timer_start(struct loop *loop, struct timer *t, int64_t delay_ms)
{
    t->due_ms = clock_ms() + delay_ms;
    if (t->place == 0) {
        if (loop->n_timers + 2 > loop->heap_room) {
            loop->heap_room = loop->heap_room ? loop->heap_room * 2 : 64;
            loop->heap = mem_realloc(loop->heap, loop->heap_room * sizeof(struct timer *));
        }
        place_timer(loop, t, ++loop->n_timers);
    }
    settle_timer(loop, t);
}

void loop_timer_stop(struct loop *loop, struct timer *t)
{
    struct timer *last;

    if (t->place == 0)
        return;
    last = loop->heap[loop->n_timers--];
    if (last != t) {
        place_timer(loop, last, t->place);
        settle_timer(loop, last);
    }
    t->place = 0;
}

void loop_post(struct loop *loop, struct post *p)
{
    uint64_t one = 1;

    p->next = NULL;
    pthread_mutex_lock(&loop->lock);
    *loop->last = p;
    loop->last = &p->next;
    pthread_mutex_unlock(&loop->lock);
    (void)!write(loop->wake_fd, &one, sizeof(one)); /* EAGAIN: already awake */
}

void loop_stop(struct loop *loop)
{
    uint64_t one = 1;

    atomic_store(&loop->stopping, true);
    (void)!write(loop->wake_fd, &one, sizeof(one));
}

static int timeout_ms(const struct loop *loop)
{
    int64_t left;

    if (loop->n_timers == 0)
        return -1;
    left = loop->heap[1]->due_ms - clock_ms();
    return left <= 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}

static void collect(struct loop *loop, const struct epoll_event *events, int n)
{
    for (int i = 0; i < n; i++) {
        struct watch *w = events[i].data.ptr;
        uint64_t count;

        if (!w) {
            (void)!read(loop->wake_fd, &count, sizeof(count));
            continue;
        }
        w->ready = events[i].events;
        list_append(&loop->ready, &w->link);
    }
}

static void run_watches(struct loop *loop)
{
    while (!list_empty(&loop->ready)) {
        struct watch *w = container_of(loop->ready.next, struct watch, link);

        list_remove(&w->link);
        w->fn(w, w->ready);
    }
}

void loop_drain(struct loop *loop)
{
    struct post *p;

    pthread_mutex_lock(&loop->lock);
    p = loop->first;
    loop->first = NULL;
    loop->last = &loop->first;
    pthread_mutex_unlock(&loop->lock);

    while (p) {
        struct post *next = p->next; /* p->fn() may free p */

        p->fn(p);
        p = next;
    }
}

static void run_timers(struct loop *loop)
{
    int64_t now = clock_ms();

    while (loop->n_timers > 0 && loop->heap[1]->due_ms <= now) {
        struct timer *t = loop->heap[1];

        loop_timer_stop(loop, t);
        t->fn(t);
    }
}

int loop_run(struct loop *loop, struct err *e)
{
    struct epoll_event events[BATCH];

    atomic_store(&loop->stopping, false);
    while (!atomic_load(&loop->stopping)) {
        int n = epoll_wait(loop->epoll_fd, events, BATCH, timeout_ms(loop));

        if (n < 0 && errno != EINTR)
            return err_errno(e, "epoll_wait");
        collect(loop, events, n);
        run_watches(loop);
        loop_drain(loop);
        run_timers(loop);
    }
    return 0;
}
