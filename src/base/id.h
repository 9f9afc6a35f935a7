/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Identifiers of instances and the names that clients give them.
 *
 * An id is 24 characters: a letter, then letters and digits, all lower case,
 * drawn from the kernel's random pool (about 124 bits; upstream's ids, CUID2,
 * have the same form). Names follow the contract's pattern. Both are checked
 * once, at the edge; nothing else becomes a file name.
 */
#pragma once

#include <stdbool.h>

enum { ID_LEN = 24, ID_SIZE = ID_LEN + 1, NAME_MAX_LEN = 63, NAME_SIZE = NAME_MAX_LEN + 1 };

void id_new(char out[ID_SIZE]);
bool id_is_valid(const char *s);
bool name_is_valid(const char *s); /* ^[a-z0-9]([a-z0-9-]*[a-z0-9])?$, 1 to 63 characters */
