/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a guest may take in and send out: a token bucket each way.
 *
 * What goes to a guest is shaped where it enters the TAP. What comes from it has
 * passed the TAP already when the host sees it, so it is led through an interface
 * of its own ("up-hm3", kind ifb) and shaped there: what is too fast waits, and
 * only what waits too long is dropped. A guest without a limit has neither.
 *
 * Workers; a batch of messages to the kernel. Setting a rate takes the place of the
 * one before, also while packets flow.
 */
#pragma once

#include <net/if.h>
#include <stdint.h>

#include "base/err.h"

/* Bytes per second; 0: no limit. Both burst multipliers are upstream's settings (4 by default). */
struct net_rate {
    uint64_t download;
    uint64_t upload;
    uint32_t download_burst; /* times RATE_BURST_MS of the rate may go at once */
    uint32_t upload_burst;
};

enum { RATE_BURST_MS = 10 };

/* tap is its name, of a TAP that is there. */
int rate_set(const char *tap, const struct net_rate *rate, struct err *e);

/* No limits any more, and no interface of ours beside the TAP, which may be gone, or have none. */
int rate_clear(const char *tap, struct err *e);

/* Removes the interfaces whose TAP is gone. At start. */
int rate_sweep(struct err *e);
