/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for a VMM that makes its own API socket, until it listens there.
 *
 * The socket's file appears with bind() and can be connected to after listen(), a
 * moment later. inotify tells of the first without asking; then a connection is
 * tried every millisecond. Where inotify cannot be had (a user may have 128) the
 * trying starts at once, and the log says why, once.
 *
 * The file must not be there from an earlier process: remove it before the start
 * (vmm_boot() and vmm_load() do), or a dead one would be waited for.
 *
 * Jobs only: blocks under its op. The directory may be deep (vmm/sock.h).
 */
#pragma once

#include "base/err.h"
#include "loop/op.h"
#include "vmm/last_words.h"

enum socket_readiness {
    SOCKET_BY_EVENT,
    SOCKET_BY_POLL_1MS, /* this and the next: to compare with, see hypeman-bench fork */
    SOCKET_BY_POLL_50MS,
};

struct socket_wait {
    int dir_fd;
    const char *name;
    enum socket_readiness how;
    const struct last_words_source *vmm; /* its end ends the wait, and is explained */
};

/* Returns once a connection was made there (and closed). Errors carry the end of the VMM's log. */
int socket_wait(const struct op *op, const struct socket_wait *w, struct err *e);

/* Lets go of the inotify instances that are kept for the next waits. For tests, which count fds. */
void socket_wait_forget(void);
