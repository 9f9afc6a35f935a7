/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a process, told once on the loop: when it is gone and, if it was our
 * child, reaped. A debugger that holds what has ended gets a second to let it go;
 * then the end is told without an exit code.
 *
 * Loop thread; nothing blocks. The pidfd stays the caller's and is closed only
 * after the end was told or after ending_forget().
 */
#pragma once

#include "loop/loop.h"
#include "loop/proc.h"

struct ending {
    void (*fn)(struct ending *ending, const struct proc_exit *how);
    struct loop *loop;
    int pidfd;
    struct watch gone;
    struct timer again;
    unsigned tries;
    bool is_awaited;
};

/* fn is set by the caller before. */
int ending_await(struct loop *loop, struct ending *ending, int pidfd, struct err *e);
void ending_forget(struct ending *ending); /* fine when none is awaited */
