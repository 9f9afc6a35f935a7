/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waking the snapshot in op->dir_fd: of an instance itself, or of a fork.
 *
 * Once the guest has run the snapshot no longer fits the disk, so a crash must never
 * leave a record that says "asleep" beside a disk that has moved on. Two ways:
 *
 * Load, commit, let the guest run, drop the snapshot. Before the commit a crash
 * leaves a good snapshot; after it the next start lets the process run on. For
 * QEMU, whose resume is a call of a fraction of a millisecond.
 *
 * Load with the resume in it: that it runs is committed before, while the VMM
 * starts, together with its process and what the disk was then. If nothing came of
 * the load and the disk is as it was, the snapshot is good and the record is taken
 * back, at once or at the next start; else the instance has stopped, and why is
 * said. Of a fork nobody knows yet: its guest does not wait for the commit, which goes on
 * beside, as its directory's way to the disk does (op->beside); only the answer waits for
 * both. A record whose directory did not come to its name is forgotten at the next start.
 *
 * Worker; blocks. On failure the process is gone.
 */
#pragma once

#include "vm/op.h"

/* How many restores of this driver go on at once is its own affair: the kind of its jobs. */
enum vm_job_kind restore_job_kind(const struct vmm_driver *driver);

/*
 * Fills in op->run and op->started, and makes op->run durable. is_new: a fork, of
 * which nobody knows yet. On failure op->run.state is VM_STANDBY, or VM_STOPPED when
 * the guest may have run.
 */
int restore_wake(struct vm_op *op, bool is_new, struct err *e);
