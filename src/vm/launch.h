/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making an instance's directory, and starting its VMM in it.
 *
 * Worker threads: both block. Each undoes its own work on failure.
 */
#pragma once

#include "vm/op.h"

/*
 * Makes <data>/instances/<id> with the image's disk linked in and an empty
 * writable one: built under another name, synced, renamed last. Returns its fd.
 */
int launch_make_dir(struct vm_op *op, struct err *e);

/*
 * Writes the config disk of the next incarnation, starts the VMM in op->dir_fd,
 * and fills in op->run and op->started. The caller commits op->run.
 */
int launch_boot(struct vm_op *op, struct err *e);

/* The VM as the spec describes it, in op->dir_fd. Borrows from the op. */
struct vmm_boot launch_plan(const struct vm_op *op);

/* Ends the process that launch_boot() started, if it did; confirms that it is gone. */
void launch_undo(struct vm_op *op);

/* Makes the outcome durable: op->run alone, or the whole record with op->spec. */
int launch_commit_state(struct vm_op *op, struct err *e);
int launch_commit_all(struct vm_op *op, struct err *e);

/* Of a fork, whose directory goes to the disk beside (op->beside): once that is there. */
int launch_await_directory(const struct vm_op *op, struct err *e);
int launch_commit_fork(struct vm_op *op, struct err *e);

/* What these commit, for who commits it beside something else. */
struct store_change *launch_change_state(const struct vm_op *op);
struct store_change *launch_change_all(const struct vm_op *op);
