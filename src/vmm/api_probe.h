/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection to a VMM's HTTP API that is kept for one question, asked again and
 * again by the loop. Never blocks: an answer comes when the VMM gives it, and one that
 * is busy with something else gives it after that.
 *
 * The answer goes to one callback, which may close the probe.
 */
#pragma once

#include <stdbool.h>

#include "base/buf.h"
#include "loop/loop.h"
#include "vmm/http_answer.h"

struct api_probe;

/* answer is NULL once the connection is lost: reason says why, and nothing more comes. */
typedef void api_probe_fn(void *owner, const struct http_answer *answer, const char *reason);

/* "GET /vm.info": asked at once, which is the handshake. dir_fd is borrowed for the call. */
struct api_probe *api_probe_open(struct loop *loop, int dir_fd, const char *request,
                                 api_probe_fn *fn, void *owner, struct err *e);

/* Asks, unless the last question still waits for its answer. */
int api_probe_ask(struct api_probe *p, struct err *e);

bool api_probe_was_answered(const struct api_probe *p); /* once, and is not lost */
void api_probe_drain(struct api_probe *p);              /* takes what has arrived */
void api_probe_close(struct api_probe *p);              /* NULL is fine */
