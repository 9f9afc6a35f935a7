/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cloud Hypervisor's events: JSON objects over several lines, each followed by a blank
 * one, in a file whose head may have been given back to the disk (it reads as NULs).
 * An object may be cut, or be no object: it is left out, and that is said. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct stream_event {
    char source[24]; /* "vm"; empty: none came out of it */
    char event[32];  /* "paused" */
    bool is_lossy;   /* there was more, or something else */
};

/* Takes the first object; how many bytes it took, 0 if more has to come. */
size_t event_stream_take(const char *text, size_t len, struct stream_event *out);
