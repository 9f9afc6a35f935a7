/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The streams of vm/guest.h over one VM's connection to its agent (vm/agent.h).
 *
 * Lives as long as the watches on the process (vm/live.h), while connections come
 * and go: streams that were under way end with the connection, those that wait
 * for a greeting go on waiting until their time is over. What a guest sends is
 * checked against what it was granted; one that sends more loses its connection.
 *
 * Loop thread; nothing blocks.
 */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"
#include "vm/guest.h"
#include "wire/frame.h"

struct agent;
struct guest;

struct guest *guest_new(struct loop *loop);
void guest_free(struct guest *g, const struct err *why); /* ends all streams; NULL is fine */

void guest_greeted(struct guest *g, struct agent *agent, int64_t version);
int guest_frame(struct guest *g, const struct frame *f,
                struct err *e);      /* -1: it breaks the rules */
void guest_drained(struct guest *g); /* there is room to send again */
void guest_lost(struct guest *g, const struct err *why);

/* For guest_work.c: the request's content is taken. */
struct guest_work {
    enum frame_type type;
    struct buf *request;
    int64_t wait_ms; /* 0: GUEST_WAIT_MS */
};
struct guest_stream *guest_begin(struct instance *row, const struct guest_work *work,
                                 const struct guest_events *events, void *owner, struct err *e);
