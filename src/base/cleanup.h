/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scope-bound ownership.
 *
 * A variable marked auto_* owns what it holds; the compiler releases it when
 * the scope ends, on every path. take_ptr() and take_fd() move ownership out,
 * leaving the variable empty, so "return take_fd(&fd);" is the success path.
 *
 * Always initialise an auto_* variable on the line that declares it.
 */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define auto_free __attribute__((cleanup(cleanup_free)))
#define auto_close __attribute__((cleanup(cleanup_close)))

static inline void cleanup_free(void *slot)
{
    void *p;

    memcpy(&p, slot, sizeof(p));
    free(p);
}

static inline void cleanup_close(int *fd)
{
    if (*fd >= 0) {
        int saved = errno;
        (void)close(*fd); /* Never retry close() on Linux: the fd is gone either way. */
        errno = saved;
    }
}

static inline int take_fd(int *fd)
{
    int moved = *fd;
    *fd = -1;
    return moved;
}

#define take_ptr(slot) ((__typeof__(*(slot)))take_ptr_(slot))

/* memcpy because a "char *" variable may not be read through a "void **". */
static inline void *take_ptr_(void *slot)
{
    void *moved;

    memcpy(&moved, slot, sizeof(moved));
    memset(slot, 0, sizeof(moved));
    return moved;
}
