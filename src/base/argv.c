/* SPDX-License-Identifier: Apache-2.0 */
#include "base/argv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

static void argv_take(struct argv *a, char *arg)
{
    a->v = mem_realloc(a->v, (a->n + 2) * sizeof(*a->v));
    a->v[a->n++] = arg;
    a->v[a->n] = NULL;
}

void argv_push(struct argv *a, const char *arg)
{
    argv_take(a, mem_strdup(arg));
}

void argv_pushf(struct argv *a, const char *fmt, ...)
{
    va_list ap;
    char *arg = NULL;

    va_start(ap, fmt);
    if (vasprintf(&arg, fmt, ap) < 0)
        abort();
    va_end(ap);
    argv_take(a, arg);
}

void argv_free(struct argv *a)
{
    for (size_t i = 0; i < a->n; i++)
        free(a->v[i]);
    free(a->v);
    *a = (struct argv){0};
}
