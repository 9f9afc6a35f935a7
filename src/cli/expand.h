/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in a file that may be compressed (gzip, bzip2, xz, zstd), by libarchive's filters.
 *
 * The pieces are handed on as they come, so however much it becomes, it takes no more memory than
 * the filter's window. Blocks within its op. Single-threaded.
 */
#pragma once

#include <stddef.h>

#include "base/err.h"
#include "loop/op.h"

typedef int expand_put(void *arg, const void *data, size_t len, struct err *e);

/* ERR_INVALID: it is compressed, and damaged or cut off. */
int expand(const struct op *op, int fd, expand_put *put, void *arg, struct err *e);
