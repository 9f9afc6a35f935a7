/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's one wait: for fds and for moments.
 *
 * As in loop/loop.h a callback may remove any source or alarm, also one that is
 * ready in the same turn. That loop has threads and posts, which a guest's init
 * has no use for.
 */
#pragma once

#include <stdint.h>
#include <sys/epoll.h>

#include "base/err.h"
#include "base/list.h"

struct poller {
    int epoll_fd;
    struct list ready;
    struct list alarms; /* that run, in no order: there are few */
};

struct source {
    void (*fn)(struct source *s, uint32_t events);
    int fd;          /* owned; -1 for none */
    uint32_t wanted; /* 0: not watched, not even for a hang-up */
    uint32_t events;
    struct list link;
};

struct alarm {
    void (*fn)(struct alarm *a);
    int64_t due_ms;
    struct list link;
};

int poller_init(struct poller *p, struct err *e);
void poller_fini(struct poller *p);
void poller_turn(struct poller *p, int64_t until_ms); /* clock_ms(); 0: until something happens */

void source_init(struct source *s, int fd, void (*fn)(struct source *s, uint32_t events));
void source_want(struct poller *p, struct source *s, uint32_t events);
void source_close(struct poller *p, struct source *s); /* and its fd; fine twice */

void alarm_init(struct alarm *a, void (*fn)(struct alarm *a));
void alarm_set(struct poller *p, struct alarm *a, int64_t delay_ms); /* moves one that runs */
void alarm_stop(struct alarm *a);
