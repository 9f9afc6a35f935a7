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
 * A snapshot for another instance, whose directory is not published yet, in three steps:
 * what can be had while the VM still runs, the rest once it is paused, and when it runs
 * again what makes a snapshot of it and gives it away. Until then it is half made in the
 * VM's own directory: a start after a crash knows by it that the VM may be paused.
 * Whoever does not come to the end removes it. Syncing is the caller's: snapshot_sync().
 */
int snapshot_save_ahead(const struct op *op, const struct vmm_handle *vm, struct err *e);
int snapshot_save_rest(const struct op *op, const struct vmm_handle *vm, struct err *e);
int snapshot_give(const struct vmm_handle *vm, const struct vmm_host *host, uint64_t incarnation,
                  int to_fd, struct err *e);
int snapshot_sync(int dir_fd, struct err *e);

/* Whether there is one, whole or half-made, of whichever incarnation. */
bool snapshot_is_there(int dir_fd);

/* 1: a whole one of this incarnation; 0: none that counts; -1: it cannot be read. */
int snapshot_find(int dir_fd, uint64_t incarnation, struct err *e);

/* ERR_BAD_STATE unless this host, with this driver, is what it was made with. */
int snapshot_check_identity(int dir_fd, const struct vmm_driver *driver,
                            const struct vmm_host *host, struct err *e);

/* Removes it, and a half-made one. Absent is fine. */
int snapshot_remove(int dir_fd, struct err *e);
