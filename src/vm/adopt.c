/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/adopt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "vm/exit_note.h"
#include "vm/live.h"
#include "vm/network.h"
#include "vm/op.h"
#include "vm/snapshot.h"

enum { RESUME_MS = 5000 };

struct adoption {
    struct vm_world *w;
    struct adopt_report report;
};

static int add_row(void *arg, const struct instance_record *r, struct err *e)
{
    struct adoption *a = arg;
    struct spec *spec;
    struct vm_run run;
    struct instance *row;

    if (!id_is_valid(r->id))
        return err_set(e, ERR_INTERNAL, "the store holds an instance whose id is not one");
    spec = spec_read(r->spec, e);
    if (!spec)
        return err_wrap(e, "instance %s", r->id);
    if (vm_run_read(r->state, &run, e) < 0) {
        spec_unref(spec);
        return err_wrap(e, "instance %s", r->id);
    }
    row = world_reserve(a->w, r->id, spec);
    row->run = run;
    network_adopt_address(a->w, row);
    row->observed_us = wall_us();
    table_publish(&a->w->table, row);
    a->report.instances++;
    return 0;
}

static bool same_inode(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static int stat_cwd(pid_t pid, struct stat *out)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%d/cwd", (int)pid);
    return stat(path, out);
}

/* The recorded process, if it is still that one. The pidfd comes first: then the pid cannot be
 * reused. */
static int find_process(const struct vm_world *w, const struct instance *row, int dir_fd)
{
    struct err e = {0};
    struct stat cwd;
    struct stat dir;
    auto_close int pidfd = -1;

    if (strcmp(row->run.boot_id, w->env.boot_id) != 0 || row->run.proc.pid <= 0)
        return -1;
    pidfd = proc_adopt(&row->run.proc, &e);
    if (pidfd < 0 || fstat(dir_fd, &dir) < 0 || stat_cwd(row->run.proc.pid, &cwd) < 0 ||
        !same_inode(&dir, &cwd))
        return -1;
    return take_fd(&pidfd);
}

/* It ended while nobody watched. When, nobody knows; how, the guest may have written down. */
static void ended_unseen(struct adoption *a, struct instance *row, int dir_fd)
{
    struct exit_record record;
    struct err e = {0};

    vm_run_enter(&row->run, VM_STOPPED, VM_BY_EXIT, wall_us());
    row->run.stopped_us = row->run.since_us;
    if (dir_fd >= 0 && exit_note_find(dir_fd, row->run.boot, &record, &e) == 1)
        vm_run_set_exit(&row->run, record.code, record.message);
    else
        vm_run_set_end(&row->run, "the VM ended while the daemon was down");
    instance_changed(&a->w->table, row);
    exit_note_store(a->w, row);
    a->report.ended++;
    log_info("instance %s (%s) ended while the daemon was down", row->id, row->spec->name);
}

static void drop_snapshot(const struct instance *row, int dir_fd)
{
    struct err e = {0};

    if (snapshot_remove(dir_fd, &e) < 0)
        log_warn("instance %s: %s", row->id, e.msg);
}

/* --- a VM that a crash cut short on its way into a snapshot --- */

static int go_on_check(const struct instance *row, struct vm_op *op, struct err *e)
{
    (void)row;
    (void)op;
    (void)e;
    return 0;
}

/* Its VMM may be at it still, and answers nobody until it is done. */
static int go_on_run(struct vm_op *op, struct err *e)
{
    struct vmm_handle vm = {op->spec->driver, op->spec->name, -1, op->pidfd};

    op->dir_fd = vm.dir_fd = env_open_instance(op->env, op->id, e);
    if (op->dir_fd < 0)
        return -1;
    snapshot_give_up(op, &vm, NULL);
    return 0;
}

static void go_on_done(struct vm_world *w, struct instance *row, struct vm_op *op)
{
    (void)op;
    prober_resync(&w->prober, row);
}

static const struct vm_verb verb_go_on = {
    .name = "recovery",
    .span = "instances.recovery",
    .kind = VM_JOB_SNAPSHOT,
    .check = go_on_check,
    .run = go_on_run,
    .apply = go_on_done,
    .failed = go_on_done,
};

/*
 * The process of a restore or fork that a crash cut short: what is left of the snapshot
 * says so. The load may not have begun, and then the snapshot is still needed. False: so
 * it was, and the process was ended.
 */
static bool run_on(const struct instance *row, int dir_fd, int pidfd)
{
    struct op op = {clock_ms() + RESUME_MS, -1};
    struct op last_moment = {clock_ms() + 2 * RESUME_MS, -1};
    struct vmm_handle vm = {row->spec->driver, row->spec->name, dir_fd, pidfd};
    struct err e = {0};

    if (vmm_resume(&op, &vm, &e) < 0) {
        log_warn("instance %s: %s", row->id, e.msg);
        err_clear(&e);
        return proc_kill(&last_moment, pidfd, &e) < 0;
    }
    drop_snapshot(row, dir_fd);
    return true;
}

/* Of a restore that was under way: nothing of it has touched the disk. */
static bool has_not_woken(const struct vm_world *w, const struct instance *row, int dir_fd)
{
    struct err e = {0};

    return row->run.disk_stamp != 0 && strcmp(row->run.boot_id, w->env.boot_id) == 0 &&
           snapshot_disk_stamp(dir_fd) == row->run.disk_stamp &&
           snapshot_find(dir_fd, row->run.incarnation - 1, &e) == 1;
}

/* The process is gone. If the snapshot it was to leave is whole, nothing is lost; else what there
 * is of one is of no use. */
static void process_is_gone(struct adoption *a, struct instance *row, int dir_fd)
{
    struct err e = {0};
    int found = dir_fd < 0 ? 0 : snapshot_find(dir_fd, row->run.incarnation, &e);

    if (found != 1 && dir_fd >= 0 && has_not_woken(a->w, row, dir_fd)) {
        row->run.incarnation--;
        found = 1;
    }
    row->run.disk_stamp = 0;
    if (found == 1) {
        vm_run_enter(&row->run, VM_STANDBY, VM_BY_EXIT, wall_us());
        row->run.stopped_us = row->run.since_us;
        instance_changed(&a->w->table, row);
        exit_note_store(a->w, row);
        log_info("instance %s (%s) is in standby: its snapshot was whole when the daemon ended",
                 row->id,
                 row->spec->name);
        return;
    }
    if (found < 0 || (dir_fd >= 0 && snapshot_remove(dir_fd, &e) < 0))
        log_warn("instance %s: what is left of a snapshot stays: %s", row->id, e.msg);
    ended_unseen(a, row, dir_fd);
}

/* A fork that was under way: its record was faster than its directory. */
static bool is_half_made(const struct vm_world *w, const struct instance *row)
{
    return row->run.disk_stamp != 0 && faccessat(w->env.instances_fd, row->id, F_OK, 0) < 0 &&
           errno == ENOENT;
}

static void forget(struct adoption *a, struct instance *row)
{
    struct store_change *change = store_change_new();

    log_info("instance %s (%s) was being forked when the daemon ended; it is gone",
             row->id,
             row->spec->name);
    instances_delete(change, row->id);
    store_post(a->w->env.store, a->w->loop, change, NULL);
    world_remove(a->w, row);
    a->report.instances--;
}

static void settle_row(struct adoption *a, struct instance *row)
{
    struct err e = {0};
    auto_close int dir_fd = -1;
    auto_close int pidfd = -1;
    struct net_slot *slot;
    bool is_cut_short;

    if (!vm_state_has_process(row->run.state))
        return;
    if (is_half_made(a->w, row)) {
        forget(a, row);
        return;
    }
    dir_fd = env_open_instance(&a->w->env, row->id, &e);
    pidfd = dir_fd < 0 ? -1 : find_process(a->w, row, dir_fd);
    if (pidfd < 0 || !row->spec->driver) {
        process_is_gone(a, row, dir_fd);
        return;
    }
    is_cut_short = snapshot_is_there(dir_fd);
    if (is_cut_short)
        log_info("instance %s (%s) was on its way into or out of a snapshot; it runs on",
                 row->id,
                 row->spec->name);
    if (is_cut_short && row->run.disk_stamp != 0) {
        if (!run_on(row, dir_fd, pidfd)) {
            process_is_gone(a, row, dir_fd);
            return;
        }
        is_cut_short = false;
    }
    row->run.disk_stamp = 0;
    slot = network_adopt_slot(a->w, row, pidfd);
    live_attach(a->w, row, take_fd(&pidfd), slot);
    live_listen(row, dir_fd);
    prober_resync(&a->w->prober, row); /* nobody heard its events meanwhile */
    if (is_cut_short)
        vm_op_begin(a->w, row, vm_op_new(&verb_go_on, NULL, NULL));
    a->report.adopted++;
}

/* --- the sweep --- */

/* A directory below instances/, and the process that may live in it. */
struct place {
    char name[NAME_MAX + 1];
    struct stat st;
    pid_t owner; /* the adopted process; 0: none may live here */
    bool has_row;
};

struct places {
    struct place *v;
    size_t n;
};

static int list_places(const struct vm_world *w, struct places *out, struct err *e)
{
    int fd = dir_open(w->env.instances_fd, ".", e);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (!dir) {
        if (fd >= 0) {
            err_errno(e, "read the instances' directory");
            close(fd);
        }
        return -1;
    }
    while ((entry = readdir(dir)) != NULL) {
        struct place p = {0};
        const struct instance *row;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            fstatat(fd, entry->d_name, &p.st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        (void)snprintf(p.name, sizeof(p.name), "%s", entry->d_name);
        row = table_by_id(&w->table, p.name);
        p.has_row = row != NULL;
        p.owner = row && row->live ? row->run.proc.pid : 0;
        out->v = mem_realloc(out->v, (out->n + 1) * sizeof(*out->v));
        out->v[out->n++] = p;
    }
    closedir(dir);
    return 0;
}

/* A shell that somebody left in an instance's directory is not ours to kill. */
static bool is_vmm(pid_t pid)
{
    char path[64];
    char exe[4096];
    ssize_t n;

    (void)snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
    n = readlink(path, exe, sizeof(exe) - 1);
    if (n <= 0)
        return false;
    exe[n] = '\0';
    return vmm_is_binary(exe);
}

static const struct place *place_of(const struct places *places, pid_t pid)
{
    struct stat cwd;

    if (stat_cwd(pid, &cwd) < 0)
        return NULL;
    for (size_t i = 0; i < places->n; i++) {
        if (same_inode(&places->v[i].st, &cwd))
            return &places->v[i];
    }
    return NULL;
}

static void end_stray(struct adoption *a, const struct places *places, pid_t pid)
{
    struct op op = {clock_ms() + 10000, -1};
    struct err e = {0};
    auto_close int pidfd = proc_pidfd(pid);
    const struct place *p = pidfd < 0 ? NULL : place_of(places, pid);

    if (!p || p->owner == pid || !is_vmm(pid))
        return;
    log_info("process %d in %s belongs to no instance; ending it", (int)pid, p->name);
    if (proc_kill(&op, pidfd, &e) < 0)
        log_error("process %d in %s: %s", (int)pid, p->name, e.msg);
    a->report.swept++;
}

static int sweep_processes(struct adoption *a, const struct places *places, struct err *e)
{
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    uint64_t pid;

    if (!proc)
        return err_errno(e, "read /proc");
    while ((entry = readdir(proc)) != NULL) {
        if (parse_u64(entry->d_name, 2, INT32_MAX, &pid))
            end_stray(a, places, (pid_t)pid);
    }
    closedir(proc);
    return 0;
}

static void sweep_directories(struct adoption *a, const struct places *places)
{
    struct err e = {0};

    for (size_t i = 0; i < places->n; i++) {
        if (places->v[i].has_row)
            continue;
        log_info("%s belongs to no instance; removing it", places->v[i].name);
        if (tree_remove(a->w->env.instances_fd, places->v[i].name, &e) < 0) {
            log_error("remove %s: %s", places->v[i].name, e.msg);
            err_clear(&e);
        }
        a->report.swept++;
    }
}

int world_adopt(struct vm_world *w, struct adopt_report *out, struct err *e)
{
    struct adoption a = {.w = w};
    struct places places = {0};
    int rc;

    if (store_each_instance(w->env.store, add_row, &a, e) < 0 ||
        journal_open(&w->table.journal, w->env.store, w->loop, w->env.data_fd, e) < 0)
        return -1;
    for (struct list *l = w->table.order.next, *next; l != &w->table.order; l = next) {
        next = l->next; /* it may be forgotten */
        settle_row(&a, container_of(l, struct instance, order));
    }
    for (struct list *l = w->table.order.next; l != &w->table.order; l = l->next)
        network_adopt_ports(w, container_of(l, struct instance, order));
    rc = list_places(w, &places, e);
    if (rc == 0)
        rc = sweep_processes(&a, &places, e);
    if (rc == 0)
        sweep_directories(&a, &places);
    free(places.v);
    *out = a.report;
    return rc;
}
