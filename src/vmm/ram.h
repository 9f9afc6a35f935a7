/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM, copied out of a paused VMM by us: it knows nothing of holes, and
 * what a clone has inherited it would write again as its own.
 *
 * The VMM maps one file over its whole length. Shared, the file is the RAM (a
 * memfd). Private, the RAM is the file with the pages laid over it that the
 * guest has written since; the kernel's page map tells which those are. Either
 * way the file is never written to.
 */
#pragma once

#include "base/err.h"
#include "loop/op.h"

/*
 * Writes every page that is not zero to out_fd, which becomes as long as the RAM; the
 * rest stays holes. Where out_fd holds an earlier copy already, only pages that differ
 * are written: to read both is quicker than to write one, and waits for no disk. vmm_fd is the RAM
 * file's number in the process. Blocks on the disk; op is looked at between pieces.
 */
int ram_save(const struct op *op, int pidfd, int vmm_fd, int out_fd, struct err *e);

/* The same of RAM that is known to be mapped shared, in however many pieces. */
int ram_save_shared(const struct op *op, int pidfd, int vmm_fd, int out_fd, struct err *e);

/* Makes holes of the pages that are zero, in a memory file that somebody else wrote. */
int ram_dig_holes(const struct op *op, int fd, struct err *e);

/* An fd of that file, taken from the process. */
int ram_file(int pidfd, int vmm_fd, struct err *e);
