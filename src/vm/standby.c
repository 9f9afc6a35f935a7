/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>

#include "base/clock.h"
#include "base/log.h"
#include "vm/exit_note.h"
#include "vm/freeze.h"
#include "vm/launch.h"
#include "vm/snapshot.h"
#include "vm/verbs.h"

enum { KILL_MS = 30000 };

static int check(const struct instance *row, struct vm_op *op, struct err *e)
{
    (void)op;
    if (row->run.state != VM_RUNNING)
        return err_set(e,
                       ERR_BAD_STATE,
                       "invalid state transition: cannot standby from state %s, must be Running",
                       vm_state_name(row->run.state));
    if (!row->spec->driver->save || !row->spec->driver->load) {
        err_set(e, ERR_UNSUPPORTED, "%s takes no snapshots", row->spec->hypervisor);
        return err_slug(e, "not_supported");
    }
    return 0;
}

/* SIGKILL is on its way; nothing of the process goes on. */
static int await_end(struct vm_op *op, int64_t killed_us, struct err *e)
{
    struct op last_moment = {clock_ms() + KILL_MS, -1};
    int rc = proc_kill(&last_moment, op->pidfd, e);

    span_put(op->job.op.trace, "hypervisor.stop", killed_us, clock_us());
    return rc;
}

/*
 * Snapshot, kill, commit while the process ends. Its memory is held meanwhile: to free
 * it is not worth waiting for. From the kill on the instance is in standby, and that is
 * the answer, whatever becomes of the record: the snapshot is on the disk, and at the
 * next start a whole one without a process counts. The record is written again.
 */
static int run(struct vm_op *op, struct err *e)
{
    struct vmm_handle vm = {
        .driver = op->spec->driver,
        .name = op->spec->name,
        .pidfd = op->pidfd,
    };
    struct err late = {0};
    int64_t killed_us;

    op->dir_fd = vm.dir_fd = env_open_instance(op->env, op->id, e);
    if (op->dir_fd < 0 || freeze_await(op, e) < 0)
        return err_wrap(e, "standby %s", op->spec->name);
    if (snapshot_take(&op->job.op, &vm, op->env->host, op->run.incarnation, e) < 0) {
        err_wrap(e, "standby %s", op->spec->name);
        snapshot_give_up(op, &vm, e);
        return -1;
    }
    op->held_fd = vmm_hold_memory(&vm);
    if (proc_signal(op->pidfd, SIGKILL, e) < 0)
        return err_wrap(e, "standby %s", op->spec->name);
    killed_us = clock_us();
    vm_run_enter(&op->run, VM_STANDBY, VM_BY_REQUEST, wall_us());
    op->run.stopped_us = op->run.since_us;
    if (launch_commit_state(op, &late) < 0)
        log_warn("instance %s is in standby, but not by its record yet: %s", op->id, late.msg);
    if (await_end(op, killed_us, e) < 0) {
        op->run.state = VM_RUNNING; /* what it is without its process is for its exit to say */
        return err_wrap(e, "standby %s", op->spec->name);
    }
    op->is_unwritten = late.code != ERR_NONE;
    err_clear(&late);
    if (vmm_clear_sockets(op->dir_fd, &late) < 0)
        log_warn("instance %s: %s", op->id, late.msg); /* the next start clears them, or says so */
    return 0;
}

static void apply(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    vm_op_show(w, row, op);
    if (op->is_unwritten)
        exit_note_store(w, row);
}

static void failed(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    (void)op;
    freeze_undo(w, row);
}

/* A stop was done before it: there is no memory to keep any more. */
static void undo(struct vm_op *op)
{
    struct err e = {0};

    if (snapshot_find(op->dir_fd, op->run.incarnation, &e) == 1 &&
        snapshot_remove(op->dir_fd, &e) < 0)
        log_warn("instance %s: a snapshot that came late stays: %s", op->id, e.msg);
}

const struct vm_verb verb_standby = {
    .name = "standby",
    .span = "instances.standby",
    .kind = VM_JOB_SNAPSHOT,
    .timeout_ms = 120000,
    .check = check,
    .begin = freeze_begin,
    .run = run,
    .apply = apply,
    .failed = failed,
    .undo = undo,
};
