/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/op.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "vm/exit_note.h"
#include "vm/live.h"
#include "vm/network.h"
#include "vm/restore.h"

static void op_start(struct vm_op *op, struct instance *row);

struct vm_op *vm_op_new(const struct vm_verb *verb,
                        void (*answered)(struct vm_op *op, const struct instance *row), void *arg)
{
    struct vm_op *op = mem_new(struct vm_op);

    op->verb = verb;
    op->answered = answered;
    op->arg = arg;
    op->pidfd = -1;
    op->dir_fd = -1;
    op->held_fd = -1;
    op->used_fd = -1;
    op->frozen_fd = -1;
    op->started.pidfd = -1;
    return op;
}

const struct err *vm_op_error(const struct vm_op *op)
{
    return &op->err;
}

void vm_op_show(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    vm_run_free(&row->run);
    row->run = vm_run_copy(&op->run);
    row->observed_us = wall_us();
    network_name(w, row);
    if (op->started.pidfd >= 0)
        live_attach(w, row, take_fd(&op->started.pidfd), network_hand_over(w, op));
    else if (!vm_state_has_process(row->run.state))
        live_detach(w, row);
    else
        prober_heard(&w->prober, row);
    probe_overtake(&row->probe);
    instance_changed(&w->table, row);
}

static void op_free(struct vm_op *op)
{
    if (op->world)
        loop_timer_stop(op->world->loop, &op->patience);
    network_let_go(op);
    if (op->pidfd >= 0)
        close(op->pidfd);
    if (op->used_fd >= 0)
        world_clear_snapshot(op->world, take_fd(&op->dir_fd), take_fd(&op->used_fd));
    cleanup_close(&op->dir_fd);
    cleanup_close(&op->frozen_fd);
    if (op->held_fd >= 0)
        world_close(op->world, take_fd(&op->held_fd));
    if (op->started.pidfd >= 0)
        close(op->started.pidfd);
    spec_unref(op->spec);
    spec_unref(op->next_spec);
    vm_run_free(&op->run);
    free(op);
}

static void answer(struct vm_op *op, const struct instance *row)
{
    if (op->err.code != ERR_NONE && op->preempted) {
        err_clear(&op->err);
        err_set(&op->err,
                ERR_PREEMPTED,
                "the %s was ended by a stop or delete of the instance",
                op->verb->name);
    }
    if (op->world)
        trace_finish(&op->world->traces, &op->trace, op->err.code != ERR_NONE);
    if (op->answered)
        op->answered(op, row);
    op_free(op);
}

static void answer_early(struct post *post)
{
    struct vm_op *op = container_of(post, struct vm_op, early);
    void (*answered)(struct vm_op * op, const struct instance *row) = op->answered;

    op->answered = NULL;
    op->err = op->early_err;
    if (answered)
        answered(op, table_by_id(&op->world->table, op->id));
    op->err = (struct err){0};
}

void vm_op_answer_early(struct vm_op *op, const struct err *why)
{
    op->early_err = *why;
    op->early.fn = answer_early;
    loop_post(op->world->loop, &op->early);
}

void vm_op_refuse(struct vm_op *op)
{
    answer(op, NULL);
}

static void undo_run(struct job *job)
{
    struct vm_op *op = container_of(job, struct vm_op, job);

    op->verb->undo(op);
}

static void undo_done(struct job *job)
{
    struct vm_op *op = container_of(job, struct vm_op, job);
    const struct instance *row = table_by_id(&op->world->table, op->id);

    if (row && !row->holder)
        exit_note_store(op->world, row); /* over what the late result wrote */
    err_set(&op->err,
            ERR_PREEMPTED,
            "the instance was stopped or deleted before the %s was done",
            op->verb->name);
    answer(op, NULL);
}

/* The result came too late. What it started is ended by another job, since that may wait. */
static void undo(struct vm_op *op)
{
    struct err e = {0};

    log_info("the %s of instance %s came back after the instance was taken from it; undoing it",
             op->verb->name,
             op->id);
    op->job.run = undo_run;
    op->job.done = undo_done;
    op->job.kind = VM_JOB_STOP;
    op->job.timeout_ms = 60000;
    if (jobs_submit(op->world->jobs, &op->job, &e) < 0) {
        /* Shutting down: the sweep of the next start finds what has no record. */
        log_warn("undo the %s of instance %s: %s", op->verb->name, op->id, e.msg);
        undo_done(&op->job);
    }
}

/* Gives the row to the stop or delete that waits for it. */
static void hand_over(struct instance *row)
{
    struct vm_op *next = row->preemptor;

    if (row->shared > 0)
        return;
    row->preemptor = NULL;
    if (next) {
        loop_timer_stop(next->world->loop, &next->patience);
        op_start(next, row);
    }
}

/* The outcome of an operation that holds the row goes into it; the row may go. */
static void settle(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    row->holder = NULL;
    if (op->err.code == ERR_NONE)
        op->verb->apply(w, row, op);
    else if (op->verb->failed)
        op->verb->failed(w, row, op);
    row = table_by_id(&w->table, op->id);
    if (!row)
        return;
    live_judge(w, row);
    network_settle(w, row, false);
}

static void op_done(struct job *job)
{
    struct vm_op *op = container_of(job, struct vm_op, job);
    struct vm_world *w = op->world;
    struct instance *row = table_by_id(&w->table, op->id);
    bool mine = row && row->holder == op;
    char id[ID_SIZE];

    op->err = job->err;
    job->err = (struct err){0};
    if (!mine) {
        if (op->err.code == ERR_NONE && op->verb->undo)
            undo(op);
        else
            answer(op, row);
        return;
    }
    memcpy(id, op->id, sizeof(id));
    settle(w, row, op);
    answer(op, table_by_id(&w->table, id));
    row = table_by_id(&w->table, id);
    if (!row)
        return;
    live_listen_soon(row);
    hand_over(row);
}

/* For the people who read the instance's own log; what it misses is in the daemon's. */
static void note_operation(const struct vm_op *op, const struct err *outcome, int64_t took_us)
{
    struct err ignored = {0};
    auto_close int dir_fd = env_open_instance(op->env, op->id, &ignored);
    auto_close int fd = -1;
    auto_span span = op_span(&op->job.op, "operation_log");
    char at[TIME_TEXT_SIZE];

    if (dir_fd >= 0)
        fd = openat(dir_fd,
                    VM_OPERATIONS_LOG,
                    O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW,
                    0600);
    if (fd >= 0)
        (void)dprintf(fd,
                      "%s %s %s after %" PRId64 ".%03" PRId64 " ms%s%s\n",
                      time_text(wall_us(), at),
                      op->verb->name,
                      outcome->code == ERR_NONE ? "done" : "failed",
                      took_us / 1000,
                      took_us % 1000,
                      outcome->code == ERR_NONE ? "" : ": ",
                      outcome->msg);
}

static void op_run(struct job *job)
{
    struct vm_op *op = container_of(job, struct vm_op, job);
    int64_t began_us = clock_us();

    span_end(&op->queued);
    job->op.trace = &op->trace;
    if (op->abandoned && atomic_load(op->abandoned))
        err_set(
            &job->err, ERR_CANCELLED, "the client went away before the %s began", op->verb->name);
    else
        (void)op->verb->run(op, &job->err);
    note_operation(op, &job->err, clock_us() - began_us);
    (void)op_span(&job->op, "publish"); /* ends with the trace: back to the loop, table, watches */
}

static void op_start(struct vm_op *op, struct instance *row)
{
    struct vm_world *w = op->world;

    assert(!row->holder);
    if (op->verb->check(row, op, &op->err) < 0 || op->idle) {
        answer(op, row);
        return;
    }
    op->env = &w->env;
    op->spec = spec_ref(row->spec);
    op->run = vm_run_copy(&row->run);
    op->pidfd = live_dup_pidfd(row);
    op->job.run = op_run;
    op->job.done = op_done;
    op->job.kind =
        op->verb->kind == VM_JOB_RESTORE ? restore_job_kind(op->spec->driver) : op->verb->kind;
    op->job.timeout_ms = op->grace_ms + (op->verb->kind == VM_JOB_SNAPSHOT ? w->snapshot_timeout_ms
                                                                           : op->verb->timeout_ms);
    row->holder = op;
    op->queued = span_begin(
        &op->trace,
        op->job.kind == VM_JOB_RESTORE_FIRECRACKER ? "firecracker_restore_capacity_wait" : "queue");
    if (op->verb->begin)
        op->verb->begin(w, row, op);
    if (network_claim(w, row, op, &op->err) < 0 || jobs_submit(w->jobs, &op->job, &op->err) < 0) {
        settle(w, row, op);
        answer(op, table_by_id(&w->table, op->id));
    }
}

/* The holder did not unwind in time: the row goes to the preemptor, the holder's result is undone.
 */
static void out_of_patience(struct timer *t)
{
    struct vm_op *op = container_of(t, struct vm_op, patience);
    struct instance *row = table_by_id(&op->world->table, op->id);

    if (!row || row->preemptor != op)
        return;
    log_warn("the %s of instance %s does not end; going on with the %s without it",
             row->holder->verb->name,
             row->id,
             op->verb->name);
    row->holder = NULL;
    hand_over(row);
}

int vm_op_share(struct instance *row, struct err *e)
{
    const struct vm_op *in_the_way = row->preemptor ? row->preemptor : row->holder;

    if (in_the_way)
        return err_set(e,
                       ERR_BUSY,
                       "a %s of this instance is under way; wait for it to end",
                       in_the_way->verb->name);
    row->shared++;
    return 0;
}

void vm_op_unshare(struct instance *row)
{
    row->shared--;
    hand_over(row);
}

static void preempt(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    if (row->preemptor) { /* a stop that a delete overtakes */
        struct vm_op *overtaken = row->preemptor;

        err_set(&overtaken->err, ERR_PREEMPTED, "the instance is being deleted");
        answer(overtaken, row);
    }
    row->preemptor = op;
    if (!row->holder) /* it waits for forks */
        return;
    op->has_preempted = true;
    row->holder->preempted = true;
    job_cancel(&row->holder->job);
    live_kill(row);
    op->patience.fn = out_of_patience;
    loop_timer_start(w->loop, &op->patience, w->preempt_patience_ms);
}

void vm_op_begin(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    const struct vm_op *in_the_way = row->preemptor ? row->preemptor : row->holder;

    op->world = w;
    memcpy(op->id, row->id, sizeof(op->id));
    trace_begin(&op->trace, op->verb->span, op->id);
    if (!in_the_way && row->shared > 0) {
        row->preemptor = op; /* the forks' jobs are short; they are not cancelled */
    } else if (!in_the_way) {
        op_start(op, row);
    } else if (op->verb->rank > in_the_way->verb->rank) {
        preempt(w, row, op);
    } else {
        err_set(&op->err,
                ERR_BUSY,
                "a %s of this instance is under way; wait for it to end",
                in_the_way->verb->name);
        answer(op, row);
    }
}
