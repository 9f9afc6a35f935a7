/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for an instance, reading its log, and both at once. Everything
 * blocks, and Ctrl-C ends it (ERR_CANCELLED).
 */
#pragma once

#include <jansson.h>

#include "base/err.h"
#include "cli/client.h"
#include "cli/sse.h"

/* An open log, printed line by line on standard output. */
struct log_stream {
    struct exchange x;
    struct sse events;
};
#define auto_log __attribute__((cleanup(log_close)))

void follow_begin(struct log_stream *log);
void log_close(struct log_stream *log);

/* path has its query. The head of the answer must come within the usual time. */
int log_open(struct log_stream *log, const char *path, struct err *e);

/* Prints until the end. After ERR_TIMEOUT or ERR_CANCELLED it may be called again. */
int log_print(const struct op *op, struct log_stream *log, struct err *e);

/*
 * Asks until the instance is in that state, cannot reach it any more, or the
 * time is over. Returns the last answer: {state, state_error, timed_out}.
 * timeout_ms INT64_MAX waits for ever.
 */
json_t *wait_for_state(const char *name, const char *state, int64_t timeout_ms, struct err *e);

/* Prints the application's log from its beginning until the instance ends. Returns the wait's
 * answer. */
json_t *follow_until_end(const char *id, struct err *e);
