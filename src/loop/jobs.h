/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operations that wait, on worker threads, admitted by kind.
 *
 * A job is lent by jobs_submit() and comes back through its done callback on
 * the loop thread. In between nobody else touches it, which is why a job needs
 * no lock. run() holds plain straight-line code and sees only what the job
 * carries: copies and ids, never pointers into the loop's world.
 *
 * Every kind has a limit of its own, and there are as many threads as all
 * limits together, so a kind waits only for its own: a burst of starts never
 * delays a stop. What is over the limit waits in a queue on the loop and holds
 * no thread and no fd. Threads are made when first needed.
 *
 * All functions belong to the loop thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "loop/loop.h"
#include "loop/op.h"

struct jobs;

struct job_limit {
    const char *kind; /* for messages: "start" */
    unsigned running; /* at most so many at once */
    unsigned waiting; /* and so many in the queue; beyond that ERR_LIMIT */
};

struct job {
    /* Set by the owner before jobs_submit(). */
    void (*run)(struct job *job);  /* on a worker: may block, under job->op */
    void (*done)(struct job *job); /* on the loop: result and err are final, frees the job */
    int64_t timeout_ms;            /* counted from the start of run(), not from the queue */
    unsigned kind;                 /* index into the limits */

    struct op op;   /* filled in just before run() */
    struct err err; /* filled in by run() */

    /* Private. */
    enum { JOB_IDLE, JOB_WAITING, JOB_RUNNING, JOB_RETURNING } phase;
    struct post post;
    struct jobs *jobs;
    struct list link;
};

struct jobs *jobs_new(struct loop *loop, const struct job_limit *limits, size_t n_kinds);

/* ERR_LIMIT when the kind's queue is full, ERR_CANCELLED when shutting down: the caller keeps the
 * job. */
int jobs_submit(struct jobs *jobs, struct job *job, struct err *e);

/*
 * The same for a job that nobody waits for: it starts a millisecond later, when what is about
 * to be answered has been, and its reader does not find the processors taken.
 */
int jobs_submit_soon(struct jobs *jobs, struct job *job, struct err *e);

/*
 * Ends a job early. One that waits comes back with ERR_CANCELLED without having
 * run; in one that runs every op_wait() fails from now on, and it comes back
 * when it has unwound. done() is called in either case, never from in here.
 */
void job_cancel(struct job *job);

/* For tests and metrics. */
unsigned jobs_running(const struct jobs *jobs, unsigned kind);
unsigned jobs_waiting(const struct jobs *jobs, unsigned kind);

/*
 * Cancels everything and joins the threads. The done callbacks that are due then
 * run in the next loop_drain(), which must come before loop_free().
 */
void jobs_stop(struct jobs *jobs);
void jobs_free(struct jobs *jobs);
