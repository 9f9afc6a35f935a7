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

#include "vm/op.h"

/*
 * Pauses the VM and saves it. What a failure leaves behind is snapshot_give_up()'s: half
 * a snapshot, and a VM that is paused.
 */
int snapshot_take(const struct op *op, const struct vmm_handle *vm, const struct vmm_host *host,
                  uint64_t incarnation, struct err *e);

/*
 * The VM goes on as if nothing had been, and what there is of the snapshot goes. A VMM
 * that is busy with it all the same is waited for, for as long as nobody preempts; why,
 * if it says that time ran out, is what the client is told before. Where the wait was cut
 * short what is half made stays, without counting for anything: a start after it knows
 * by it that the VM may be paused.
 */
void snapshot_give_up(struct vm_op *op, const struct vmm_handle *vm, const struct err *why);

/* The first half of it: also for a VM whose snapshot is done with. */
int snapshot_go_on(struct vm_op *op, const struct vmm_handle *vm, const struct err *why,
                   struct err *e);

/*
 * A snapshot for another instance, whose directory is not published yet, in three steps:
 * what can be had while the VM still runs, the rest once it is paused, and when it runs
 * again what makes a snapshot of it and gives it away. Until then it is half made in the
 * VM's own directory: a start after a crash knows by it that the VM may be paused.
 * Whoever does not come to the end removes it. Syncing is the caller's: snapshot_sync().
 */
int snapshot_save_ahead(const struct op *op, const struct vmm_handle *vm, struct err *e);
int snapshot_save_rest(const struct op *op, const struct vmm_handle *vm, struct err *e);
int snapshot_give(const struct op *op, const struct vmm_handle *vm, const struct vmm_host *host,
                  uint64_t incarnation, int to_fd, struct err *e);
int snapshot_sync(int dir_fd, struct err *e);

/*
 * When the writable disks were last written to, in ns. While it stands still no guest
 * has run on from the snapshot, and it still fits its disk. Means nothing after a boot
 * of the host: data may have reached the disk before the time did. One that is missing counts
 * as never written to. 0: cannot be had.
 */
int64_t snapshot_disk_stamp(int dir_fd);

/* Whether there is one, whole or half-made, of whichever incarnation. */
bool snapshot_is_there(int dir_fd);

/* 1: a whole one of this incarnation; 0: none that counts; -1: it cannot be read. */
int snapshot_find(int dir_fd, uint64_t incarnation, struct err *e);

/* ERR_BAD_STATE unless this host, with this driver, is what it was made with. */
int snapshot_check_identity(const struct op *op, int dir_fd, const struct vmm_driver *driver,
                            const struct vmm_host *host, struct err *e);

/* It counts for nothing any more; what it was made of is still there. Absent is fine. */
int snapshot_withdraw(int dir_fd, struct err *e);

/* Removes it, and a half-made one. Absent is fine. */
int snapshot_remove(int dir_fd, struct err *e);

/* Of an operation that failed: but for what a VM that was left paused is known by. */
void snapshot_discard(const struct vm_op *op, int dir_fd);

/*
 * Two halves of a removal for a whole one that was used. The first withdraws it and opens it;
 * that fd is for the second, which takes a disk long and may come at any time: a snapshot that
 * has taken its place by then stays.
 */
int snapshot_use_up(int dir_fd, struct err *e);
int snapshot_clear(int dir_fd, int used_fd, struct err *e);
