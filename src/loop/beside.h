/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A part of a job that goes on beside the rest of it: waiting for the disk while a VMM
 * starts. It has a thread of its own for as long, which costs some 50 us; where there
 * is none to be had it runs at once instead.
 *
 * Worker threads. The function may block; what it is lent must live until
 * beside_end(), which waits for it however long it takes: an fsync cannot be cancelled.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct beside {
    int (*fn)(void *arg, struct err *e);
    void *arg;

    /* Final after beside_end(). */
    int64_t began_us; /* CLOCK_MONOTONIC */
    int64_t ended_us;

    /* Private. */
    bool begun;
    bool has_thread;
    pthread_t thread;
    int rc;
    struct err err;
};

/* fn and arg are set, the rest is zero. */
void beside_begin(struct beside *b);

/* What fn returned. Fine a second time, and on one that was never begun (0). */
int beside_end(struct beside *b, struct err *e);
