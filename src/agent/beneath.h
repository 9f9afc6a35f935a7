/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Paths as if a directory were "/": no "..", no link and no absolute name leads out of it.
 * For the workers (agent/worker.h); blocks as the file system does.
 */
#pragma once

#include <fcntl.h>
#include <sys/types.h>

#include "base/err.h"

/* openat2() with RESOLVE_IN_ROOT. -1 and errno. */
int beneath_open(int root_fd, const char *path, int flags, mode_t mode);

/*
 * The directory that holds path (O_PATH), made with 0755 where it is missing, and the last name in
 * base, cut off at the front of any trailing slash: "" when path is the root itself. -1 and e.
 */
enum { BASE_SIZE = 256 };
int beneath_parent(int root_fd, const char *path, char base[BASE_SIZE], struct err *e);
