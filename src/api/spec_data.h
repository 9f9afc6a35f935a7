/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The API's description, api/openapi.yaml, as it is served: the text itself and
 * its JSON form, embedded when the program is built (tools/spec-json).
 * Constant, so any thread may read. Not NUL-terminated.
 */
#pragma once

#include <stddef.h>

extern const unsigned char spec_yaml[];
extern const size_t spec_yaml_len;

extern const unsigned char spec_json[];
extern const size_t spec_json_len;
