/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/log.h"
#include "vm/exit_note.h"
#include "vm/launch.h"
#include "vm/snapshot.h"
#include "vm/verbs.h"

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

/*
 * Snapshot, end the process, commit. A crash before the commit is settled at the
 * next start: with a process the VM runs on, without one the snapshot is whole and
 * the instance is in standby.
 */
static int run(struct vm_op *op, struct err *e)
{
    struct op last_moment = {clock_ms() + 30000, -1};
    struct vmm_handle vm = {
        .driver = op->spec->driver,
        .name = op->spec->name,
        .pidfd = op->pidfd,
    };

    op->dir_fd = vm.dir_fd = env_open_instance(op->env, op->id, e);
    if (op->dir_fd < 0 ||
        snapshot_take(&op->job.op, &vm, op->env->host, op->run.incarnation, e) < 0 ||
        proc_kill(&last_moment, op->pidfd, e) < 0)
        return err_wrap(e, "standby %s", op->spec->name);
    vm_run_enter(&op->run, VM_STANDBY, VM_BY_REQUEST, wall_us());
    op->run.stopped_us = op->run.since_us;
    if (vmm_clear_sockets(op->dir_fd, e) < 0 || launch_commit_state(op, e) < 0)
        return err_wrap(e, "standby %s", op->spec->name);
    return 0;
}

/* The process is gone and the snapshot is whole: that is standby, though it is not written down. */
static void failed(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    if (op->run.state != VM_STANDBY)
        return;
    vm_op_show(w, row, op);
    exit_note_store(w, row);
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
    .run = run,
    .apply = vm_op_show,
    .failed = failed,
    .undo = undo,
};
