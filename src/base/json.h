/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON: our writer (base/jout.h) and, for reading, jansson behind one door that sets its limits.
 */
#pragma once

#include <stddef.h>

#include <jansson.h>

#include "base/err.h"
#include "base/jout.h"

/*
 * Parses a document from outside: duplicate keys, trailing bytes and NULs are
 * refused, and jansson's own depth limit (2048) holds. ERR_INVALID says where.
 */
json_t *parse_json(const char *text, size_t len, struct err *e);
