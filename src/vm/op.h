/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One operation at a time holds an instance.
 *
 * vm_op_begin() gives an operation hold of a row and sends its run() to a
 * worker; when it comes back, apply() puts the outcome into the row, in the same
 * turn of the loop in which the client is answered. While one operation holds a
 * row another gets ERR_BUSY, except that one of higher rank (stop, delete)
 * waits for nothing: it cancels the holder's job and kills the instance's
 * process, which ends the holder's waits, and takes hold when it has unwound. A
 * holder that does not unwind in time (a dead disk) is abandoned: the preemptor
 * goes on without it.
 *
 * A result whose row is gone, or was taken from it, is undone: undo() ends what
 * run() had started. So no process or file outlives a deleted instance, however
 * late its start comes back.
 *
 * What run() promises it commits to the store before it returns: committed, then
 * shown, then answered. Exits that happen while an operation holds the row are
 * the operation's business until it returns; then the row is judged.
 *
 * Loop thread, except run() and undo().
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "loop/beside.h"
#include "loop/jobs.h"
#include "trace/trace.h"
#include "vm/world.h"

/* In an instance's directory: a line for every operation and how it went (log source "hypeman"). */
#define VM_OPERATIONS_LOG "hypeman.log"

struct vm_op;

struct vm_verb {
    const char *name; /* "start": for messages */
    const char *span; /* "instances.start": the root of its trace */
    enum vm_job_kind kind;
    int64_t timeout_ms; /* beyond the grace that its operation gives */
    unsigned rank;      /* preempts what has a lower one: 0 most, 1 stop, 2 delete */

    /* Loop, as it takes hold: -1 when the state does not allow it. May set op->idle. */
    int (*check)(const struct instance *row, struct vm_op *op, struct err *e);

    /* Loop, optional: just before the job is submitted. */
    void (*begin)(struct vm_world *w, struct instance *row, struct vm_op *op);

    /* Worker: straight-line, under op->job.op. On failure it has undone its own work. */
    int (*run)(struct vm_op *op, struct err *e);

    /* Loop: the outcome goes into the row. May remove it. */
    void (*apply)(struct vm_world *w, struct instance *row, struct vm_op *op);

    /* Loop, optional: it came to nothing. May remove the row. */
    void (*failed)(struct vm_world *w, struct instance *row, struct vm_op *op);

    /* Worker, optional: run() succeeded, and nobody wants it any more. */
    void (*undo)(struct vm_op *op);
};

struct vm_op {
    /* Set by whoever begins it. */
    const struct vm_verb *verb;
    void (*answered)(struct vm_op *op,
                     const struct instance *row); /* err says how; row may be NULL */
    void *arg;
    int64_t grace_ms;             /* stop, delete: how long the guest may take to end by itself */
    char other[ID_SIZE];          /* fork: the source; capture: the instance to be */
    enum vm_state target;         /* fork: what the new instance becomes */
    bool is_prepared;             /* fork: its directory was made by a capture */
    bool is_unwritten;            /* standby: its record is still to be written */
    const atomic_bool *abandoned; /* set once nobody waits for it: then it does not begin. NULL: it
                                     does in any case. Lives until answered() */
    struct spec *next_spec; /* start, update: what the instance becomes; NULL: as it is. Owned */

    /* Filled in as it takes hold: the job's own view of the instance. */
    const struct vm_env *env;
    char id[ID_SIZE];
    struct spec *spec; /* a reference */
    struct vm_run run; /* a copy; run() writes what the instance becomes */
    int pidfd;         /* of the live process, a duplicate; -1 when there is none */
    bool idle;         /* set by check(): nothing to do, succeed without a job */
    bool starts_vmm; /* set by check(): the job starts a VMM, which needs a place in the network */
    bool preempted;  /* a stop or delete ended it */
    bool has_preempted;      /* it ended another to get hold */
    struct net_slot *slot;   /* lent to the job until the outcome is shown; NULL: no network */
    struct net_slot *in_use; /* update: the running VMM's, borrowed while the op holds the row */
    uint32_t fresh_address;  /* given out by this op; 0: the instance had one */

    /* Filled in by run(). */
    struct vmm_process started; /* pidfd -1: none */
    int dir_fd;                 /* of the instance, for attaching the loop's watches; -1: none */
    int held_fd;                /* is closed once the answer is out, by a job; -1: none */
    int used_fd;                /* the snapshot that was woken, which goes then too; -1: none */

    bool is_left_paused;   /* the VM, by a VMM that answers nobody, which was not waited for */
    int frozen_fd;         /* see vm/freeze.h; -1: none */
    struct beside *beside; /* run()'s own, while it runs: what has to end before it commits */

    /* Private. */
    struct vm_world *world;
    struct trace trace;
    struct span_scope queued; /* from taking hold to run() */
    struct job job;
    struct err err;
    struct timer patience;
    struct post early;    /* of vm_op_answer_early() */
    struct err early_err; /* what it says */
};

struct vm_op *vm_op_new(const struct vm_verb *verb,
                        void (*answered)(struct vm_op *op, const struct instance *row), void *arg);

/*
 * Takes the op: its answered() is called exactly once, possibly before this
 * returns, and then it is freed. op->err in answered() holds the outcome.
 */
void vm_op_begin(struct vm_world *w, struct instance *row, struct vm_op *op);

/*
 * For a fork, which reads a row's directory and changes nothing: several at once,
 * and no operation meanwhile. One that comes waits until the last has let go.
 * ERR_BUSY while an operation holds the row or waits for it.
 */
int vm_op_share(struct instance *row, struct err *e);
void vm_op_unshare(struct instance *row);

/* Answers an op, whose err is set, that never got a row; frees it. */
void vm_op_refuse(struct vm_op *op);

/*
 * For apply(): op->run becomes the row's. Watches follow: on the process that was
 * started, or on none where the state has none.
 */
void vm_op_show(struct vm_world *w, struct instance *row, struct vm_op *op);

/*
 * Worker, from run(): the operation has failed, which the client is told now, although
 * run() has more to do before the row is free. Once; what run() returns later only
 * goes into the row.
 */
void vm_op_answer_early(struct vm_op *op, const struct err *why);

/* For answered(). */
const struct err *vm_op_error(const struct vm_op *op);
