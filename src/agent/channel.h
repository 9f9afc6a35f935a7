/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The byte stream to the host: a virtio-serial port by name, spoken to in frames
 * (wire/frame.h).
 *
 * While no host is connected the port polls as readable and hung up, always, so
 * it is watched edge-triggered: the kernel wakes us when the host comes or goes
 * or something arrives, and an idle guest does not run.
 */
#pragma once

#include <stdbool.h>

#include "base/buf.h"
#include "wire/frame.h"

struct channel {
    int fd;       /* -1 when the VM has no such port */
    bool is_up;   /* a host is connected, as far as we know */
    bool is_ours; /* it has said HELLO and got ours */
    struct frame_reader in;
    struct buf out;
};

/* Opens the port if the VM has one; waits a moment for it, since the kernel makes it when it likes.
 */
void channel_open(struct channel *c);

/* A frame, 1, or 0 when there is none for now. Reads what is there; sees the host come and go. */
int channel_next(struct channel *c, struct frame *out);

/* Queues a frame and sends what the host takes; the rest goes with the next calls. */
void channel_hello(struct channel *c, const char *nonce);
void channel_put(struct channel *c, uint8_t type, const struct buf *json);
void channel_flush(struct channel *c);
