/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules that everything else hangs on (vm/op.h, vm/live.h, loop/jobs.h), on a
 * double of a VMM: sleep(1) in the instance's directory, whose start can be told
 * to wait, to wait deaf to its cancellation, or to fail. Store, disks, processes
 * and threads are real.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "unit.h"
#include "vm/adopt.h"
#include "vm/live.h"
#include "vm/verbs.h"
#include "vmm/sock.h"
#include "wire/config_disk.h"

/* --- the double --- */

enum mood { PROMPT, WAITS, DEAF, FAILS };

static atomic_int boot_mood;
static int gate_fd; /* an eventfd: a start that waits goes on when it is readable */
static atomic_int n_waiting;

static int double_available(const struct vmm_host *host, struct err *why)
{
    (void)host;
    (void)why;
    return 0;
}

static int spawn_sleep(int dir_fd, struct vmm_process *out, struct err *e)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);

    argv_push(&argv, "/bin/sleep");
    argv_push(&argv, "600");
    spec.cwd_fd = dir_fd;
    out->pidfd = proc_spawn(&spec, &out->id, e);
    return out->pidfd < 0 ? -1 : 0;
}

static int double_boot(const struct op *op, const struct vmm_boot *boot, struct vmm_process *out,
                       struct err *e)
{
    struct op deaf = {clock_ms() + 20000, -1};
    struct op last = {clock_ms() + 20000, -1};
    struct err ignored = {0};
    int mood = atomic_load(&boot_mood);
    int rc;

    if (spawn_sleep(boot->dir_fd, out, e) < 0)
        return -1;
    atomic_fetch_add(&n_waiting, 1);
    rc = mood == WAITS   ? op_wait(op, gate_fd, POLLIN, e)
         : mood == DEAF  ? op_wait(&deaf, gate_fd, POLLIN, e)
         : mood == FAILS ? err_set(e, ERR_INTERNAL, "the double refuses")
                         : 0;
    atomic_fetch_sub(&n_waiting, 1);
    if (rc < 0) {
        (void)proc_kill(&last, out->pidfd, &ignored);
        close(take_fd(&out->pidfd));
    }
    return rc;
}

static const struct vmm_driver double_driver = {
    .name = "double",
    .binary = "sleep",
    .available = double_available,
    .boot = double_boot,
};

/* --- a world around it --- */

struct fixture {
    char root[64];
    struct vmm_host host;
    struct loop *loop;
    struct vm_world world;
    struct vm_env env;
    size_t fds;
    int expected; /* answers that are still to come; the last one ends a run() */
    enum err_code last_code;
    char last_slug[32];
    char last_id[ID_SIZE];
    enum vm_state last_state;
};

static void open_world(struct fixture *f)
{
    struct err e = {0};

    f->env.store = store_open(f->env.data_fd, &e);
    assert_non_null(f->env.store);
    f->loop = loop_new(&e);
    world_init(&f->world, f->loop, &f->env);
}

static void close_world(struct fixture *f)
{
    world_stop(&f->world);
    world_fini(&f->world);
    store_close(f->env.store);
    loop_drain(f->loop);
    loop_free(f->loop);
}

static int directory(const struct fixture *f, const char *name)
{
    struct err e = {0};

    assert_int_equal(dir_ensure(f->env.data_fd, name, 0700, &e), 0);
    return dir_open(f->env.data_fd, name, &e);
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    struct err e = {0};

    f->fds = open_fds();
    log_init(LOG_ERROR_);
    gate_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    atomic_store(&boot_mood, PROMPT);
    (void)snprintf(f->root, sizeof(f->root), "/tmp/bones-XXXXXX");
    assert_non_null(mkdtemp(f->root));
    f->env.data_fd = dir_open(AT_FDCWD, f->root, &e);
    f->env.instances_fd = directory(f, "instances");
    f->env.images_fd = directory(f, "images");
    f->env.templates_fd = directory(f, "templates");
    f->env.host = &f->host;
    assert_int_equal(vm_boot_id(f->env.boot_id, &e), 0);
    assert_int_equal(mkdirat(f->env.images_fd, "d1", 0700), 0);
    assert_int_equal(file_replace(f->env.images_fd, "d1/rootfs.sqfs", 0600, "image", 5, &e), -1);
    err_clear(&e);
    {
        auto_close int image_fd = openat(f->env.images_fd, "d1", O_RDONLY | O_CLOEXEC);

        assert_int_equal(file_replace(image_fd, "rootfs.sqfs", 0600, "image", 5, &e), 0);
    }
    open_world(f);
    *state = f;
    return 0;
}

static int count_children(void)
{
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    int n = 0;

    while ((entry = readdir(proc)) != NULL) {
        struct buf text = BUF(4096);
        struct err e = {0};
        char path[300];
        const char *after;
        int parent;
        char run_state;

        (void)snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
            file_read(AT_FDCWD, path, &text, &e) == 0 &&
            (after = strrchr(buf_str(&text), ')')) != NULL &&
            sscanf(after, ") %c %d", &run_state, &parent) == 2 && parent == getpid() &&
            run_state != 'Z')
            n++;
        buf_free(&text);
    }
    closedir(proc);
    return n;
}

static size_t count_entries(int dir_fd)
{
    DIR *dir = fdopendir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    size_t n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};

    close_world(f);
    assert_int_equal(count_children(), 0);
    assert_int_equal(count_entries(f->env.instances_fd), 0);
    close(f->env.data_fd);
    close(f->env.instances_fd);
    close(f->env.images_fd);
    close(f->env.templates_fd);
    close(gate_fd);
    assert_int_equal(tree_remove(AT_FDCWD, f->root, &e), 0);
    assert_int_equal(open_fds(), f->fds);
    free(f);
    return 0;
}

/* The loop goes on until this holds; asked every millisecond, for at most 20 seconds. */
struct until {
    struct timer timer;
    struct fixture *f;
    bool (*holds)(struct fixture *f);
    int64_t give_up_ms;
};

static void ask(struct timer *t)
{
    struct until *u = container_of(t, struct until, timer);

    if (u->holds(u->f) || clock_ms() > u->give_up_ms)
        loop_stop(u->f->loop);
    else
        loop_timer_start(u->f->loop, t, 1);
}

static void run_until(struct fixture *f, bool (*holds)(struct fixture *f))
{
    struct until u = {.timer.fn = ask, .f = f, .holds = holds, .give_up_ms = clock_ms() + 20000};
    struct err e = {0};

    loop_timer_start(f->loop, &u.timer, 0);
    assert_int_equal(loop_run(f->loop, &e), 0);
    assert_true(holds(f));
}

static bool all_answered(struct fixture *f)
{
    return f->expected == 0;
}

static void run(struct fixture *f)
{
    run_until(f, all_answered);
}

static void answered(struct vm_op *op, const struct instance *row)
{
    struct fixture *f = op->arg;

    f->last_code = vm_op_error(op)->code;
    if (row) {
        memcpy(f->last_id, row->id, sizeof(f->last_id));
        f->last_state = row->run.state;
    }
    f->expected--;
}

static struct spec *spec_named(const char *name)
{
    struct spec *s = spec_new();

    (void)snprintf(s->name, sizeof(s->name), "%s", name);
    s->image = mem_strdup("docker.io/library/x:latest");
    s->image_digest = mem_strdup("sha256:d1");
    s->driver = &double_driver;
    s->hypervisor = mem_strdup("double");
    s->vcpus = 1;
    s->memory_bytes = 64 << 20;
    s->overlay_bytes = 16 << 20;
    s->created_us = wall_us();
    return s;
}

static void begin_create(struct fixture *f, const char *name)
{
    f->expected++;
    instance_create(&f->world, spec_named(name), answered, f);
}

static struct instance *row_of(struct fixture *f, const char *name)
{
    struct err e = {0};

    return table_resolve(&f->world.table, name, &e);
}

static void begin(struct fixture *f, const struct vm_verb *verb, const char *name)
{
    struct instance *row = row_of(f, name);

    assert_non_null(row);
    f->expected++;
    vm_op_begin(&f->world, row, vm_op_new(verb, answered, f));
}

static enum err_code now(struct fixture *f, const struct vm_verb *verb, const char *name)
{
    begin(f, verb, name);
    run(f);
    return f->last_code;
}

static void create(struct fixture *f, const char *name)
{
    begin_create(f, name);
    run(f);
    assert_int_equal(f->last_code, ERR_NONE);
}

static void open_gate(void)
{
    uint64_t one = 1;

    assert_int_equal(write(gate_fd, &one, sizeof(one)), sizeof(one));
}

static void shut_gate(void)
{
    uint64_t count;

    (void)!read(gate_fd, &count, sizeof(count)); /* EAGAIN: it was shut */
}

static bool one_waits(struct fixture *f)
{
    (void)f;
    return atomic_load(&n_waiting) >= 1;
}

/* --- the tests --- */

static void what_is_created_started_stopped_and_deleted_leaves_nothing(void **state)
{
    struct fixture *f = *state;

    create(f, "a");
    assert_int_equal(f->last_state, VM_INITIALIZING);
    assert_int_equal(count_children(), 1);
    assert_int_equal(now(f, &verb_start, "a"), ERR_BAD_STATE);
    assert_int_equal(now(f, &verb_stop, "a"), ERR_NONE);
    assert_int_equal(f->last_state, VM_STOPPED);
    assert_int_equal(count_children(), 0);
    assert_int_equal(now(f, &verb_stop, "a"), ERR_BAD_STATE);
    assert_int_equal(now(f, &verb_start, "a"), ERR_NONE);
    assert_int_equal(row_of(f, "a")->run.incarnation, 2);
    assert_int_equal(now(f, &verb_delete, "a"), ERR_NONE);
    assert_null(row_of(f, "a"));
}

static void a_name_is_reserved_from_the_first_moment_and_freed_by_a_failure(void **state)
{
    struct fixture *f = *state;

    atomic_store(&boot_mood, WAITS);
    begin_create(f, "a");
    run_until(f, one_waits);
    begin_create(f, "a"); /* answered at once */
    assert_int_equal(f->last_code, ERR_EXISTS);
    assert_null(row_of(f, "a")); /* not shown before it is committed */
    open_gate();
    run(f);
    assert_int_equal(f->last_code, ERR_NONE);

    atomic_store(&boot_mood, FAILS);
    begin_create(f, "b");
    run(f);
    assert_int_equal(f->last_code, ERR_INTERNAL);
    assert_false(table_name_is_taken(&f->world.table, "b"));
    assert_int_equal(count_entries(f->env.instances_fd), 1);
    assert_int_equal(now(f, &verb_delete, "a"), ERR_NONE);
}

/* The first of two operations, and how it ended, when the second has come. */
static enum err_code first_code;

static void first_answered(struct vm_op *op, const struct instance *row)
{
    struct fixture *f = op->arg;

    (void)row;
    first_code = vm_op_error(op)->code;
    f->expected--;
}

/* A start of "a" that waits at the gate, or deaf behind it. */
static void begin_waiting_start(struct fixture *f, enum mood mood)
{
    create(f, "a");
    assert_int_equal(now(f, &verb_stop, "a"), ERR_NONE);
    atomic_store(&boot_mood, mood);
    f->expected++;
    vm_op_begin(&f->world, row_of(f, "a"), vm_op_new(&verb_start, first_answered, f));
    run_until(f, one_waits);
}

static void a_second_operation_is_refused_while_one_holds_the_row(void **state)
{
    struct fixture *f = *state;

    begin_waiting_start(f, WAITS);
    begin(f, &verb_start, "a");
    assert_int_equal(f->last_code, ERR_BUSY);
    open_gate();
    run(f);
    assert_int_equal(first_code, ERR_NONE);
    assert_int_equal(now(f, &verb_delete, "a"), ERR_NONE);
}

static void a_delete_ends_a_start_that_waits(void **state)
{
    struct fixture *f = *state;

    begin_waiting_start(f, WAITS);
    assert_int_equal(now(f, &verb_delete, "a"), ERR_NONE);
    assert_int_equal(first_code, ERR_PREEMPTED);
    assert_null(row_of(f, "a"));
    assert_int_equal(count_children(), 0);
}

static void a_stop_ends_a_start_and_succeeds(void **state)
{
    struct fixture *f = *state;

    begin_waiting_start(f, WAITS);
    assert_int_equal(now(f, &verb_stop, "a"), ERR_NONE);
    assert_int_equal(first_code, ERR_PREEMPTED);
    assert_int_equal(f->last_state, VM_STOPPED);
    assert_int_equal(count_children(), 0);
    assert_int_equal(now(f, &verb_delete, "a"), ERR_NONE);
}

static void a_delete_overtakes_a_stop_that_waits(void **state)
{
    struct fixture *f = *state;

    begin_waiting_start(f, DEAF);
    begin(f, &verb_stop, "a");
    begin(f, &verb_delete, "a");
    assert_int_equal(f->expected, 2); /* the stop is answered: the delete took its place */
    assert_int_equal(f->last_code, ERR_PREEMPTED);
    begin(f, &verb_delete, "a");
    assert_int_equal(f->last_code, ERR_BUSY);
    open_gate();
    run(f);
    assert_int_equal(f->last_code, ERR_NONE);
    assert_null(row_of(f, "a"));
}

static void the_grace_of_a_stop_is_not_cut_by_its_deadline(void **state)
{
    struct fixture *f = *state;
    struct vm_op *op = vm_op_new(&verb_stop, answered, f);

    create(f, "a");
    op->grace_ms = 10 * verb_stop.timeout_ms;
    f->expected++;
    vm_op_begin(&f->world, row_of(f, "a"), op);
    assert_true(row_of(f, "a")->holder->job.timeout_ms > op->grace_ms);
    assert_int_equal(now(f, &verb_delete, "a"), ERR_NONE); /* which waits for no grace */
}

static bool no_children(struct fixture *f)
{
    (void)f;
    return count_children() == 0;
}

static bool row_is_gone(struct fixture *f)
{
    return !row_of(f, "a");
}

static int turns_left;

static bool a_little_later(struct fixture *f)
{
    (void)f;
    return turns_left-- <= 0;
}

/* A start stuck on something that hears no cancellation: the delete goes on without it, and
 * what the start then brings is undone. */
static void a_late_result_of_a_deleted_row_is_undone(void **state)
{
    struct fixture *f = *state;

    f->world.preempt_patience_ms = 30;
    begin_waiting_start(f, DEAF);
    begin(f, &verb_delete, "a");
    run_until(f, row_is_gone);
    assert_int_equal(f->last_code, ERR_NONE);
    assert_int_equal(count_children(), 1); /* the start's process, not known to anybody yet */
    open_gate();
    run(f);
    assert_int_equal(first_code, ERR_PREEMPTED);
    run_until(f, no_children);
    close_world(f);
    open_world(f);
    {
        struct adopt_report report;
        struct err e = {0};

        assert_int_equal(world_adopt(&f->world, &report, &e), 0);
        assert_int_equal(report.instances, 0);
    }
}

static bool a_is_stopped(struct fixture *f)
{
    return row_of(f, "a")->run.state == VM_STOPPED;
}

static void stored_state_is(struct fixture *f, enum vm_state want);

/* The store's disk stands still; a VM dies. The table knows at once, the store when it can. */
static void a_slow_store_hides_no_dead_vm(void **state)
{
    struct fixture *f = *state;
    char path[128];
    sqlite3 *other;

    create(f, "a");
    (void)snprintf(path, sizeof(path), "%s/hypeman.db", f->root);
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    live_kill(row_of(f, "a"));
    run_until(f, a_is_stopped);
    assert_int_equal(row_of(f, "a")->run.source, VM_BY_EXIT);
    assert_false(row_of(f, "a")->run.exit_known);
    assert_string_equal(row_of(f, "a")->run.exit_message, "the VMM was ended by signal 9");
    stored_state_is(f, VM_INITIALIZING);
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(other), SQLITE_OK);
    close_world(f);
    open_world(f);
    stored_state_is(f, VM_STOPPED);
    {
        struct adopt_report report;
        struct err e = {0};

        assert_int_equal(world_adopt(&f->world, &report, &e), 0);
        assert_int_equal(report.instances, 1);
    }
    assert_int_equal(now(f, &verb_delete, "a"), ERR_NONE);
}

static void stored_state_is(struct fixture *f, enum vm_state want)
{
    char path[128];
    sqlite3 *db;
    sqlite3_stmt *get;

    (void)snprintf(path, sizeof(path), "%s/hypeman.db", f->root);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(
            db, "SELECT json_extract(state, '$.state') FROM instances", -1, &get, NULL),
        SQLITE_OK);
    assert_int_equal(sqlite3_step(get), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(get, 0), vm_state_name(want));
    assert_int_equal(sqlite3_finalize(get), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* The same, but the row stays: the stop has its way, in the table and in the store. */
static void a_late_result_after_a_stop_is_undone(void **state)
{
    struct fixture *f = *state;
    struct adopt_report report;
    struct err e = {0};

    f->world.preempt_patience_ms = 30;
    begin_waiting_start(f, DEAF);
    begin(f, &verb_stop, "a");
    turns_left = 100;
    run_until(f, a_little_later);
    assert_int_equal(f->expected, 1);
    assert_int_equal(f->last_code, ERR_NONE);
    open_gate();
    run(f);
    assert_int_equal(first_code, ERR_PREEMPTED);
    assert_int_equal(count_children(), 0);
    assert_true(a_is_stopped(f));
    close_world(f);
    stored_state_is(f, VM_STOPPED);
    open_world(f);
    assert_int_equal(world_adopt(&f->world, &report, &e), 0);
    assert_int_equal(report.instances, 1);
    assert_int_equal(now(f, &verb_delete, "a"), ERR_NONE);
}

static void write_exit_sector(struct fixture *f, uint64_t incarnation, int code)
{
    struct exit_record record = {.incarnation = incarnation, .code = code};
    unsigned char sector[EXIT_SECTOR];
    struct err e = {0};
    auto_close int dir_fd = env_open_instance(&f->env, row_of(f, "a")->id, &e);
    auto_close int fd = openat(dir_fd, VMM_CONFIG_DISK, O_WRONLY | O_CLOEXEC);

    exit_sector_make(sector, &record);
    assert_int_equal(pwrite(fd, sector, sizeof(sector), 0), sizeof(sector));
}

static bool a_has_exit_code(struct fixture *f)
{
    return row_of(f, "a")->run.exit_known;
}

/* What a guest left on its disk counts for its own run and for no other. */
static void word_of_an_earlier_incarnation_is_dropped(void **state)
{
    struct fixture *f = *state;

    create(f, "a");
    write_exit_sector(f, 1, 7);
    live_kill(row_of(f, "a"));
    run_until(f, a_has_exit_code);
    assert_int_equal(row_of(f, "a")->run.exit_code, 7);
    assert_int_equal(now(f, &verb_start, "a"), ERR_NONE);
    assert_false(row_of(f, "a")->run.exit_known);
    write_exit_sector(f, 1, 7); /* a replay: this run is number 2 */
    assert_int_equal(now(f, &verb_stop, "a"), ERR_NONE);
    assert_false(row_of(f, "a")->run.exit_known);
    assert_int_equal(now(f, &verb_delete, "a"), ERR_NONE);
}

/* More starts wait than may run; a stop of another instance does not wait for them. */
static void a_stop_waits_for_no_start(void **state)
{
    struct fixture *f = *state;
    char name[16];

    create(f, "a");
    atomic_store(&boot_mood, WAITS);
    for (int i = 0; i < 20; i++) {
        (void)snprintf(name, sizeof(name), "b%d", i);
        begin_create(f, name);
    }
    run_until(f, one_waits);
    assert_int_equal(jobs_waiting(f->world.jobs, VM_JOB_START),
                     20 - (int)vm_job_limits[VM_JOB_START].running);
    f->expected++;
    vm_op_begin(&f->world, row_of(f, "a"), vm_op_new(&verb_stop, first_answered, f));
    run_until(f, a_is_stopped);
    assert_int_equal(f->expected, 20);
    open_gate();
    run(f);
    for (int i = 0; i < 20; i++) {
        (void)snprintf(name, sizeof(name), "b%d", i);
        begin(f, &verb_delete, name);
    }
    begin(f, &verb_delete, "a");
    run(f);
}

/* The daemon goes in the middle of a start: the client is told, and no process stays. */
static void a_shutdown_ends_what_is_under_way_and_leaves_the_rest(void **state)
{
    struct fixture *f = *state;
    struct adopt_report report;
    struct err e = {0};
    pid_t pid;

    create(f, "a");
    atomic_store(&boot_mood, WAITS);
    begin_create(f, "b");
    run_until(f, one_waits);
    close_world(f);
    assert_int_equal(f->expected, 0);
    assert_int_equal(f->last_code, ERR_CANCELLED);
    assert_int_equal(count_children(), 1); /* VMs do not depend on the daemon */
    open_world(f);
    assert_int_equal(world_adopt(&f->world, &report, &e), 0);
    assert_int_equal(report.instances, 1);
    /* The double is none of the drivers that a record can name, so its process is not taken up. */
    assert_int_equal(report.ended, 1);
    pid = row_of(f, "a")->run.proc.pid;
    assert_int_equal(now(f, &verb_delete, "a"), ERR_NONE);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* --- a random walk against a model --- */

enum { N_NAMES = 5, STEPS = 400 };

/* What must hold whenever nothing is under way. */
static void check_model(struct fixture *f)
{
    int with_process = 0;

    for (const struct list *l = f->world.table.order.next; l != &f->world.table.order;
         l = l->next) {
        const struct instance *row =
            container_of((struct list *)(uintptr_t)l, struct instance, order);

        assert_true(row->published && !row->holder && !row->preemptor);
        assert_int_equal(row->live != NULL, vm_state_has_process(row->run.state));
        with_process += row->live != NULL;
    }
    assert_int_equal(count_children(), with_process);
    assert_int_equal(count_entries(f->env.instances_fd), f->world.table.ids.n);
    assert_int_equal(f->world.table.n_sorted, f->world.table.ids.n);
}

static void random_step(struct fixture *f, unsigned *seed)
{
    static const struct vm_verb *const verbs[] = {&verb_start, &verb_stop, &verb_delete};
    char name[8];
    struct instance *row;
    int what = rand_r(seed) % 8;

    (void)snprintf(name, sizeof(name), "n%d", rand_r(seed) % N_NAMES);
    row = row_of(f, name);
    if (what == 0)
        atomic_store(&boot_mood, rand_r(seed) % 4);
    else if (what == 1)
        open_gate();
    else if (what == 2 && row)
        live_kill(row);
    else if (!row)
        begin_create(f, name);
    else
        begin(f, verbs[rand_r(seed) % 3], name);
}

/* Everything is answered, and every end of a process has been seen. */
static bool settled(struct fixture *f)
{
    for (const struct list *l = f->world.table.order.next; l != &f->world.table.order;
         l = l->next) {
        const struct instance *row =
            container_of((struct list *)(uintptr_t)l, struct instance, order);
        struct pollfd exit = {.fd = live_dup_pidfd(row), .events = POLLIN};
        bool ended = poll(&exit, 1, 0) != 0;

        if (exit.fd >= 0)
            close(exit.fd);
        if (row->holder || ended)
            return false;
    }
    return f->expected == 0;
}

/* Operations, kills and a double of changing mood, in any order: in the end the table, the
 * processes, the directories and the store agree. */
static void whatever_happens_table_processes_and_files_agree(void **state)
{
    struct fixture *f = *state;
    unsigned seed = 20260203;
    struct adopt_report report;
    struct err e = {0};
    size_t rows;

    f->world.preempt_patience_ms = 1;
    for (int step = 0; step < STEPS; step++) {
        random_step(f, &seed);
        if (rand_r(&seed) % 2)
            shut_gate();
        turns_left = rand_r(&seed) % 4;
        run_until(f, a_little_later);
        if (step % 50 == 49) {
            open_gate();
            run_until(f, settled);
            check_model(f);
        }
    }
    atomic_store(&boot_mood, PROMPT);
    for (int i = 0; i < N_NAMES; i++) {
        char name[8];

        (void)snprintf(name, sizeof(name), "n%d", i);
        if (row_of(f, name) && vm_state_has_process(row_of(f, name)->run.state))
            assert_int_equal(now(f, &verb_stop, name), ERR_NONE);
    }
    rows = f->world.table.ids.n;
    close_world(f);
    open_world(f);
    assert_int_equal(world_adopt(&f->world, &report, &e), 0);
    assert_int_equal(report.instances, rows);
    assert_int_equal(report.ended + report.swept, 0);
    for (int i = 0; i < N_NAMES; i++) {
        char name[8];

        (void)snprintf(name, sizeof(name), "n%d", i);
        if (row_of(f, name))
            assert_int_equal(now(f, &verb_delete, name), ERR_NONE);
    }
}

/* A guest's end that never says a word: who comes, and who went. */
static int deaf_fd;
static int first_fd;
static int second_fd;

static bool came_twice_and_went_once(struct fixture *f)
{
    int *next = first_fd < 0 ? &first_fd : &second_fd;
    char byte;
    ssize_t n;

    (void)f;
    if (second_fd < 0)
        *next = accept4(deaf_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (second_fd < 0)
        return false;
    while ((n = recv(first_fd, &byte, 1, 0)) > 0)
        ;
    return n == 0 && recv(second_fd, &byte, 1, MSG_PEEK) == 1;
}

static void a_restored_guest_that_does_not_greet_is_met_again(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct instance *row;
    int dir_fd;
    int pidfd;

    create(f, "deaf");
    row = row_of(f, "deaf");
    dir_fd = env_open_instance(&f->env, row->id, &e);
    deaf_fd = sock_listen(dir_fd, VMM_AGENT_SOCKET, &e);
    assert_true(deaf_fd >= 0);
    assert_int_equal(fcntl(deaf_fd, F_SETFL, O_NONBLOCK), 0);
    first_fd = second_fd = -1;
    f->world.greeting_patience_ms = 10;
    pidfd = live_dup_pidfd(row);
    live_detach(&f->world, row);
    row->run.incarnation++; /* as a restore leaves it: the guest's own boot is older */
    live_attach(&f->world, row, pidfd, NULL);
    live_listen(row, dir_fd);
    run_until(f, came_twice_and_went_once);
    close(first_fd);
    close(second_fd);
    close(deaf_fd);
    close(dir_fd);
    assert_int_equal(now(f, &verb_delete, "deaf"), ERR_NONE);
}

#define world_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        world_test(what_is_created_started_stopped_and_deleted_leaves_nothing),
        world_test(a_name_is_reserved_from_the_first_moment_and_freed_by_a_failure),
        world_test(a_second_operation_is_refused_while_one_holds_the_row),
        world_test(a_delete_ends_a_start_that_waits),
        world_test(a_stop_ends_a_start_and_succeeds),
        world_test(a_delete_overtakes_a_stop_that_waits),
        world_test(the_grace_of_a_stop_is_not_cut_by_its_deadline),
        world_test(a_late_result_of_a_deleted_row_is_undone),
        world_test(a_late_result_after_a_stop_is_undone),
        world_test(a_slow_store_hides_no_dead_vm),
        world_test(word_of_an_earlier_incarnation_is_dropped),
        world_test(a_stop_waits_for_no_start),
        world_test(a_shutdown_ends_what_is_under_way_and_leaves_the_rest),
        world_test(a_restored_guest_that_does_not_greet_is_met_again),
        world_test(whatever_happens_table_processes_and_files_agree),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
