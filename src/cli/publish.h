/* SPDX-License-Identifier: Apache-2.0 */
/* Published ports as docker writes them. No state. */
#pragma once

#include <stdbool.h>

#include <jansson.h>

/* "[IP:]HOST:GUEST[/tcp|/udp]" becomes one more of the API's ports; false: it is none. */
bool port_add(json_t *list, const char *word);
