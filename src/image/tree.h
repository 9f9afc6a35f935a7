/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory of this host as the content of an image.
 *
 * Walked in sorted order without following a symlink, so what the same tree
 * gives is the same stream. Worker threads: waits for the disk and for the
 * squashfs. The tree may change under us: a file that shrinks is an error.
 */
#pragma once

#include <stdint.h>

#include "image/squash.h"

/* max_bytes: of all files together. ERR_TOO_LARGE beyond it. */
int tree_pack(int root_fd, uint64_t max_bytes, struct squash *to, struct err *e);
