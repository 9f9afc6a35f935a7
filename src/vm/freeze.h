/* SPDX-License-Identifier: Apache-2.0 */
/*
 * identity: before-run. No program of a guest runs between its wake-up and the moment it
 * knows who it is: its workload stands still before the snapshot is taken, and goes on
 * when the agent has been told. The VM itself is resumed as ever.
 *
 * For an operation that takes a snapshot. All of it does nothing without that setting.
 */
#pragma once

#include "vm/op.h"

void freeze_begin(struct vm_world *w, struct instance *row, struct vm_op *op); /* vm_verb.begin */

/* Worker: until the guest says that it is so. ERR_BAD_STATE when it cannot, or does not answer. */
int freeze_await(const struct vm_op *op, struct err *e);

/* Loop: the VM runs on after all. */
void freeze_undo(struct vm_world *w, struct instance *row);
