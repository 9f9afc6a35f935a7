/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict parsing and printing of numbers, sizes and durations that cross the API.
 * No locale, no leading space, no sign; *out is touched only on success.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *out);

/*
 * A size as upstream's parser takes it: digits, an optional blank, and B, K/KB
 * ... E/EB in any case, binary multiples; no unit is bytes, no fraction.
 */
bool parse_size(const char *s, uint64_t *out_bytes);

/*
 * A rate in bytes per second, as upstream takes it. Of a disk it is a size, with or without
 * "/s" or "ps"; of a network "...bps" is bits with decimal multiples ("1Gbps").
 */
bool parse_byte_rate(const char *s, uint64_t *out_bytes_per_s);
bool parse_bandwidth(const char *s, uint64_t *out_bytes_per_s);

/*
 * A size, printed as upstream prints it: one decimal, and the next unit only
 * when the value is strictly greater than it, so 1 GiB is "1024.0 MB".
 */
enum { SIZE_TEXT_SIZE = 24 };
const char *size_text(uint64_t bytes, char out[SIZE_TEXT_SIZE]);

/* Go's form: "1h30m", "500ms", "1.5s", "0". Units ns us ms s m h. */
bool parse_duration_ms(const char *s, int64_t *out_ms);
