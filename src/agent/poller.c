/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/poller.h"

#include <limits.h>
#include <stddef.h>
#include <unistd.h>

#include "base/clock.h"

enum { BATCH = 16 };

int poller_init(struct poller *p, struct err *e)
{
    list_init(&p->ready);
    list_init(&p->alarms);
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return p->epoll_fd < 0 ? err_errno(e, "make an epoll set") : 0;
}

void poller_fini(struct poller *p)
{
    (void)close(p->epoll_fd);
}

static int64_t first_due(const struct poller *p, int64_t until_ms)
{
    int64_t first = until_ms;

    for (struct list *l = p->alarms.next; l != &p->alarms; l = l->next) {
        const struct alarm *a = container_of(l, struct alarm, link);

        if (first == 0 || a->due_ms < first)
            first = a->due_ms;
    }
    return first;
}

static void ring(struct poller *p)
{
    int64_t now = list_empty(&p->alarms) ? 0 : clock_ms();
    struct list *l = p->alarms.next;

    while (l != &p->alarms) {
        struct alarm *a = container_of(l, struct alarm, link);

        l = l->next;
        if (a->due_ms > now)
            continue;
        alarm_stop(a);
        a->fn(a);
        l = p->alarms.next; /* the callback may have taken any of them away */
    }
}

void poller_turn(struct poller *p, int64_t until_ms)
{
    struct epoll_event got[BATCH];
    int64_t due = first_due(p, until_ms);
    int64_t left = due == 0 ? 0 : due - clock_ms();
    int n = epoll_wait(p->epoll_fd,
                       got,
                       BATCH,
                       due == 0         ? -1
                       : left < 0       ? 0
                       : left < INT_MAX ? (int)left
                                        : INT_MAX);

    for (int i = 0; i < n; i++) {
        struct source *s = got[i].data.ptr;

        s->events = got[i].events;
        list_append(&p->ready, &s->link);
    }
    while (!list_empty(&p->ready)) {
        struct source *s = container_of(p->ready.next, struct source, link);

        list_remove(&s->link);
        s->fn(s, s->events);
    }
    ring(p);
}

void source_init(struct source *s, int fd, void (*fn)(struct source *s, uint32_t events))
{
    *s = (struct source){.fn = fn, .fd = fd};
    list_init(&s->link);
}

void source_want(struct poller *p, struct source *s, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};

    if (s->fd < 0 || s->wanted == events)
        return;
    (void)epoll_ctl(p->epoll_fd,
                    events == 0      ? EPOLL_CTL_DEL
                    : s->wanted == 0 ? EPOLL_CTL_ADD
                                     : EPOLL_CTL_MOD,
                    s->fd,
                    &ev);
    s->wanted = events;
    if (events == 0)
        list_remove(&s->link);
}

void source_close(struct poller *p, struct source *s)
{
    if (s->fd < 0)
        return;
    source_want(p, s, 0);
    (void)close(s->fd);
    s->fd = -1;
}

void alarm_init(struct alarm *a, void (*fn)(struct alarm *a))
{
    a->fn = fn;
    list_init(&a->link);
}

void alarm_set(struct poller *p, struct alarm *a, int64_t delay_ms)
{
    alarm_stop(a);
    a->due_ms = clock_ms() + delay_ms;
    list_append(&p->alarms, &a->link);
}

void alarm_stop(struct alarm *a)
{
    list_remove(&a->link);
}
