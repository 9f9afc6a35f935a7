/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of a VMM's API: HTTP with JSON bodies over a unix socket.
 *
 * http_call() blocks, under its op: jobs only. One client serves one peer, one
 * call at a time, and keeps the connection between calls; it may be used from
 * different threads one after the other.
 *
 * A path longer than a socket's name may be (108 bytes) is reached through its
 * directory: "/proc/self/fd/<dirfd>/api.sock".
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"
#include "loop/op.h"

struct http_client;

struct http_client *http_client_new(const char *unix_path); /* connects when first called */
void http_client_free(struct http_client *c);

/*
 * Sends a request ("PUT /vm.boot") and waits for the whole answer. json_body is
 * NULL for none. Returns the status, whichever it is, or -1. The body is
 * appended to answer, whose ceiling is the limit (ERR_TOO_LARGE). ERR_TIMEOUT
 * and ERR_CANCELLED end the connection; the peer may carry the request out all
 * the same.
 */
int http_call(const struct op *op, struct http_client *c, const char *request,
              const char *json_body, struct buf *answer, struct err *e);
