/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "vm/launch.h"
#include "vm/network.h"
#include "vm/restore.h"
#include "vm/snapshot.h"
#include "vm/verbs.h"

static int check(const struct instance *row, struct vm_op *op, struct err *e)
{
    op->starts_vmm = true;
    if (row->run.state != VM_STANDBY)
        return err_set(e,
                       ERR_BAD_STATE,
                       "invalid state transition: cannot restore from state %s, must be Standby",
                       vm_state_name(row->run.state));
    return row->spec->driver && row->spec->driver->load
               ? 0
               : err_set(e,
                         ERR_UNSUPPORTED,
                         "the hypervisor %s is not part of this build",
                         row->spec->hypervisor);
}

static int load(struct vm_op *op, struct err *e)
{
    struct vmm_load what = {.boot = launch_plan(op), .resume = false};
    bool runs = false;

    return vmm_load(&op->job.op, op->spec->driver, &what, &op->started, &runs, e);
}

static int let_run(struct vm_op *op, struct err *e)
{
    auto_span span = op_span(&op->job.op, "resume_vm");
    struct vmm_handle vm = {
        .driver = op->spec->driver,
        .name = op->spec->name,
        .dir_fd = op->dir_fd,
        .pidfd = op->started.pidfd,
    };

    return vmm_resume(&op->job.op, &vm, e);
}

/* The guest never ran, so the snapshot still is the continuation of its disk. */
static void give_back(struct vm_op *op, const struct vm_run *before, restore_commit *commit)
{
    struct err e = {0};

    launch_undo(op);
    vm_run_free(&op->run);
    op->run = vm_run_copy(before);
    if (commit(op, &e) < 0)
        log_error(
            "instance %s: that it is in standby again is not written down: %s", op->id, e.msg);
}

static int commit_and_run(struct vm_op *op, restore_commit *commit, struct err *e)
{
    auto_run struct vm_run before = vm_run_copy(&op->run);

    op->run.incarnation++;
    op->run.proc = op->started.id;
    memcpy(op->run.boot_id, op->env->boot_id, sizeof(op->run.boot_id));
    vm_run_enter(&op->run, VM_RUNNING, VM_BY_REQUEST, wall_us());
    op->run.started_us = op->run.since_us;
    op->run.stopped_us = 0;
    if (commit(op, e) < 0) {
        launch_undo(op);
        return -1;
    }
    if (let_run(op, e) < 0) {
        give_back(op, &before, commit);
        return -1;
    }
    return 0;
}

/* The guest has run: it no longer fits the disk. */
static void drop_snapshot(const struct vm_op *op)
{
    auto_span span = op_span(&op->job.op, "remove_snapshot");
    struct err e = {0};

    if (snapshot_remove(op->dir_fd, &e) < 0)
        log_warn("instance %s: its used snapshot stays until the next: %s", op->id, e.msg);
}

int restore_wake(struct vm_op *op, restore_commit *commit, struct err *e)
{
    if (network_bind(op, "restore_network", e) < 0 || load(op, e) < 0 ||
        commit_and_run(op, commit, e) < 0)
        return -1;
    drop_snapshot(op);
    return 0;
}

static int run(struct vm_op *op, struct err *e)
{
    op->dir_fd = env_open_instance(op->env, op->id, e);
    if (op->dir_fd < 0 ||
        snapshot_check_identity(op->dir_fd, op->spec->driver, op->env->host, e) < 0 ||
        restore_wake(op, launch_commit_state, e) < 0)
        return err_wrap(e, "restore %s", op->spec->name);
    return 0;
}

const struct vm_verb verb_restore = {
    .name = "restore",
    .span = "instances.restore",
    .kind = VM_JOB_RESTORE,
    .timeout_ms = 60000,
    .check = check,
    .run = run,
    .apply = vm_op_show,
    .undo = launch_undo,
};
