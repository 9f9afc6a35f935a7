/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After a snapshot that came to nothing, or whose VM is to run on.
 *
 * A VMM may be busy with a snapshot that we no longer wait for, and then answers nobody.
 * It is not killed for that: the client is told, and the operation holds the row until
 * the VMM answers.
 */
#include "base/clock.h"
#include "base/log.h"
#include "trace/trace.h"
#include "vm/snapshot.h"

enum { RESUME_MS = 5000, BUSY_MS = 3600 * 1000 };

int snapshot_go_on(struct vm_op *op, const struct vmm_handle *vm, const struct err *why,
                   struct err *e)
{
    struct op soon = {clock_ms() + RESUME_MS, -1, op->job.op.trace};
    struct op late = {clock_ms() + BUSY_MS, op->job.op.cancel_fd, NULL};
    auto_span span = op_span(&soon, "resume_vm");

    if (why && why->code == ERR_TIMEOUT)
        vm_op_answer_early(op, why);
    if (vmm_resume(&soon, vm, e) == 0)
        return 0;
    if (e->code != ERR_TIMEOUT)
        return -1;
    log_warn("%s: its VMM answers nobody; the instance is busy until it does", vm->name);
    err_clear(e);
    if (vmm_resume(&late, vm, e) == 0)
        return 0;
    op->is_left_paused = e->code == ERR_TIMEOUT || e->code == ERR_CANCELLED;
    return -1;
}

void snapshot_discard(const struct vm_op *op, int dir_fd)
{
    struct err e = {0};

    if (!op->is_left_paused && snapshot_remove(dir_fd, &e) < 0)
        log_warn("instance %s: a snapshot that failed stays on the disk: %s", op->id, e.msg);
}

/* In this order: as long as the VMM does not answer it may be writing. */
void snapshot_give_up(struct vm_op *op, const struct vmm_handle *vm, const struct err *why)
{
    struct err e = {0};

    if (snapshot_withdraw(vm->dir_fd, &e) < 0)
        log_warn("%s: %s", vm->name, e.msg);
    err_clear(&e);
    if (snapshot_go_on(op, vm, why, &e) < 0)
        log_warn("%s: %s", vm->name, e.msg);
    snapshot_discard(op, vm->dir_fd);
}
