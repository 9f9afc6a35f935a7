/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/world.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "image/catalog.h"
#include "net/net.h"
#include "vm/live.h"
#include "vm/network.h"
#include "vm/snapshot.h"

/*
 * Threads are made when first needed, so the sum is a ceiling, not a cost. Starts
 * are bounded by what a host boots usefully at once; stops mostly wait, and so does a
 * snapshot, for a VMM that may be at it for half a minute.
 */
const struct job_limit vm_job_limits[N_VM_JOB_KINDS] = {
    [VM_JOB_START] = {"start", 8, 4096},
    [VM_JOB_STOP] = {"stop", 16, 16384},
    [VM_JOB_SNAPSHOT] = {"standby", 32, 4096},
    [VM_JOB_RESTORE] = {"restore", 16, 4096},
    [VM_JOB_RESTORE_FIRECRACKER] = {"restore", 32, 4096},
    [VM_JOB_IMAGE] = {"image", 1, 64},
    [VM_JOB_NOTE] = {"note", 2, 65536},
};

void world_init(struct vm_world *w, struct loop *loop, const struct vm_env *env)
{
    struct job_limit limits[N_VM_JOB_KINDS];

    memcpy(limits, vm_job_limits, sizeof(limits));
    if (env->firecracker_restores)
        limits[VM_JOB_RESTORE_FIRECRACKER].running = env->firecracker_restores;
    *w = (struct vm_world){
        .loop = loop,
        .env = *env,
        .greeting_patience_ms = 5000,
        .snapshot_timeout_ms = 120000,
        .preempt_patience_ms = 10000,
    };
    w->jobs = jobs_new(loop, limits, N_VM_JOB_KINDS);
    table_init(&w->table);
    prober_init(&w->prober, w);
    w->reads.is_of_reads = true;
}

void world_stop(struct vm_world *w)
{
    /* A job that comes back may have a successor waiting; that one is refused and answered. */
    jobs_stop(w->jobs);
    loop_drain(w->loop);
}

void world_fini(struct vm_world *w)
{
    struct err e = {0};

    for (struct list *l = w->table.order.next; l != &w->table.order; l = l->next) {
        struct instance *row = container_of(l, struct instance, order);

        live_let_go(w, row);
        ports_give_back(take_ptr(&row->ports));
    }
    prober_fini(&w->prober);
    if (journal_save(&w->table.journal, w->env.data_fd, &e) < 0)
        log_warn("who follows the changes will have to start anew: %s", e.msg);
    jobs_free(w->jobs);
    table_free(&w->table);
    trace_ring_free(&w->traces);
    trace_ring_free(&w->sessions);
    trace_ring_free(&w->reads);
}

struct leftover {
    struct job job;
    int fd;
    int dir_fd; /* what fd is the used snapshot of; -1: it is a file */
};

static void leftover_run(struct job *job)
{
    struct leftover *l = container_of(job, struct leftover, job);
    struct err e = {0};

    if (l->dir_fd >= 0 && snapshot_clear(l->dir_fd, l->fd, &e) < 0)
        log_warn("a used snapshot stays until the next: %s", e.msg);
    close(take_fd(&l->fd));
}

static void leftover_done(struct job *job)
{
    struct leftover *l = container_of(job, struct leftover, job);

    cleanup_close(&l->fd); /* it never ran */
    cleanup_close(&l->dir_fd);
    free(l);
}

void world_clear_snapshot(struct vm_world *w, int dir_fd, int withdrawn_fd)
{
    struct leftover *l = mem_new(struct leftover);
    struct err e = {0};

    l->fd = withdrawn_fd;
    l->dir_fd = dir_fd;
    l->job.run = leftover_run;
    l->job.done = leftover_done;
    l->job.kind = VM_JOB_NOTE;
    l->job.timeout_ms = 60000;
    if (jobs_submit_soon(w->jobs, &l->job, &e) < 0)
        leftover_done(&l->job); /* shutting down */
}

void world_close(struct vm_world *w, int fd)
{
    world_clear_snapshot(w, -1, fd);
}

struct instance *world_reserve(struct vm_world *w, const char *id, struct spec *spec)
{
    if (w->images)
        catalog_use(w->images, spec->image_digest);
    return table_reserve(&w->table, id, spec);
}

void world_remove(struct vm_world *w, struct instance *row)
{
    struct spec *spec = spec_ref(row->spec);

    if (w->net)
        net_give_back(w->net, row->run.address);
    network_unname(w, row);
    network_settle(w, row, true);
    table_remove(&w->table, row);
    if (w->images)
        catalog_unuse(w->images, spec->image_digest);
    spec_unref(spec);
}

int env_open_instance(const struct vm_env *env, const char *id, struct err *e)
{
    return dir_open(env->instances_fd, id, e);
}
