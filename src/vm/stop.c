/* SPDX-License-Identifier: Apache-2.0 */
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "vm/exit_note.h"
#include "vm/launch.h"
#include "vm/live.h"
#include "vm/snapshot.h"
#include "vm/verbs.h"

/*
 * Stop and delete: the two that end a VM, and that preempt. Both ask the guest
 * over its agent as they take hold, if it has a grace, give it that, then kill the
 * VMM and confirm that it is gone.
 */

static void ask_guest(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    (void)w;
    if (op->grace_ms > 0) /* else it is killed, and what it made of the question would be a race */
        live_ask_shutdown(row, op->grace_ms);
}

static int end_process(struct vm_op *op, bool *killed_out, struct err *e)
{
    auto_close int dir_fd = env_open_instance(op->env, op->id, e);
    struct vmm_handle vm = {
        .driver = op->spec->driver,
        .name = op->spec->name,
        .dir_fd = dir_fd,
        .pidfd = op->pidfd,
    };

    auto_span span = op_span(&op->job.op, "hypervisor.stop");

    if (dir_fd < 0)
        return -1;
    if (op->pidfd >= 0 && vmm_stop(&op->job.op, &vm, op->grace_ms, killed_out, e) < 0)
        return -1;
    op->dir_fd = take_fd(&dir_fd);
    return vmm_clear_sockets(op->dir_fd, e);
}

/* --- stop --- */

static int stop_check(const struct instance *row, struct vm_op *op, struct err *e)
{
    if (vm_state_has_process(row->run.state) || row->run.state == VM_STANDBY)
        return 0;
    op->idle = op->has_preempted; /* what it ended never ran */
    return op->idle
               ? 0
               : err_set(e,
                         ERR_BAD_STATE,
                         "invalid state transition: cannot stop from state %s, must be Running",
                         vm_state_name(row->run.state));
}

/* The guest leaves word of its workload's end on its disk, unless it is killed before. */
static void note_exit(struct vm_op *op, bool was_killed)
{
    struct exit_record record;
    struct err e = {0};
    int rc = exit_note_find(op->dir_fd, op->run.boot, &record, &e);

    if (rc == 1 && !(was_killed && record.is_early))
        vm_run_set_exit(&op->run, record.code, record.message);
    else if (was_killed)
        vm_run_set_end(&op->run, "killed: the guest did not end by itself in time");
    else
        vm_run_set_end(&op->run, "stopped; the guest left no word of how it ended");
    if (rc < 0)
        log_info("instance %s: its exit record does not read: %s", op->id, e.msg);
}

static int stop_run(struct vm_op *op, struct err *e)
{
    struct err ignored = {0};
    bool was_killed = false;

    if (end_process(op, &was_killed, e) < 0)
        return err_wrap(e, "stop %s", op->spec->name);
    if (op->run.state == VM_STANDBY)
        vm_run_set_end(&op->run, "stopped in standby; its memory was given up");
    else
        note_exit(op, was_killed);
    vm_run_enter(&op->run, VM_STOPPED, VM_BY_REQUEST, wall_us());
    op->run.stopped_us = op->run.since_us;
    if (launch_commit_state(op, e) < 0)
        return err_wrap(e, "stop %s", op->spec->name);
    if (snapshot_remove(op->dir_fd, &ignored) < 0)
        log_warn("instance %s: its snapshot stays until the next: %s", op->id, ignored.msg);
    return 0;
}

const struct vm_verb verb_stop = {
    .name = "stop",
    .span = "instances.stop",
    .kind = VM_JOB_STOP,
    .timeout_ms = 60000,
    .rank = 1,
    .check = stop_check,
    .begin = ask_guest,
    .run = stop_run,
    .apply = vm_op_show,
};

/* --- delete --- */

static int delete_check(const struct instance *row, struct vm_op *op, struct err *e)
{
    (void)row;
    (void)op;
    (void)e;
    return 0;
}

/* The record goes before the directory: what a crash leaves has no record, and is swept. */
static int delete_run(struct vm_op *op, struct err *e)
{
    struct store_change *change;
    struct err ignored = {0};

    if (op->pidfd >= 0 && end_process(op, NULL, e) < 0)
        return err_wrap(e, "delete %s", op->spec->name);
    change = store_change_new();
    instances_delete(change, op->id);
    if (store_commit(op->env->store, change, e) < 0)
        return err_wrap(e, "delete %s", op->spec->name);
    if (tree_remove(op->env->instances_fd, op->id, &ignored) < 0)
        log_error("instance %s is deleted, but its directory stays until the next start: %s",
                  op->id,
                  ignored.msg);
    return 0;
}

static void delete_apply(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    (void)op;
    live_detach(w, row);
    world_remove(w, row);
}

const struct vm_verb verb_delete = {
    .name = "delete",
    .span = "instances.delete",
    .kind = VM_JOB_STOP,
    .timeout_ms = 60000,
    .rank = 2,
    .check = delete_check,
    .begin = ask_guest,
    .run = delete_run,
    .apply = delete_apply,
};
