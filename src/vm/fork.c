/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/id.h"
#include "base/log.h"
#include "base/mem.h"
#include "vm/freeze.h"
#include "vm/launch.h"
#include "vm/overlay.h"
#include "vm/restore.h"
#include "vm/snapshot.h"
#include "vm/verbs.h"

/*
 * A fork is a clone of a directory. The image and the snapshot never change and are
 * linked; the disk is a reflink where the file system has them, else its data is
 * copied. Names inside are relative, so nothing is rewritten, and any number of
 * forks of one source go on side by side. It goes to the disk while the VMM starts;
 * the record waits for it.
 *
 * A running source is captured first: one operation on it pauses it, saves it into
 * the directory of the instance to be, and lets it run on.
 */

/* Links, or copies where the file has all the links it may have. */
static int link_or_copy(int from_fd, int to_fd, const char *name, struct err *e)
{
    auto_close int fd = -1;

    if (linkat(from_fd, name, to_fd, name, 0) == 0)
        return 0;
    if (errno != EMLINK)
        return err_errno(e, "link %s", name);
    fd = openat(from_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_errno(e, "open %s", name);
    return sparse_copy(fd, to_fd, name, 0600, e) < 0 ? -1 : file_sync(to_fd, name, e);
}

static int copy_disk(int from_fd, int to_fd, const char *name, struct err *e)
{
    auto_close int fd = openat(from_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    return fd < 0 ? err_errno(e, "open %s", name) : sparse_update(fd, to_fd, name, 0600, e);
}

static int clone_disks(const struct op *op, int from_fd, int to_fd, struct err *e)
{
    auto_span span = op_span(op, "clone_disks");

    return copy_disk(from_fd, to_fd, VMM_OVERLAY, e) < 0
               ? -1
               : copy_disk(from_fd, to_fd, VMM_CONFIG_DISK, e);
}

static int link_snapshot(int from_fd, int to_fd, struct err *e)
{
    static const char *const files[] = {"memory", "state", "made-by"};
    auto_close int from = dir_open(from_fd, VMM_SNAPSHOT_DIR, e);
    auto_close int to = -1;

    if (from < 0)
        return -1;
    if (mkdirat(to_fd, VMM_SNAPSHOT_DIR, 0700) < 0)
        return err_errno(e, "create the snapshot's directory");
    to = dir_open(to_fd, VMM_SNAPSHOT_DIR, e);
    for (size_t i = 0; to >= 0 && i < sizeof(files) / sizeof(files[0]); i++) {
        if (link_or_copy(from, to, files[i], e) < 0)
            return -1;
    }
    return to < 0 ? -1 : 0;
}

static void half_made_name(const char *id, char out[ID_SIZE + 8])
{
    (void)snprintf(out, ID_SIZE + 8, ".new-%s", id);
}

static int make_half(const struct vm_env *env, const char *id, struct err *e)
{
    char name[ID_SIZE + 8];

    half_made_name(id, name);
    if (mkdirat(env->instances_fd, name, 0700) < 0)
        return err_errno(e, "create the fork's directory");
    return dir_open(env->instances_fd, name, e);
}

static void remove_half(const struct vm_env *env, const char *id)
{
    char name[ID_SIZE + 8];
    struct err e = {0};

    half_made_name(id, name);
    if (tree_remove(env->instances_fd, name, &e) < 0)
        log_warn("%s stays until the next start: %s", name, e.msg);
}

/* What was linked is on the disk; the names are new. */
static int sync_links(int dir_fd, struct err *e)
{
    auto_close int fd = dir_open(dir_fd, VMM_SNAPSHOT_DIR, e);

    return fd < 0 ? -1 : dir_sync(fd, e);
}

struct publishing {
    const struct vm_op *op; /* its id, env, dir_fd: what nothing changes meanwhile */
    bool has_memory;
};

/* Before the record says that there is a fork, all of it is on the disk under its last name. */
static int publish_half(void *arg, struct err *e)
{
    const struct publishing *p = arg;
    const struct vm_op *op = p->op;
    int parent_fd = op->env->instances_fd;
    char name[ID_SIZE + 8];

    half_made_name(op->id, name);
    if (file_sync(op->dir_fd, VMM_OVERLAY, e) < 0 || file_sync(op->dir_fd, VMM_CONFIG_DISK, e) < 0)
        return -1;
    if (p->has_memory &&
        (op->is_prepared ? snapshot_sync(op->dir_fd, e) : sync_links(op->dir_fd, e)) < 0)
        return -1;
    if (dir_sync(op->dir_fd, e) < 0)
        return -1;
    if (renameat(parent_fd, name, parent_fd, op->id) < 0)
        return err_errno(e, "rename the fork's directory");
    return dir_sync(parent_fd, e);
}

/* --- capture: of a running source, into the directory of the fork to be --- */

static int capture_check(const struct instance *row, struct vm_op *op, struct err *e)
{
    (void)op;
    if (row->run.state != VM_RUNNING)
        return err_set(e,
                       ERR_BAD_STATE,
                       "invalid state transition: cannot fork from state %s",
                       vm_state_name(row->run.state));
    return 0;
}

/*
 * What the pause need not wait for. The disk is flushed, so that to share its blocks is
 * quick; where they cannot be shared it is copied, and the pause adds what differs. To
 * put the source to sleep meanwhile would not spare that copy: its disk must not change
 * under it then either, and it would have to end and to wake on top.
 */
static int disk_ahead(const struct op *op, const struct vmm_handle *vm, int to_fd, struct err *e)
{
    auto_close int fd = openat(vm->dir_fd, VMM_CONFIG_DISK, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool shares = fd >= 0 && overlay_can_share(fd, to_fd);
    auto_span span = op_span(op, shares ? "flush_disk" : "copy_disk_ahead");

    return shares ? file_sync(vm->dir_fd, VMM_OVERLAY, e)
                  : copy_disk(vm->dir_fd, to_fd, VMM_OVERLAY, e);
}

static int copy_ahead(const struct op *op, const struct vmm_handle *vm, int to_fd, struct err *e)
{
    if (link_or_copy(vm->dir_fd, to_fd, VMM_IMAGE, e) < 0 || snapshot_save_ahead(op, vm, e) < 0)
        return -1;
    return disk_ahead(op, vm, to_fd, e);
}

static int copy_paused(struct vm_op *op, const struct vmm_handle *vm, int to_fd, struct err *e)
{
    auto_span span = op_span(&op->job.op, "source_paused");
    struct err failed = {0};
    int rc = vmm_pause(&op->job.op, vm, e);

    if (rc == 0)
        rc = snapshot_save_rest(&op->job.op, vm, e);
    if (rc == 0)
        rc = clone_disks(&op->job.op, vm->dir_fd, to_fd, e);
    if (snapshot_go_on(op, vm, rc < 0 ? e : NULL, &failed) == 0)
        return rc;
    log_error("instance %s does not run on after a fork: %s", op->id, failed.msg);
    if (rc == 0)
        *e = failed;
    return -1;
}

static int capture_run(struct vm_op *op, struct err *e)
{
    auto_close int dir_fd = env_open_instance(op->env, op->id, e);
    auto_close int to_fd = dir_fd < 0 ? -1 : make_half(op->env, op->other, e);
    struct vmm_handle vm = {op->spec->driver, op->spec->name, dir_fd, op->pidfd};

    if (to_fd < 0)
        return err_wrap(e, "fork %s", op->spec->name);
    if (freeze_await(op, e) == 0 && copy_ahead(&op->job.op, &vm, to_fd, e) == 0 &&
        copy_paused(op, &vm, to_fd, e) == 0 &&
        snapshot_give(&op->job.op, &vm, op->env->host, op->run.incarnation, to_fd, e) == 0)
        return 0;
    snapshot_discard(op, dir_fd);
    remove_half(op->env, op->other);
    return err_wrap(e, "fork %s", op->spec->name);
}

/* The source is what it was. */
static void capture_apply(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    (void)op;
    row->observed_us = wall_us();
    freeze_undo(w, row);
}

static void capture_failed(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    (void)op;
    freeze_undo(w, row);
}

static void capture_undo(struct vm_op *op)
{
    remove_half(op->env, op->other);
}

static const struct vm_verb verb_capture = {
    .name = "fork",
    .span = "instances.fork.capture",
    .kind = VM_JOB_SNAPSHOT,
    .timeout_ms = 120000,
    .check = capture_check,
    .begin = freeze_begin,
    .run = capture_run,
    .apply = capture_apply,
    .failed = capture_failed,
    .undo = capture_undo,
};

/* --- the fork itself: an operation on the new row --- */

static int fork_check(const struct instance *row, struct vm_op *op, struct err *e)
{
    (void)row;
    (void)e;
    op->starts_vmm = op->target == VM_RUNNING;
    return 0;
}

static int fill(struct vm_op *op, struct err *e)
{
    auto_close int from_fd = -1;

    op->dir_fd = make_half(op->env, op->id, e);
    from_fd = op->dir_fd < 0 ? -1 : env_open_instance(op->env, op->other, e);
    if (from_fd < 0 || link_or_copy(from_fd, op->dir_fd, VMM_IMAGE, e) < 0 ||
        clone_disks(&op->job.op, from_fd, op->dir_fd, e) < 0)
        return -1;
    return op->run.state == VM_STANDBY ? link_snapshot(from_fd, op->dir_fd, e) : 0;
}

static int make_dir(struct vm_op *op, struct err *e)
{
    auto_span span = op_span(&op->job.op, "clone_directory");
    char name[ID_SIZE + 8];

    if (op->is_prepared) {
        half_made_name(op->id, name);
        op->dir_fd = dir_open(op->env->instances_fd, name, e);
        if (op->dir_fd < 0)
            return -1;
    } else if (fill(op, e) < 0) {
        return -1;
    }
    if (op->run.state == VM_STANDBY && op->target == VM_STOPPED) {
        vm_run_enter(&op->run, VM_STOPPED, VM_BY_REQUEST, wall_us());
        return snapshot_remove(op->dir_fd, e);
    }
    return 0;
}

/* From a snapshot or from a disk, to what was asked for. */
static int bring_to_target(struct vm_op *op, struct err *e)
{
    if (op->run.state == VM_STANDBY && op->target == VM_RUNNING)
        return snapshot_check_identity(
                   &op->job.op, op->dir_fd, op->spec->driver, op->env->host, e) < 0
                   ? -1
                   : restore_wake(op, true, e);
    if (op->run.state == VM_STOPPED && op->target == VM_RUNNING && launch_boot(op, e) < 0)
        return -1;
    return launch_commit_fork(op, e);
}

/* It may be committed already. The record goes before the directory, as in a delete. */
static void fork_undo(struct vm_op *op)
{
    struct store_change *change = store_change_new();
    struct err e = {0};

    launch_undo(op);
    instances_delete(change, op->id);
    if (store_commit(op->env->store, change, &e) < 0) {
        log_error("instance %s: a record of the fork that failed may stay: %s", op->id, e.msg);
        err_clear(&e);
    }
    remove_half(op->env, op->id);
    if (tree_remove(op->env->instances_fd, op->id, &e) < 0)
        log_error("instance %s: its directory could not be removed: %s", op->id, e.msg);
}

static int fork_run(struct vm_op *op, struct err *e)
{
    struct publishing publishing = {.op = op};
    struct beside published = {.fn = publish_half, .arg = &publishing};
    struct err ignored = {0};
    int rc = make_dir(op, e);

    if (rc == 0) {
        publishing.has_memory = op->run.state == VM_STANDBY;
        op->beside = &published;
        beside_begin(&published);
        rc = bring_to_target(op, e);
        (void)beside_end(&published, &ignored); /* whoever committed has judged it */
        op->beside = NULL;
        span_put(op->job.op.trace, "publish_directory", published.began_us, published.ended_us);
    }
    if (rc == 0)
        return 0;
    fork_undo(op);
    return err_wrap(e, "fork %s", op->spec->name);
}

static void let_go_of_source(struct vm_world *w, const struct vm_op *op)
{
    struct instance *source = op->is_prepared ? NULL : table_by_id(&w->table, op->other);

    if (source)
        vm_op_unshare(source);
}

static void fork_apply(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    vm_op_show(w, row, op);
    table_publish(&w->table, row);
    let_go_of_source(w, op);
}

struct discarding {
    struct job job;
    const struct vm_env *env;
    char id[ID_SIZE];
};

static void discard_run(struct job *job)
{
    struct discarding *d = container_of(job, struct discarding, job);

    remove_half(d->env, d->id);
}

static void discard_done(struct job *job)
{
    free(container_of(job, struct discarding, job));
}

/* Of a fork that was refused after its capture: its own job, which would undo it, never ran. */
static void discard_half(struct vm_world *w, const char *id)
{
    struct discarding *d = mem_new(struct discarding);
    struct err e = {0};

    d->env = &w->env;
    memcpy(d->id, id, sizeof(d->id));
    d->job = (struct job){
        .run = discard_run, .done = discard_done, .kind = VM_JOB_NOTE, .timeout_ms = 60000};
    if (jobs_submit(w->jobs, &d->job, &e) < 0) {
        log_warn("what was captured for %s stays until the next start: %s", id, e.msg);
        free(d);
    }
}

/* The row was only reserved. */
static void fork_failed(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    if (op->is_prepared && op->dir_fd < 0)
        discard_half(w, op->id);
    world_remove(w, row);
    let_go_of_source(w, op);
}

static const struct vm_verb verb_fork = {
    .name = "fork",
    .span = "instances.fork",
    .kind = VM_JOB_RESTORE,
    .timeout_ms = 120000,
    .check = fork_check,
    .run = fork_run,
    .apply = fork_apply,
    .failed = fork_failed,
    .undo = fork_undo,
};

/* A fork on its way through its two operations. */
struct forking {
    void (*answered)(struct vm_op *op, const struct instance *row);
    void *arg;
    char id[ID_SIZE]; /* of the new, reserved row */
    char source[ID_SIZE];
    enum vm_state target;
    const atomic_bool *abandoned;
};

static void begin_fork(struct vm_world *w, struct forking *f, bool is_prepared)
{
    struct vm_op *op = vm_op_new(&verb_fork, f->answered, f->arg);

    memcpy(op->other, f->source, sizeof(op->other));
    op->target = f->target;
    op->is_prepared = is_prepared;
    op->abandoned = is_prepared ? NULL : f->abandoned;
    vm_op_begin(w, table_by_id(&w->table, f->id), op);
    free(f);
}

static void captured(struct vm_op *op, const struct instance *source)
{
    struct forking *f = op->arg;
    struct vm_op *refused;

    (void)source;
    if (vm_op_error(op)->code == ERR_NONE) {
        begin_fork(op->world, f, true);
        return;
    }
    world_remove(op->world, table_by_id(&op->world->table, f->id));
    refused = vm_op_new(&verb_fork, f->answered, f->arg);
    refused->err = *vm_op_error(op);
    vm_op_refuse(refused);
    free(f);
}

static void refuse(void (*answered)(struct vm_op *op, const struct instance *row), void *arg,
                   const struct err *e)
{
    struct vm_op *op = vm_op_new(&verb_fork, answered, arg);

    op->err = *e;
    vm_op_refuse(op);
}

static int check_source(const struct vm_world *w, const struct instance *source,
                        const struct fork_request *request, struct err *e)
{
    enum vm_state s = source->run.state;
    bool has_memory = s == VM_STANDBY || (s == VM_RUNNING && request->from_running);

    if (table_name_is_taken(&w->table, request->name)) {
        err_set(e,
                ERR_EXISTS,
                "an instance named %s exists already; choose another name",
                request->name);
        return err_slug(e, "name_conflict");
    }
    if (s != VM_STOPPED && !has_memory)
        return err_set(e,
                       ERR_BAD_STATE,
                       "invalid state transition: cannot fork from state %s%s",
                       vm_state_name(s),
                       s == VM_RUNNING ? " without from_running" : ", must be Stopped or Standby");
    if (request->target == VM_STANDBY && !has_memory)
        return err_set(e, ERR_BAD_STATE, "a stopped instance has no memory to sleep with");
    if (!source->spec->driver || (has_memory && !source->spec->driver->load)) {
        err_set(e, ERR_UNSUPPORTED, "%s takes no snapshots", source->spec->hypervisor);
        return err_slug(e, "not_supported");
    }
    return 0;
}

/* The new row: the source's spec under another name, and its memory's place in time. */
static struct instance *reserve(struct vm_world *w, const struct instance *source, const char *name)
{
    struct spec *spec = spec_copy(source->spec);
    char id[ID_SIZE];
    struct instance *row;

    (void)snprintf(spec->name, sizeof(spec->name), "%s", name);
    spec->created_us = wall_us();
    spec->n_ports = 0; /* a port of the host leads to one */
    do
        id_new(id);
    while (table_by_id(&w->table, id));
    row = world_reserve(w, id, spec);
    row->run.state = source->run.state == VM_STOPPED ? VM_STOPPED : VM_STANDBY;
    row->run.since_us = spec->created_us;
    row->run.incarnation = source->run.incarnation;
    row->run.boot = source->run.boot;
    return row;
}

void instance_fork(struct vm_world *w, struct instance *source, const struct fork_request *request,
                   void (*answered)(struct vm_op *op, const struct instance *row), void *arg)
{
    bool runs = source->run.state == VM_RUNNING;
    struct err e = {0};
    struct forking *f;
    struct vm_op *op;

    if (check_source(w, source, request, &e) < 0 || (!runs && vm_op_share(source, &e) < 0)) {
        refuse(answered, arg, &e);
        return;
    }
    f = mem_new(struct forking);
    f->answered = answered;
    f->arg = arg;
    f->target = request->target;
    f->abandoned = request->abandoned;
    memcpy(f->source, source->id, sizeof(f->source));
    memcpy(f->id, reserve(w, source, request->name)->id, sizeof(f->id));
    if (!runs) {
        begin_fork(w, f, false);
        return;
    }
    op = vm_op_new(&verb_capture, captured, f);
    memcpy(op->other, f->id, sizeof(op->other));
    vm_op_begin(w, source, op);
}
