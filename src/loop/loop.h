/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop: one thread, and the only owner of shared state.
 *
 * All functions belong to the loop thread except loop_post() and loop_stop(),
 * which any thread may call. A callback must not block; what takes time goes
 * to a worker (jobs.h) and comes back as a post.
 *
 * A round first collects every ready watch on a list, then runs the callbacks
 * one by one. Removing a watch unlinks it, so a callback may free any other
 * object, even one that was ready in the same round.
 */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "base/list.h"

struct loop;

struct watch {
    void (*fn)(struct watch *w, uint32_t events); /* EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR */
    int fd;                                       /* borrowed; loop_unwatch() before closing it */
    uint32_t ready;
    struct list link;
};

struct post {
    void (*fn)(struct post *p);
    struct post *next;
};

struct timer {
    void (*fn)(struct timer *t);
    int64_t due_ms;
    size_t place; /* in the loop's heap, from 1; 0 when not running */
};

struct loop *loop_new(struct err *e);
void loop_free(struct loop *loop);
int loop_run(struct loop *loop, struct err *e); /* until loop_stop(); may run again */

int loop_watch(struct loop *loop, struct watch *w, int fd, uint32_t events, struct err *e);
int loop_rewatch(struct loop *loop, struct watch *w, uint32_t events, struct err *e);
void loop_unwatch(struct loop *loop, struct watch *w);

/* A running timer is moved to its new time. */
void loop_timer_start(struct loop *loop, struct timer *t, int64_t delay_ms);
void loop_timer_stop(struct loop *loop, struct timer *t); /* fine on one that does not run */

void loop_post(struct loop *loop, struct post *p); /* never fails, keeps order */
void loop_stop(struct loop *loop);

/* Runs the posts that are waiting. For shutdown, once loop_run() has returned. */
void loop_drain(struct loop *loop);
