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
    struct vmm_load what = {.resume = false};
    bool runs = false;
    int rc = network_bind(op, "restore_network", e);

    if (rc == 0)
        rc = network_leave_tap(op, e);
    what.boot = launch_plan(op);
    if (rc == 0)
        rc = vmm_load(&op->job.op, op->spec->driver, &what, &op->started, &runs, e);
    network_return_tap(op);
    return rc;
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

static int commit(struct vm_op *op, bool is_new, struct err *e)
{
    return is_new ? launch_commit_fork(op, e) : launch_commit_state(op, e);
}

/* The guest never ran, so the snapshot still is the continuation of its disk. */
static void give_back(struct vm_op *op, const struct vm_run *before, bool is_new)
{
    struct err e = {0};

    launch_undo(op);
    vm_run_free(&op->run);
    op->run = vm_run_copy(before);
    if (commit(op, is_new, &e) < 0)
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

static int commit_and_run(struct vm_op *op, bool is_new, struct err *e)
{
    auto_run struct vm_run before = vm_run_copy(&op->run);

    enter_running(op, &op->started.id);
    if (commit(op, is_new, e) < 0) {
        launch_undo(op);
        return -1;
    }
    if (let_run(op, e) < 0) {
        give_back(op, &before, is_new);
        return -1;
    }
    return 0;
}

/* The guest has run: it no longer fits the disk. */
static void drop_snapshot(struct vm_op *op)
{
    auto_span span = op_span(&op->job.op, "withdraw_snapshot");
    struct err e = {0};

    op->used_fd = snapshot_use_up(op->dir_fd, &e);
    if (op->used_fd < 0)
        log_warn("instance %s: its used snapshot stays until the next: %s", op->id, e.msg);
}

/* --- with the resume in the load --- */

/* What is done while the VMM starts, and has to be done before it loads, or before the answer. */
struct waking {
    struct vm_op *op;
    bool is_new;
    struct vmm_load load;
    struct store_change *change; /* that it runs, under way to the store; NULL: none is */
    int64_t began_us;
    struct err network; /* why there is none for it; code ERR_NONE: there is */
};

static void process_started(void *arg, const struct vmm_process *process)
{
    struct waking *w = arg;
    struct vm_op *op = w->op;

    op->run.disk_stamp = snapshot_disk_stamp(op->dir_fd);
    enter_running(op, &process->id);
    w->began_us = clock_us();
    w->change = w->is_new ? launch_change_all(op) : launch_change_state(op);
    store_begin(op->env->store, w->change);
    if (network_bind(op, "restore_network", &w->network) == 0)
        (void)network_leave_tap(op, &w->network);
    w->load.boot = launch_plan(op);
}

static int await_commit(struct waking *w, struct err *e)
{
    struct op *op = &w->op->job.op;
    auto_span span = op_span(op, "await_commit");
    int64_t ended_us = 0;
    int rc = store_await(take_ptr(&w->change), &ended_us, e);

    span_put(op->trace, "store.commit", w->began_us, ended_us);
    return rc;
}

static int about_to_run(void *arg, struct err *e)
{
    struct waking *w = arg;

    if (w->network.code != ERR_NONE) {
        *e = w->network;
        return -1;
    }
    return w->is_new ? 0 : await_commit(w, e);
}

/* Nothing came of it. What the record says depends on whether the guest may have run. */
static void withdraw(struct vm_op *op, const struct vm_run *before)
{
    int64_t stamp = op->run.disk_stamp;
    bool is_as_it_was = stamp != 0 && snapshot_disk_stamp(op->dir_fd) == stamp;
    struct err e = {0};

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

/* What the store was given it is to have, or to have refused, before it is given more. */
static void end_commit(struct waking *w)
{
    struct err ignored = {0};

    if (w->change)
        (void)await_commit(w, &ignored);
}

static int load_and_resume(struct waking *w, struct err *e)
{
    struct vm_op *op = w->op;
    bool runs = false;
    int rc = vmm_load(&op->job.op, op->spec->driver, &w->load, &op->started, &runs, e);

    network_return_tap(op);
    if (rc < 0 || (!runs && let_run(op, e) < 0))
        return -1;
    if (!w->is_new)
        return 0;
    return launch_await_directory(op, e) < 0 ? -1 : await_commit(w, e);
}

static int load_running(struct vm_op *op, bool is_new, struct err *e)
{
    auto_run struct vm_run before = vm_run_copy(&op->run);
    struct waking w = {.op = op,
                       .is_new = is_new,
                       .load = {.boot = launch_plan(op),
                                .resume = true,
                                .started = process_started,
                                .about_to_run = about_to_run,
                                .arg = &w}};
    int rc = load_and_resume(&w, e);

    end_commit(&w);
    if (rc < 0) {
        launch_undo(op);
        if (w.began_us && !is_new)
            withdraw(op, &before);
        return -1;
    }
    op->run.disk_stamp = 0;
    return 0;
}

int restore_wake(struct vm_op *op, bool is_new, struct err *e)
{
    int rc;

    if (op->spec->driver->resumes_in_load && op->env->resume_in_load)
        rc = load_running(op, is_new, e);
    else
        rc = load(op, e) < 0 ? -1 : commit_and_run(op, is_new, e);
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
        snapshot_check_identity(&op->job.op, op->dir_fd, op->spec->driver, op->env->host, e) < 0 ||
        restore_wake(op, false, e) < 0)
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
