/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The byte stream to the host, spoken in frames (wire/frame.h): a virtio-serial
 * port by name, or a connection that the host makes to our vsock port, whichever
 * the VM has.
 *
 * While no host is connected the serial port polls as readable and hung up,
 * always, so then it is watched edge-triggered: the kernel wakes us when the host
 * comes or something arrives, and an idle guest does not run. A vsock
 * connection that ends is closed; after a restore the host makes a new one.
 */
#pragma once

#include <stdbool.h>

#include "agent/poller.h"
#include "base/buf.h"
#include "wire/frame.h"

struct channel {
    struct poller *poller;
    struct source port;     /* the stream; fd -1 when there is none, or nobody has connected */
    struct source listener; /* vsock; fd -1 without */
    bool is_up;             /* a host is connected, as far as we know */
    bool is_ours;           /* it has said HELLO and got ours */
    bool may_have_more;     /* to read, without another wait */
    struct frame_reader in;
    struct buf out;
    void (*ready)(struct channel *c); /* something happened: channel_next() tells */
};

/*
 * Takes what the VM has; waits a moment for a port, since the kernel makes it
 * when it likes. Without any of the two the channel is never up.
 */
void channel_open(struct channel *c, struct poller *p, void (*ready)(struct channel *c));
void channel_use(struct channel *c, struct poller *p, int fd, void (*ready)(struct channel *c));
int channel_wait_for_port(void); /* the serial port, non-blocking; -1 when none appears */
void channel_close(struct channel *c);

/* A frame, 1, or 0 when there is none for now. Reads what is there; sees the host come and go. */
int channel_next(struct channel *c, struct frame *out);

/*
 * By an agent that follows one that was killed: on a serial port the host still speaks to that, and
 * is made to connect anew. On a vsock it knows.
 */
void channel_announce(struct channel *c);

/* Queues a frame and sends what the host takes; the rest goes with the next calls. */
void channel_hello(struct channel *c, const char *nonce);
void channel_put(struct channel *c, uint8_t type, uint32_t stream, const struct buf *json);
void channel_flush(struct channel *c);

/* A frame that is there already: to the host without a copy here, as far as it takes it. */
void channel_pass(struct channel *c, const void *frame, size_t len);

/* Whether there is so much to send already that streams had better wait. */
bool channel_is_full(const struct channel *c);
