/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/log_limit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mem.h"

enum { LOOK_AFTER_MS = 1000, BLOCK = 4096, N_LOGS = 3 };

/* Of events no more than the last counts. */
static const struct log_kind {
    const char *name;
    off_t ceiling;
    off_t kept;
} kinds[N_LOGS] = {
    {VMM_SERIAL_LOG, LOG_CEILING, LOG_KEPT},
    {VMM_VMM_LOG, LOG_CEILING, LOG_KEPT},
    {VMM_EVENTS_LOG, LOG_EVENTS_CEILING, LOG_EVENTS_CEILING / 2},
};

struct limited {
    struct log_limit *owner;
    const struct log_kind *kind;
    int fd; /* -1: not there */
    struct fswatch grown;
    struct timer look;
};

struct log_limit {
    struct vm_world *world;
    char id[ID_SIZE];
    struct limited logs[N_LOGS];
    struct cut *cuts; /* under way: they must learn when we are gone */
};

/* One look at one log; it has an fd of its own and may outlive the limit. */
struct cut {
    struct job job;
    struct limited *log; /* NULL: the limit is gone */
    const struct log_kind *kind;
    int fd;
    struct cut *next;
};

static void cut_run(struct job *job)
{
    const struct cut *cut = container_of(job, struct cut, job);
    struct stat st;
    off_t end;

    if (fstat(cut->fd, &st) < 0 || (off_t)st.st_blocks * 512 <= cut->kind->ceiling)
        return;
    end = (st.st_size - cut->kind->kept) & ~(off_t)(BLOCK - 1);
    if (end > 0 && fallocate(cut->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, end) < 0)
        err_errno(&job->err, "shorten a log");
}

static void watch_log(struct limited *log)
{
    struct err e = {0};

    if (fswatch_add(log->owner->world->files, &log->grown, log->fd, &e) < 0)
        log_warn("instance %s: its logs are not limited: %s", log->owner->id, e.msg);
}

static void forget_cut(struct log_limit *l, struct cut *cut)
{
    struct cut **at = &l->cuts;

    while (*at != cut)
        at = &(*at)->next;
    *at = cut->next;
}

static void cut_done(struct job *job)
{
    struct cut *cut = container_of(job, struct cut, job);

    if (job->err.code != ERR_NONE)
        log_warn("%s", job->err.msg);
    if (cut->log) {
        forget_cut(cut->log->owner, cut);
        watch_log(cut->log);
    }
    close(cut->fd);
    free(cut);
}

static void look(struct timer *t)
{
    struct limited *log = container_of(t, struct limited, look);
    struct log_limit *l = log->owner;
    struct cut *cut = mem_new(struct cut);
    struct err e = {0};

    cut->log = log;
    cut->kind = log->kind;
    cut->fd = fcntl(log->fd, F_DUPFD_CLOEXEC, 3);
    cut->job.run = cut_run;
    cut->job.done = cut_done;
    cut->job.kind = VM_JOB_NOTE;
    cut->job.timeout_ms = 10000;
    if (cut->fd < 0 || jobs_submit(l->world->jobs, &cut->job, &e) < 0) {
        cleanup_close(&cut->fd);
        free(cut);
        loop_timer_start(l->world->loop, t, LOOK_AFTER_MS);
        return;
    }
    cut->next = l->cuts;
    l->cuts = cut;
}

/* Deaf until it was looked at: a log that is written all the time wakes us once a second. */
static void grown(struct fswatch *w)
{
    struct limited *log = container_of(w, struct limited, grown);

    fswatch_remove(log->owner->world->files, w);
    loop_timer_start(log->owner->world->loop, &log->look, LOOK_AFTER_MS);
}

struct log_limit *log_limit_new(struct vm_world *w, const char *id, int dir_fd)
{
    struct log_limit *l;

    if (!w->files)
        return NULL;
    l = mem_new(struct log_limit);
    l->world = w;
    memcpy(l->id, id, strnlen(id, ID_LEN));
    for (int i = 0; i < N_LOGS; i++) {
        struct limited *log = &l->logs[i];

        log->owner = l;
        log->kind = &kinds[i];
        log->grown.fn = grown;
        log->look.fn = look;
        log->fd = openat(dir_fd, kinds[i].name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (log->fd >= 0)
            watch_log(log);
        else if (errno != ENOENT)
            log_warn("instance %s: %s is not limited: %m", id, kinds[i].name);
    }
    return l;
}

void log_limit_free(struct log_limit *l)
{
    if (!l)
        return;
    for (struct cut *cut = l->cuts; cut; cut = cut->next)
        cut->log = NULL;
    for (int i = 0; i < N_LOGS; i++) {
        fswatch_remove(l->world->files, &l->logs[i].grown);
        loop_timer_stop(l->world->loop, &l->logs[i].look);
        cleanup_close(&l->logs[i].fd);
    }
    free(l);
}
