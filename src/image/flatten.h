/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layers of an OCI layout as one tree.
 *
 * They are read twice: once to learn what survives and to add up the sizes, so
 * that nothing is written for an image that is refused; once to write it. Both
 * readings verify every digest. Worker threads: waits for the disk and for the
 * squashfs, and looks at op between blocks.
 */
#pragma once

#include <stdint.h>

#include "image/layout.h"
#include "image/merge.h"
#include "image/squash.h"

/* First reading. max_bytes: of all files in all layers, unpacked; ERR_TOO_LARGE beyond it. */
struct merge *flatten_survey(const struct op *op, const struct layout *layout, uint64_t max_bytes,
                             struct err *e);

/* Second reading. */
int flatten_write(const struct op *op, const struct layout *layout, const struct merge *survey,
                  struct squash *to, struct err *e);
