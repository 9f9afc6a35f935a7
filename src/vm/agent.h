/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop's connection to the agent in one guest (protocol: wire/frame.h).
 *
 * The guest is hostile: what it sends is capped and checked, a connection that
 * breaks the protocol is closed and reported once, and costs only itself. An idle
 * connection costs one fd and a few hundred bytes.
 *
 * Loop thread; nothing blocks. The callbacks may close the connection.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"
#include "wire/config_disk.h"
#include "wire/frame.h"

struct agent;

struct agent_events {
    void (*started)(void *owner, int64_t at_us); /* the workload runs; by the guest's clock */
    void (*exited)(void *owner, const struct exit_record *record);
    void (*greeted)(void *owner, int64_t version); /* of the protocol that the guest speaks */
    int (*frame)(void *owner, const struct frame *f, struct err *e); /* of a stream; -1: refused */
    void (*drained)(void *owner); /* less is waiting to be sent than AGENT_BACKLOG */
    /* The answer to a freeze; message says why not. */
    void (*frozen)(void *owner, int64_t serial, bool frozen, const char *message);
    void (*lost)(void *owner, const struct err *why);
};

/* As much may wait to be sent before those who send had better wait for drained(). */
enum { AGENT_BACKLOG = 128 * 1024 };

struct agent_identity {
    const char *id;       /* of the instance; borrowed for the call */
    const char *hostname; /* likewise */
    uint32_t address;     /* outside; 0: none */
};

/*
 * fd is a connection to the guest, whatever it goes through; it is taken, also on
 * failure. The greeting does not wait. The first frame after the greeting tells the guest who and
 * when it is (clock, random seed, host name, machine-id): two guests of one snapshot must not be
 * the same.
 */
struct agent *agent_open(struct loop *loop, int connection_fd, const struct agent_identity *who,
                         const struct agent_events *events, void *owner, struct err *e);
/*
 * For streams: frames are appended to agent_out(), agent_send() sends what the
 * socket takes. Neither calls back; a failure is reported from the loop.
 */
struct buf *agent_out(struct agent *a);
void agent_send(struct agent *a);

bool agent_has_greeted(const struct agent *a);
/* The workload is to stand still, and the guest to say so; serial 0: it goes on. */
void agent_freeze(struct agent *a, int64_t serial);
void agent_shutdown(struct agent *a, int64_t grace_ms);
void agent_drain(struct agent *a); /* takes what has arrived */
void agent_close(struct agent *a); /* NULL is fine */
