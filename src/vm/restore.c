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

enum { STATE_MAX = 16 * 1024 };

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

static void enter_running(struct vm_op *op, const struct proc_id *process)
{
    op->run.incarnation++;
    op->run.proc = *process;
    memcpy(op->run.boot_id, op->env->boot_id, sizeof(op->run.boot_id));
    vm_run_enter(&op->run, VM_RUNNING, VM_BY_REQUEST, wall_us());
    op->run.started_us = op->run.since_us;
    op->run.stopped_us = 0;
    op->run.restarts = 0;
}

static int commit_and_run(struct vm_op *op, restore_commit *commit, struct err *e)
{
    auto_run struct vm_run before = vm_run_copy(&op->run);

    enter_running(op, &op->started.id);
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

/* --- with the resume in the load --- */

/* That it runs, put down before it does. */
struct intent {
    struct vm_op *op;
    struct store_change *change; /* NULL once the store has it */
    struct beside committed;
};

static int commit_intent(void *arg, struct err *e)
{
    struct intent *intent = arg;

    return store_commit(intent->op->env->store, take_ptr(&intent->change), e);
}

static void process_started(void *arg, const struct vmm_process *process)
{
    struct intent *intent = arg;
    struct vm_op *op = intent->op;
    auto_buf struct buf state = BUF(STATE_MAX);

    op->run.disk_stamp = snapshot_disk_stamp(op->dir_fd);
    enter_running(op, &process->id);
    vm_run_write(&state, &op->run);
    intent->change = store_change_new();
    instances_put_state(intent->change, op->id, buf_str(&state));
    intent->committed = (struct beside){.fn = commit_intent, .arg = intent};
    beside_begin(&intent->committed);
}

static int await_intent(void *arg, struct err *e)
{
    struct intent *intent = arg;
    struct trace *trace = intent->op->job.op.trace;
    auto_span span = op_span(&intent->op->job.op, "await_commit");
    int rc = beside_end(&intent->committed, e);

    span_put(trace, "store.commit", intent->committed.began_us, intent->committed.ended_us);
    return rc;
}

/* Nothing came of it. What the record says depends on whether the guest may have run. */
static void withdraw(struct intent *intent, const struct vm_run *before)
{
    struct vm_op *op = intent->op;
    int64_t stamp = op->run.disk_stamp;
    bool is_as_it_was = stamp != 0 && snapshot_disk_stamp(op->dir_fd) == stamp;
    struct err e = {0};

    (void)beside_end(&intent->committed, &e);
    err_clear(&e);
    vm_run_free(&op->run);
    op->run = vm_run_copy(before);
    if (!is_as_it_was) {
        vm_run_enter(&op->run, VM_STOPPED, VM_BY_REQUEST, wall_us());
        vm_run_set_end(&op->run, "its restore failed after the guest had written to its disk");
    }
    if (launch_commit_state(op, &e) < 0)
        log_error("instance %s: that it does not run is not written down: %s", op->id, e.msg);
    else if (!is_as_it_was)
        drop_snapshot(op);
}

static int load_running(struct vm_op *op, bool is_new, struct err *e)
{
    auto_run struct vm_run before = vm_run_copy(&op->run);
    struct intent intent = {.op = op};
    struct vmm_load what = {.boot = launch_plan(op), .resume = true, .arg = &intent};
    bool runs = false;

    if (!is_new) {
        what.started = process_started;
        what.about_to_run = await_intent;
    }
    if (vmm_load(&op->job.op, op->spec->driver, &what, &op->started, &runs, e) < 0 ||
        (!runs && let_run(op, e) < 0)) {
        launch_undo(op);
        if (intent.committed.fn)
            withdraw(&intent, &before);
        return -1;
    }
    op->run.disk_stamp = 0;
    return 0;
}

static int load_running_fork(struct vm_op *op, restore_commit *commit, struct err *e)
{
    if (load_running(op, true, e) < 0)
        return -1;
    enter_running(op, &op->started.id);
    return commit(op, e);
}

int restore_wake(struct vm_op *op, restore_commit *commit, bool is_new, struct err *e)
{
    int rc;

    if (network_bind(op, "restore_network", e) < 0)
        return -1;
    if (op->spec->driver->resumes_in_load && op->env->resume_in_load)
        rc = is_new ? load_running_fork(op, commit, e) : load_running(op, false, e);
    else
        rc = load(op, e) < 0 ? -1 : commit_and_run(op, commit, e);
    if (rc == 0)
        drop_snapshot(op);
    return rc;
}

enum vm_job_kind restore_job_kind(const struct vmm_driver *driver)
{
    return strcmp(driver->name, "firecracker") == 0 ? VM_JOB_RESTORE_FIRECRACKER : VM_JOB_RESTORE;
}

static int run(struct vm_op *op, struct err *e)
{
    op->dir_fd = env_open_instance(op->env, op->id, e);
    if (op->dir_fd < 0 ||
        snapshot_check_identity(op->dir_fd, op->spec->driver, op->env->host, e) < 0 ||
        restore_wake(op, launch_commit_state, false, e) < 0)
        return err_wrap(e, "restore %s", op->spec->name);
    return 0;
}

/* A guest that may have run cannot be woken again: its snapshot no longer fits. */
static void failed(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    if (op->run.state == VM_STOPPED)
        vm_op_show(w, row, op);
}

const struct vm_verb verb_restore = {
    .name = "restore",
    .span = "instances.restore",
    .kind = VM_JOB_RESTORE,
    .timeout_ms = 60000,
    .check = check,
    .run = run,
    .apply = vm_op_show,
    .failed = failed,
    .undo = launch_undo,
};
