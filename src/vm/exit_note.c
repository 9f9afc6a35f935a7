/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/exit_note.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mem.h"

struct written {
    struct store_done done;
    char id[ID_SIZE];
};

static void was_written(struct store_done *done, const struct err *result)
{
    struct written *note = container_of(done, struct written, done);

    if (result->code != ERR_NONE && result->code != ERR_NOT_FOUND) /* it was deleted meanwhile */
        log_error("instance %s: what was observed is not written down: %s", note->id, result->msg);
    free(note);
}

void exit_note_store(struct vm_world *w, const struct instance *row)
{
    struct store_change *change = store_change_new();
    struct buf state = BUF(16 * 1024);
    struct written *note = mem_new(struct written);

    vm_run_write(&state, &row->run);
    instances_put_state(change, row->id, buf_str(&state));
    buf_free(&state);
    memcpy(note->id, row->id, sizeof(note->id));
    note->done.fn = was_written;
    store_post(w->env.store, w->loop, change, &note->done);
}

int exit_note_find(int dir_fd, uint64_t boot, struct exit_record *out, struct err *e)
{
    auto_close int fd = openat(dir_fd, VMM_CONFIG_DISK, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    unsigned char sector[EXIT_SECTOR];
    struct exit_record record;
    int rc;

    if (fd < 0)
        return errno == ENOENT ? 0 : err_errno(e, "open %s", VMM_CONFIG_DISK);
    if (pread(fd, sector, sizeof(sector), 0) != (ssize_t)sizeof(sector))
        return err_set(e, ERR_INTERNAL, "%s is cut short", VMM_CONFIG_DISK);
    rc = exit_sector_read(sector, &record, e);
    if (rc == 1 && record.incarnation == boot) {
        *out = record;
        return 1;
    }
    return rc < 0 ? -1 : 0;
}

struct reading {
    struct job job;
    struct vm_world *world;
    char id[ID_SIZE];
    uint64_t incarnation;
    uint64_t boot;
    bool found;
    struct exit_record record;
};

static void read_run(struct job *job)
{
    struct reading *r = container_of(job, struct reading, job);
    auto_close int dir_fd = env_open_instance(&r->world->env, r->id, &job->err);

    if (dir_fd >= 0)
        r->found = exit_note_find(dir_fd, r->boot, &r->record, &job->err) == 1;
}

static void read_done(struct job *job)
{
    struct reading *r = container_of(job, struct reading, job);
    struct instance *row = table_by_id(&r->world->table, r->id);

    if (row && r->found && row->run.state == VM_STOPPED && row->run.incarnation == r->incarnation &&
        !row->holder) {
        vm_run_set_exit(&row->run, r->record.code, r->record.message);
        instance_changed(&r->world->table, row);
        exit_note_store(r->world, row);
    }
    free(r);
}

void exit_note_read(struct vm_world *w, const struct instance *row)
{
    struct reading *r = mem_new(struct reading);
    struct err e = {0};

    r->world = w;
    memcpy(r->id, row->id, sizeof(r->id));
    r->incarnation = row->run.incarnation;
    r->boot = row->run.boot;
    r->job.run = read_run;
    r->job.done = read_done;
    r->job.kind = VM_JOB_NOTE;
    r->job.timeout_ms = 10000;
    if (jobs_submit(w->jobs, &r->job, &e) < 0) {
        log_debug("instance %s: its exit record is not read: %s", row->id, e.msg);
        free(r);
    }
}
