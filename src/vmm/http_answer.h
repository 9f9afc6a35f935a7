/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The answer to a small HTTP request, as it arrives in pieces on the loop.
 *
 * For monitors only, which ask one question at a time over a connection that they
 * keep; a library's handle would cost several times what a VM costs us otherwise.
 * A job asks through http/client.h. What is no plain HTTP/1.1 answer with a
 * Content-Length is refused: the peer is a VMM, and hostile. Pure.
 */
#pragma once

#include <stddef.h>

#include "base/err.h"

struct http_answer {
    int status;
    const char *body; /* into the text */
    size_t body_len;
    size_t len; /* of the whole answer */
};

/* 1: it is complete. 0: more has to come. -1: it is none. */
int http_answer_parse(const char *text, size_t len, struct http_answer *out, struct err *e);
