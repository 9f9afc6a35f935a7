/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The snapshot in an instance's directory: memory, device state, and what made it.
 *
 * It is written under another name, synced, and renamed last: whole or absent.
 * From then on it never changes. It carries the incarnation of the process that it
 * was taken from: only for that one is it the continuation of the disk beside it.
 * One that is older was consumed by a restore, and is removed.
 *
 * Worker threads and start-up: all of it blocks.
 */
#pragma once

#include "vm/world.h"

/*
 * Pauses the VM and saves it. On failure nothing of it stays, and the VM runs on
 * if it still can.
 */
int snapshot_take(const struct op *op, const struct vmm_handle *vm, const struct vmm_host *host,
                  uint64_t incarnation, struct err *e);

/*
 * The same in two steps, for another instance's directory: save pauses the VM and
 * leaves it so, publish gives the snapshot away. The caller lets the VM run on and,
 * where it does not publish, removes what is half made.
 *
 * What is half made is there before the VM is paused: a start after a crash knows by
 * it that the VM has to be let run on.
 */
int snapshot_save(const struct op *op, const struct vmm_handle *vm, const struct vmm_host *host,
                  uint64_t incarnation, struct err *e);
int snapshot_publish(int from_fd, int to_fd, struct err *e);

/* Whether there is one, whole or half-made, of whichever incarnation. */
bool snapshot_is_there(int dir_fd);

/* 1: a whole one of this incarnation; 0: none that counts; -1: it cannot be read. */
int snapshot_find(int dir_fd, uint64_t incarnation, struct err *e);

/* ERR_BAD_STATE unless this host, with this driver, is what it was made with. */
int snapshot_check_identity(int dir_fd, const struct vmm_driver *driver,
                            const struct vmm_host *host, struct err *e);

/* Removes it, and a half-made one. Absent is fine. */
int snapshot_remove(int dir_fd, struct err *e);
