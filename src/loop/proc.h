/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Child processes, held by pidfd.
 *
 * A pid may be reused between looking it up and signalling it; a pidfd may
 * not. A process is watched like any other fd, so a thousand VMs cost a
 * thousand entries in one epoll set and no SIGCHLD handler.
 *
 * proc_run() waits; the others return at once, proc_spawn() within about a
 * millisecond (the caller is suspended until the child has called exec).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/argv.h"
#include "base/buf.h"
#include "base/err.h"
#include "loop/op.h"

/* A process that outlives us is known by its pid together with its start time, within one boot. */
struct proc_id {
    pid_t pid;
    uint64_t start_ticks; /* field 22 of /proc/PID/stat */
};

struct proc_spec {
    const struct argv *argv; /* argv->v[0] is the absolute path of the program */
    const int *pass_fds;     /* become fds 3, 4, ... in the child; everything else is closed */
    size_t n_pass_fds;
    int cwd_fd;   /* the child's working directory; -1 for ours */
    int stdin_fd; /* -1 for /dev/null, as for the next two */
    int stdout_fd;
    int stderr_fd;
};

#define PROC_SPEC(arguments)                                                                       \
    ((struct proc_spec){                                                                           \
        .argv = (arguments), .cwd_fd = -1, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1})

/* Starts a program in its own session. Returns its pidfd. The caller reaps it. */
int proc_spawn(const struct proc_spec *spec, struct proc_id *id_out, struct err *e);

/* Finds a process that an earlier run of the daemon started. ERR_NOT_FOUND once it has gone. */
int proc_adopt(const struct proc_id *id, struct err *e);

/* The identity of a process that runs now; take the pidfd first. */
int proc_identify(pid_t pid, struct proc_id *out, struct err *e);
int proc_pidfd(pid_t pid); /* -1 and errno */

/* Means something only while the process behind the pidfd lives. */
pid_t proc_pid(int pidfd, struct err *e);

int proc_signal(int pidfd, int sig, struct err *e); /* fine on one that is gone */

struct proc_exit {
    bool known; /* false for an adopted process: only a parent learns the status */
    int code;   /* as a shell reports it: the exit code, or 128 plus the signal */
};

/*
 * Once the pidfd is readable. False while a debugger holds what has ended (ptrace(2): the tracer
 * is told first, and only what it lets go is ours): ask again a little later.
 */
bool proc_reap(int pidfd, struct proc_exit *out);

/* Waits for the end, also until a debugger has let go, and reaps. */
int proc_wait(const struct op *op, int pidfd, struct proc_exit *out, struct err *e);

/* SIGKILL, wait until it is gone, reap. Only an op that ends early can make it fail. */
int proc_kill(const struct op *op, int pidfd, struct err *e);

/*
 * Runs a helper program to its end, collecting what it prints on either stream
 * (cut at out's ceiling). A status other than 0 is an error that carries the
 * last line of it. Cancelled or late: the program is killed.
 */
int proc_run(const struct op *op, const struct proc_spec *spec, struct buf *out, struct err *e);

/* What a process has used, from /proc; it does not wait. */
struct proc_usage {
    uint64_t cpu_ms; /* user and system */
    uint64_t virtual_bytes;
    uint64_t resident_bytes;
};
int proc_usage(const struct proc_id *id, struct proc_usage *out, struct err *e);
