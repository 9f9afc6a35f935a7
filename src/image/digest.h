/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SHA-256 digests, written as "sha256:" and 64 lower-case hexadecimal digits.
 * Any thread; only digest_of_file() waits, for the disk.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "loop/op.h"

enum {
    DIGEST_HEX_LEN = 64,
    DIGEST_LEN = 7 + DIGEST_HEX_LEN,
    DIGEST_SIZE = DIGEST_LEN + 1,
};

bool digest_is_valid(const char *s);

/* The 64 digits of a valid one: its files' name. */
const char *digest_hex(const char *digest);

struct digest; /* one that is being computed */

struct digest *digest_new(void);
void digest_add(struct digest *d, const void *data, size_t len);
void digest_end(struct digest *d, char out[DIGEST_SIZE]); /* nothing may be added afterwards */
void digest_free(struct digest *d);

void digest_of(const void *data, size_t len, char out[DIGEST_SIZE]);
int digest_of_file(const struct op *op, int fd, char out[DIGEST_SIZE], struct err *e);
