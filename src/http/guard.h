/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the library is lenient about, judged over the fields of a request's head.
 *
 * Two lengths, two framings or two hosts mean that somebody before us may have
 * read another request than we do; bytes that cannot be in a name or a value
 * mean the same. Pure functions over bytes from outside: any thread, no
 * allocation. The text that comes back is static and fit for the client.
 *
 * Not visible from here, because the library has already taken it out: lines
 * that ended in a bare LF, folded lines, what followed a NUL, and a line that
 * begins with a colon, which the library takes for the end of the head. So no
 * proxy that shares its connections between clients belongs in front of this.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_guard {
    unsigned n_hosts;
    unsigned n_lengths;
    unsigned n_encodings;
    uint64_t content_length; /* 0 when there is none */
    const char *bad;         /* the first thing that was wrong */
};

/* Each field of the head, in any order. */
void http_guard_field(struct http_guard *g, const char *name, size_t name_len, const char *value,
                      size_t value_len);

/* NULL when the request may pass, else why it may not. */
const char *http_guard_verdict(const struct http_guard *g, bool is_http11);

bool http_guard_method(const char *method);

/* The target as it was sent: visible ASCII, nothing else. */
bool http_guard_target(const char *target);
