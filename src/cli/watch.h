/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rows of all instances, kept up to date by the daemon's events.
 *
 * Blocks until the stream ends or Ctrl-C. The client's main thread.
 */
#pragma once

#include <jansson.h>

#include "base/err.h"

struct watch_sink {
    /* rows: an object by id. Called when it is complete, and after each turn of changes. */
    void (*show)(void *ctx, json_t *rows);

    /* Each change once rows are complete; before show(). May be NULL. */
    void (*change)(void *ctx, const json_t *event);
    void *ctx;
};

/* Always -1 with e: a watch has no good end. */
int watch_instances(const struct watch_sink *sink, struct err *e);
