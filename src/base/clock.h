/* SPDX-License-Identifier: Apache-2.0 */
/* Time. Monotonic for durations and deadlines, wall clock for what people and records see. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

int64_t clock_ms(void); /* CLOCK_MONOTONIC */
int64_t clock_us(void); /* CLOCK_MONOTONIC */
int64_t wall_us(void);  /* CLOCK_REALTIME, since 1970 */

enum { TIME_TEXT_SIZE = 32 };

/* RFC 3339 in UTC with microseconds: "2026-02-03T04:05:06.070809Z". Returns out. */
const char *time_text(int64_t at_wall_us, char out[TIME_TEXT_SIZE]);

/* Accepts RFC 3339 with any offset and up to nanoseconds. */
bool time_parse(const char *s, int64_t *out_wall_us);
