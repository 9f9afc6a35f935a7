/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What guests have taken in and sent out, in bytes, as the kernel counts at their TAPs.
 *
 * A TAP is used again, and its counters go on: who wants one VMM's share takes off
 * what there was when it got the TAP (net_slot.before).
 *
 * Workers: the kernel's lock may be waited for. All TAPs are one dump.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct tap_stats {
    int ifindex;
    uint64_t to_guest;
    uint64_t from_guest;
};

/* Of every interface of the host, TAPs among them. The caller frees *out. */
int stats_all(struct tap_stats **out, size_t *n_out, struct err *e);

int stats_of(int ifindex, struct tap_stats *out, struct err *e);
