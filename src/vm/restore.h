/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waking the snapshot in op->dir_fd: of an instance itself, or of a fork.
 *
 * Load, commit, let the guest run, drop the snapshot, in this order. Before the
 * commit a crash leaves a snapshot that is good, since its guest has not touched
 * the disk; after it the next start lets the process run on. Once the guest has run
 * the snapshot no longer fits the disk. That is why the load does not resume: a
 * QEMU's resume is a call of a fraction of a millisecond.
 *
 * Worker; blocks. On failure the process is gone and the snapshot is kept.
 */
#pragma once

#include "vm/op.h"

typedef int restore_commit(struct vm_op *op, struct err *e);

/* Fills in op->run and op->started; commit makes op->run durable. */
int restore_wake(struct vm_op *op, restore_commit *commit, struct err *e);
