/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/op.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>

#include "base/clock.h"

/* Polls until fd is ready, until_ms has passed or the operation is cancelled. */
static int wait_until(const struct op *op, int fd, short events, int64_t until_ms, bool *ready,
                      struct err *e)
{
    struct pollfd fds[] = {
        {.fd = op->cancel_fd, .events = POLLIN},
        {.fd = fd, .events = events},
    };

    for (;;) {
        int64_t left = until_ms - clock_ms();
        int n = poll(fds, 2, left <= 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left);

        if (n < 0 && errno != EINTR)
            return err_errno(e, "poll");
        if (n > 0 && fds[0].revents)
            return err_set(e, ERR_CANCELLED, "cancelled");
        if (n > 0) {
            *ready = true;
            return 0;
        }
        if (clock_ms() >= until_ms) {
            *ready = false;
            return 0;
        }
    }
}

int op_wait(const struct op *op, int fd, short events, struct err *e)
{
    bool ready;

    if (wait_until(op, fd, events, op->deadline_ms, &ready, e) < 0)
        return -1;
    return ready ? 0 : err_set(e, ERR_TIMEOUT, "deadline passed");
}

int op_sleep(const struct op *op, int64_t ms, struct err *e)
{
    int64_t until = clock_ms() + ms;
    bool ready;

    if (until > op->deadline_ms)
        return err_set(e, ERR_TIMEOUT, "deadline passed");
    return wait_until(op, -1, 0, until, &ready, e);
}
