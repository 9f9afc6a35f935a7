/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What verbs call: requests to the daemon that the flags and the environment
 * name, JSON answers, and errors as people read them.
 *
 * Everything blocks, with a deadline, and Ctrl-C ends it: SIGINT is read from a
 * signalfd, which is the cancel_fd of every op made here, so an interrupted
 * call comes back as ERR_CANCELLED and the verb can still say what goes on
 * without it. One daemon and one signalfd a process, hence module state.
 */
#pragma once

#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "cli/client.h"
#include "loop/op.h"

/* Set by flags; what is NULL comes from HYPEMAN_BASE_URL and HYPEMAN_SOCKET. */
struct session_target {
    const char *base_url;
    const char *socket_path;
};
extern struct session_target session_target;

/* Whom requests went to so far: the next goes to what session_target names by then. */
void session_forget(void);

enum {
    SESSION_CALL_MS = 75 * 1000,        /* the daemon bounds nearly everything by 60 s */
    SESSION_CREATE_MS = 30 * 60 * 1000, /* an image may be pulled first */
};

/* SIGTERM and SIGHUP then end it as Ctrl-C does: for who has a terminal to give back. */
void session_catch_all(void);

struct op session_op(int64_t timeout_ms); /* INT64_MAX for no deadline */
const char *session_where(void);

int session_send(const struct op *op, struct exchange *x, const struct client_request *request,
                 struct err *e);

/* Reads the head. Any status but 2xx, or 101 where that was asked for, is an error, read and put
 * into e. */
int session_head(const struct op *op, struct exchange *x, struct err *e);

/* Reads the body. An empty one is JSON's null. The caller owns the result. */
json_t *session_document(const struct op *op, struct exchange *x, struct err *e);

/* All three. body may be NULL. */
json_t *session_call(const char *method, const char *path, const json_t *body, int64_t timeout_ms,
                     struct err *e);
json_t *session_get(const char *path, struct err *e);

/*
 * Does it to each, goes on after a failure but not after Ctrl-C, and returns
 * the exit code for all of them.
 */
int for_each_name(int n, char **names, int (*one)(void *ctx, const char *name), void *ctx);

/* Prints one line on standard error and returns the exit code. */
int report(const struct err *e);

/* The same of one thing among others: "no such instance: web; see 'hypeman ps -a'". */
int report_instance(const char *name, const struct err *e);
int report_image(const char *name, const struct err *e);
