/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/jobs.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "loop/thread.h"

/* Enough for libcurl and SQLite with room to spare; the default of 8 MiB is only address space. */
enum { STACK_BYTES = 512 * 1024 };

enum { SOON_MS = 1 };

struct kind {
    struct job_limit limit;
    unsigned running;
    unsigned waiting;
    struct list queue;
};

struct jobs {
    struct loop *loop;
    struct kind *kinds;
    size_t n_kinds;
    struct list active; /* running jobs: for jobs_stop(), and so that no job is forgotten */
    unsigned n_active;
    pthread_t *threads;
    unsigned n_threads;
    bool stopping;
    struct timer soon; /* of jobs that can wait: they are in the queues until then */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    struct post *first; /* admitted jobs that no worker has taken yet */
    struct post **last;
    bool ending;
};

static struct job *job_of(struct post *post)
{
    return container_of(post, struct job, post);
}

static void start_next(struct jobs *jobs, struct kind *kind);

static void give_back(struct post *post)
{
    struct job *job = job_of(post);
    struct jobs *jobs = job->jobs;
    struct kind *kind = &jobs->kinds[job->kind];

    if (job->op.cancel_fd >= 0)
        close(job->op.cancel_fd);
    job->op.cancel_fd = -1;
    if (job->link.next && !list_empty(&job->link)) { /* it ran; one that never did is on no list */
        list_remove(&job->link);
        jobs->n_active--;
        kind->running--;
    }
    job->phase = JOB_IDLE;
    job->done(job); /* frees the job, and may submit others */
    start_next(jobs, kind);
}

static struct job *take(struct jobs *jobs)
{
    struct job *job = NULL;

    pthread_mutex_lock(&jobs->lock);
    while (!jobs->first && !jobs->ending)
        pthread_cond_wait(&jobs->wake, &jobs->lock);
    if (jobs->first) {
        job = job_of(jobs->first);
        jobs->first = job->post.next;
        if (!jobs->first)
            jobs->last = &jobs->first;
    }
    pthread_mutex_unlock(&jobs->lock);
    return job;
}

static void *worker(void *arg)
{
    struct jobs *jobs = arg;
    struct job *job;

    while ((job = take(jobs)) != NULL) {
        job->op.deadline_ms = clock_ms() + job->timeout_ms;
        job->run(job);
        loop_post(jobs->loop, &job->post);
    }
    return NULL;
}

static int add_thread(struct jobs *jobs)
{
    int rc = thread_start(&jobs->threads[jobs->n_threads], STACK_BYTES, worker, jobs);

    if (rc == 0)
        jobs->n_threads++;
    return rc;
}

static void come_back_unrun(struct jobs *jobs, struct job *job)
{
    job->phase = JOB_RETURNING;
    job->link = (struct list){0};
    loop_post(jobs->loop, &job->post);
}

/* Hands an admitted job to a worker. On failure the job comes back with the reason. */
static void dispatch(struct jobs *jobs, struct job *job)
{
    struct kind *kind = &jobs->kinds[job->kind];

    job->op.cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (job->op.cancel_fd < 0) {
        err_errno(&job->err, "start %s", kind->limit.kind);
        come_back_unrun(jobs, job);
        return;
    }
    if (jobs->n_active == jobs->n_threads) {
        int rc = add_thread(jobs);

        if (rc != 0 && jobs->n_threads == 0) {
            err_set(&job->err, ERR_LIMIT, "start a worker thread: %s", strerror(rc));
            come_back_unrun(jobs, job);
            return;
        }
    }
    job->phase = JOB_RUNNING;
    list_append(&jobs->active, &job->link);
    jobs->n_active++;
    kind->running++;
    job->post.next = NULL;
    pthread_mutex_lock(&jobs->lock);
    *jobs->last = &job->post;
    jobs->last = &job->post.next;
    pthread_mutex_unlock(&jobs->lock);
    pthread_cond_signal(&jobs->wake); /* who wakes finds the lock free */
}

static void start_next(struct jobs *jobs, struct kind *kind)
{
    while (!list_empty(&kind->queue) && kind->running < kind->limit.running) {
        struct job *job = container_of(kind->queue.next, struct job, link);

        list_remove(&job->link);
        kind->waiting--;
        dispatch(jobs, job);
    }
}

static void start_all(struct timer *t)
{
    struct jobs *jobs = container_of(t, struct jobs, soon);

    for (size_t i = 0; i < jobs->n_kinds; i++)
        start_next(jobs, &jobs->kinds[i]);
}

struct jobs *jobs_new(struct loop *loop, const struct job_limit *limits, size_t n_kinds)
{
    struct jobs *jobs = mem_new(struct jobs);
    size_t threads = 0;

    jobs->loop = loop;
    jobs->kinds = mem_zalloc(n_kinds, sizeof(*jobs->kinds));
    jobs->n_kinds = n_kinds;
    for (size_t i = 0; i < n_kinds; i++) {
        assert(limits[i].running > 0);
        jobs->kinds[i].limit = limits[i];
        list_init(&jobs->kinds[i].queue);
        threads += limits[i].running;
    }
    jobs->threads = mem_zalloc(threads, sizeof(*jobs->threads));
    list_init(&jobs->active);
    jobs->last = &jobs->first;
    jobs->soon.fn = start_all;
    pthread_mutex_init(&jobs->lock, NULL);
    pthread_cond_init(&jobs->wake, NULL);
    return jobs;
}

/* At the end of its kind's queue, if there is room. */
static int admit(struct jobs *jobs, struct job *job, struct err *e)
{
    struct kind *kind = &jobs->kinds[job->kind];

    assert(job->kind < jobs->n_kinds && job->phase == JOB_IDLE);
    if (jobs->stopping)
        return err_set(e, ERR_CANCELLED, "the daemon is shutting down");
    if (kind->running >= kind->limit.running && kind->waiting >= kind->limit.waiting)
        return err_set(e,
                       ERR_LIMIT,
                       "%u %s operations are waiting already; try again later",
                       kind->waiting,
                       kind->limit.kind);
    job->jobs = jobs;
    job->post.fn = give_back;
    job->op.cancel_fd = -1;
    job->phase = JOB_WAITING;
    list_append(&kind->queue, &job->link);
    kind->waiting++;
    return 0;
}

int jobs_submit(struct jobs *jobs, struct job *job, struct err *e)
{
    if (admit(jobs, job, e) < 0)
        return -1;
    start_next(jobs, &jobs->kinds[job->kind]);
    return 0;
}

int jobs_submit_soon(struct jobs *jobs, struct job *job, struct err *e)
{
    if (admit(jobs, job, e) < 0)
        return -1;
    if (jobs->soon.place == 0)
        loop_timer_start(jobs->loop, &jobs->soon, SOON_MS);
    return 0;
}

void job_cancel(struct job *job)
{
    uint64_t one = 1;

    switch (job->phase) {
    case JOB_WAITING:
        list_remove(&job->link);
        job->jobs->kinds[job->kind].waiting--;
        err_set(&job->err, ERR_CANCELLED, "cancelled before it started");
        come_back_unrun(job->jobs, job);
        break;
    case JOB_RUNNING:
        (void)!write(job->op.cancel_fd, &one, sizeof(one)); /* EAGAIN: cancelled long ago */
        break;
    case JOB_IDLE:
    case JOB_RETURNING:
        break;
    }
}

unsigned jobs_running(const struct jobs *jobs, unsigned kind)
{
    return jobs->kinds[kind].running;
}

unsigned jobs_waiting(const struct jobs *jobs, unsigned kind)
{
    return jobs->kinds[kind].waiting;
}

void jobs_stop(struct jobs *jobs)
{
    jobs->stopping = true;
    loop_timer_stop(jobs->loop, &jobs->soon);
    for (size_t i = 0; i < jobs->n_kinds; i++) {
        while (!list_empty(&jobs->kinds[i].queue))
            job_cancel(container_of(jobs->kinds[i].queue.next, struct job, link));
    }
    for (struct list *l = jobs->active.next; l != &jobs->active; l = l->next)
        job_cancel(container_of(l, struct job, link));

    pthread_mutex_lock(&jobs->lock);
    jobs->ending = true;
    pthread_cond_broadcast(&jobs->wake);
    pthread_mutex_unlock(&jobs->lock);
    for (unsigned i = 0; i < jobs->n_threads; i++)
        pthread_join(jobs->threads[i], NULL);
    jobs->n_threads = 0;
}

void jobs_free(struct jobs *jobs)
{
    if (!jobs)
        return;
    assert(jobs->n_threads == 0 && jobs->n_active == 0);
    pthread_cond_destroy(&jobs->wake);
    pthread_mutex_destroy(&jobs->lock);
    free(jobs->threads);
    free(jobs->kinds);
    free(jobs);
}
