/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening files under a directory whose content we do not trust.
 *
 * An image, a guest or another user may have planted symlinks. The kernel
 * resolves the path for us with RESOLVE_BENEATH, so the answer lies below
 * dirfd or the call fails; there is no check to race against.
 */
#pragma once

#include <sys/types.h>

#include "base/err.h"

/* Returns an O_CLOEXEC fd, or -1. flags and mode are those of open(2). */
int path_open_beneath(int dirfd, const char *path, int flags, mode_t mode, struct err *e);
