/* SPDX-License-Identifier: Apache-2.0 */
/* Building the argument vector of a program. Appending cannot fail; nothing goes near a shell. */
#pragma once

#include <stddef.h>

struct argv {
    char **v; /* NULL-terminated */
    size_t n;
};

#define auto_argv __attribute__((cleanup(argv_free)))

void argv_push(struct argv *a, const char *arg);
void argv_pushf(struct argv *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void argv_free(struct argv *a);
