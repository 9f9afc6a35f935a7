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

struct agent;

struct agent_events {
    void (*started)(void *owner, int64_t at_us); /* the workload runs; by the guest's clock */
    void (*exited)(void *owner, const struct exit_record *record);
    /* The answer to a freeze; message says why not. */
    void (*frozen)(void *owner, int64_t serial, bool frozen, const char *message);
    void (*lost)(void *owner, const struct err *why);
};

/* dir_fd is borrowed for the call; connecting does not wait, and neither does the greeting. */
struct agent_identity {
    const char *id;       /* of the instance; borrowed for the call */
    const char *hostname; /* likewise */
    uint32_t address;     /* outside; 0: none */
};

/*
 * The first frame after the greeting tells the guest who and when it is (clock,
 * random seed, host name, machine-id): two guests of one snapshot must not be the same.
 */
struct agent *agent_open(struct loop *loop, int dir_fd, const struct agent_identity *who,
                         const struct agent_events *events, void *owner, struct err *e);
bool agent_has_greeted(const struct agent *a);
/* The workload is to stand still, and the guest to say so; serial 0: it goes on. */
void agent_freeze(struct agent *a, int64_t serial);
void agent_shutdown(struct agent *a, int64_t grace_ms);
void agent_drain(struct agent *a); /* takes what has arrived */
void agent_close(struct agent *a); /* NULL is fine */
