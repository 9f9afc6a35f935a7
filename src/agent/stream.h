/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The streams of wire/frame.h, seen from the guest: each is one child process
 * with its pipes, whatever it does.
 *
 * A command (exec.h) reads and writes bytes. A copy or a question about a file is
 * a child too (worker.h), one that speaks frames in shared memory: what may hang in a file system
 * hangs there, and never in PID 1. Everything that is kept for a stream is bounded
 * by the windows. One that the host has closed, or whose connection is gone, has
 * the number 0 and is ended: a copy at once, a command as guest_close() promises.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/channel.h"
#include "agent/config.h"
#include "agent/launch.h"
#include "agent/poller.h"
#include "agent/ring.h"
#include "base/buf.h"
#include "wire/frame.h"

struct streams {
    struct poller *poller;
    struct channel *channel;
    const struct guest_config *config;
    int cgroup_fd; /* of the workload, where commands run too; -1 without one */
    struct list all;
    size_t n_workers; /* while there are any, we and they give way to each other (agent/sys.h) */
    bool is_blocked;  /* some wait for room in the channel */
};

struct stream {
    struct streams *of;
    struct list link;
    uint32_t id;
    enum frame_type type;
    struct buf request; /* of an exec that comes in pieces */

    pid_t pid; /* 0: not started */
    bool is_terminal;
    char *program; /* for messages */
    int report_fd; /* why it could not be run (agent/launch.h), for who asks when it has ended */

    struct source in;
    struct buf input;   /* that the child has not taken yet */
    uint32_t owed;      /* credit for it, not given back yet */
    bool input_is_over; /* nothing more comes */

    struct source out[2]; /* its stdout or terminal, its stderr */
    uint32_t credit;
    struct ring to_worker; /* the pipes are its bells */
    struct ring from_worker;
    size_t unsaid; /* bytes to the worker without a bell */

    struct alarm alarm; /* the timeout, or the next signal */
    int next_signal;
    int64_t grace_ms;
    bool timed_out;

    bool has_exited;
    int status;
    size_t rest[2]; /* then: the most that can still be in its pipes */
    uint64_t oom_kills;
};

void streams_init(struct streams *s, struct poller *p, struct channel *c,
                  const struct guest_config *config);
void streams_frame(struct streams *s, const struct frame *f);
void streams_drop(struct streams *s);   /* the connection is gone */
void streams_settle(struct streams *s); /* sends; goes on where the channel has room again */
void streams_reaped(struct streams *s, pid_t pid, int status);

/* For exec.c and worker.c: the child's ends of its pipes, -1 where it has none, and ours into st.
 */
struct child_ends {
    int fd[3];
};
#define CHILD_ENDS ((struct child_ends){{-1, -1, -1}})
#define auto_child_ends __attribute__((cleanup(child_ends_close)))
void child_ends_close(struct child_ends *c);
int stream_pipes(struct stream *st, size_t n, struct child_ends *out, struct err *e);
int stream_terminal(struct stream *st, uint16_t rows, uint16_t cols, struct child_ends *out,
                    struct err *e);
void stream_started(struct stream *st, pid_t pid, int report_fd);
void stream_set_timeout(struct stream *st, int64_t timeout_ms);

/* relay.c: what a worker has said, as far as there is credit and room; what it is to be told, and
 * how much of that it has yet to take. */
void stream_relay(struct stream *st);
void stream_feed(struct stream *st);
size_t stream_untaken(struct stream *st);
