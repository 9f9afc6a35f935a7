/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limits a blocking operation runs under.
 *
 * Every function that may wait takes a "const struct op *" and waits only
 * through op_wait(), so a deadline and a shutdown reach every line of a long
 * lifecycle operation without being mentioned on any of them.
 */
#pragma once

#include <stdint.h>

#include "base/err.h"

struct trace; /* trace/trace.h */

struct op {
    int64_t deadline_ms; /* on CLOCK_MONOTONIC */
    int cancel_fd;       /* readable once the operation must give up; -1 for never */
    struct trace *trace; /* where its time goes; NULL: nobody asks */
};

/* Waits until fd is ready for POLLIN or POLLOUT. Fails with ERR_TIMEOUT or ERR_CANCELLED. */
int op_wait(const struct op *op, int fd, short events, struct err *e);

/* Waits that long, or less if cancelled. For backing off, never for synchronising. */
int op_sleep(const struct op *op, int64_t ms, struct err *e);
