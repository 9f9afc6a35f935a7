/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "store/store.h"
#include "unit.h"

/*
 * A layer under SQLite: counts what it asks the disk to make durable, and can
 * fail it. It is SQLite's own VFS with two methods replaced.
 */
static struct {
    sqlite3_vfs vfs;
    struct methods {
        sqlite3_io_methods ours; /* first, so that a file's methods lead back here */
        const sqlite3_io_methods *real;
    } methods[4]; /* SQLite has one set for databases and another for journals */
    atomic_int syncs;
    atomic_bool sync_fails;
    atomic_bool disk_is_full;
} disk;

static const sqlite3_io_methods *real_methods(const sqlite3_file *file)
{
    return ((const struct methods *)(const void *)file->pMethods)->real;
}

static int disk_sync(sqlite3_file *file, int flags)
{
    atomic_fetch_add(&disk.syncs, 1);
    return disk.sync_fails ? SQLITE_IOERR_FSYNC : real_methods(file)->xSync(file, flags);
}

static int disk_write(sqlite3_file *file, const void *data, int n, sqlite3_int64 at)
{
    return disk.disk_is_full ? SQLITE_FULL : real_methods(file)->xWrite(file, data, n, at);
}

static int disk_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out)
{
    struct sqlite3_vfs *real = sqlite3_vfs_find("unix");
    struct methods *m = disk.methods;
    int rc = real->xOpen(vfs, name, file, flags, out);

    if (rc != SQLITE_OK || !file->pMethods)
        return rc;
    while (m->real && m->real != file->pMethods)
        m++;
    if (!m->real) {
        m->real = file->pMethods;
        m->ours = *file->pMethods;
        m->ours.xSync = disk_sync;
        m->ours.xWrite = disk_write;
    }
    file->pMethods = &m->ours;
    return rc;
}

static void install_disk(void)
{
    disk.vfs = *sqlite3_vfs_find("unix");
    disk.vfs.zName = "counting";
    disk.vfs.xOpen = disk_open;
    sqlite3_vfs_register(&disk.vfs, 1);
}

/* --- a store in a directory of its own --- */

struct fixture {
    char path[64];
    int dirfd;
    struct store *store;
    size_t fds;
};

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    struct err e = {0};

    f->fds = open_fds();
    (void)snprintf(f->path, sizeof(f->path), "/var/tmp/test_store.XXXXXX");
    assert_non_null(mkdtemp(f->path));
    f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->store = store_open(f->dirfd, &e);
    if (!f->store)
        fail_msg("%s", e.msg);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};

    disk.disk_is_full = false;
    disk.sync_fails = false;
    store_close(f->store);
    close(f->dirfd);
    (void)umount2(f->path, MNT_DETACH); /* of a test that failed */
    assert_int_equal(tree_remove(AT_FDCWD, f->path, &e), 0);
    assert_int_equal(open_fds(), f->fds);
    free(f);
    return 0;
}

static void reopen(struct fixture *f)
{
    struct err e = {0};

    store_close(f->store);
    f->store = store_open(f->dirfd, &e);
    if (!f->store)
        fail_msg("%s", e.msg);
}

static struct store_change *putting(const char *id, const char *name, const char *state)
{
    struct store_change *c = store_change_new();

    instances_put(c,
                  &(struct instance_record){.id = id, .name = name, .spec = "{}", .state = state});
    return c;
}

static void put(struct fixture *f, const char *id, const char *name, const char *state)
{
    struct err e = {0};

    if (store_commit(f->store, putting(id, name, state), &e) < 0)
        fail_msg("%s", e.msg);
}

static int append(void *arg, const struct instance_record *r, struct err *e)
{
    (void)e;
    buf_printf(arg, "%s=%s:%s ", r->id, r->name, r->state);
    return 0;
}

static void expect_rows(struct fixture *f, const char *want)
{
    auto_buf struct buf rows = BUF(1 << 20);
    struct err e = {0};

    assert_int_equal(store_each_instance(f->store, append, &rows, &e), 0);
    assert_string_equal(buf_str(&rows), want);
}

static int count(void *arg, const struct instance_record *r, struct err *e)
{
    (void)r;
    (void)e;
    ++*(int *)arg;
    return 0;
}

static int n_rows(struct fixture *f)
{
    struct err e = {0};
    int n = 0;

    assert_int_equal(store_each_instance(f->store, count, &n, &e), 0);
    return n;
}

/* --- what is written is read --- */

static void rows_come_back_in_the_order_of_creation(void **state)
{
    struct fixture *f = *state;
    struct store_change *c = store_change_new();
    struct err e = {0};

    put(f, "zz", "first", "1");
    put(f, "aa", "second", "1");
    put(f, "mm", "third", "1");
    put(f, "zz", "renamed", "2"); /* replaced, and in its old place */
    instances_put_state(c, "aa", "3");
    instances_delete(c, "mm");
    instances_delete(c, "never was");
    assert_int_equal(store_commit(f->store, c, &e), 0);
    expect_rows(f, "zz=renamed:2 aa=second:3 ");
    reopen(f);
    expect_rows(f, "zz=renamed:2 aa=second:3 ");
}

static void a_change_is_written_whole_or_not_at_all(void **state)
{
    struct fixture *f = *state;
    struct store_change *c = store_change_new();
    struct err e = {0};

    put(f, "a", "web", "1");
    instances_put_state(c, "a", "2");
    instances_put_state(c, "gone", "2");
    assert_int_equal(store_commit(f->store, c, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, "gone"));
    expect_rows(f, "a=web:1 ");
}

static int stop_at_once(void *arg, const struct instance_record *r, struct err *e)
{
    (void)arg;
    return err_set(e, ERR_INTERNAL, "%s is damaged", r->id);
}

static void a_reader_that_stops_gives_its_reason(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};

    put(f, "a", "web", "1");
    assert_int_equal(store_each_instance(f->store, stop_at_once, NULL, &e), -1);
    assert_string_equal(e.msg, "a is damaged");
    put(f, "b", "db", "1"); /* and the statement was let go */
}

static int append_image(void *arg, const struct image_record *r, struct err *e)
{
    (void)e;
    buf_printf(arg, "%s=%s:%s ", r->name, r->digest, r->doc);
    return 0;
}

static void images_are_put_replaced_and_deleted(void **state)
{
    struct fixture *f = *state;
    struct store_change *c = store_change_new();
    auto_buf struct buf rows = BUF(1 << 20);
    struct err e = {0};

    images_put(c, &(struct image_record){"b", "sha256:1", "{}"});
    images_put(c, &(struct image_record){"a", "sha256:1", "{}"});
    images_put(c, &(struct image_record){"c", "sha256:2", "{}"});
    images_put(c, &(struct image_record){"b", "sha256:3", "[]"});
    images_delete(c, "c");
    assert_int_equal(store_commit(f->store, c, &e), 0);
    reopen(f);
    assert_int_equal(store_each_image(f->store, append_image, &rows, &e), 0);
    assert_string_equal(buf_str(&rows), "a=sha256:1:{} b=sha256:3:[] ");
}

static void a_number_never_goes_back(void **state)
{
    struct fixture *f = *state;
    struct store_change *c = store_change_new();
    struct err e = {0};
    int64_t v = 0;

    assert_int_equal(store_meta(f->store, "revision", -7, &v, &e), 0);
    assert_int_equal(v, -7);
    meta_put(c, "revision", INT64_MIN);
    meta_put(c, "revision", 9007199254740993); /* no double holds it */
    meta_put(c, "revision", 5);
    assert_int_equal(store_commit(f->store, c, &e), 0);
    reopen(f);
    assert_int_equal(store_meta(f->store, "revision", 0, &v, &e), 0);
    assert_true(v == 9007199254740993);
}

static void a_change_nobody_hands_over_is_freed(void **state)
{
    (void)state;
    store_change_free(putting("a", "b", "c"));
    store_change_free(NULL);
}

/* --- many at once --- */

/* Holds the database as another program would. */
static sqlite3 *intruder(struct fixture *f)
{
    char path[96];
    sqlite3 *db = NULL;

    (void)snprintf(path, sizeof(path), "%s/hypeman.db", f->path);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    return db;
}

static void let_go(sqlite3 *db)
{
    assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

struct posted {
    struct store_done done;
    struct loop *loop;
    int *left;
    enum err_code want;
};

static void posted_done(struct store_done *done, const struct err *result)
{
    struct posted *p = container_of(done, struct posted, done);

    assert_int_equal(result->code, p->want);
    if (--*p->left == 0)
        loop_stop(p->loop);
    free(p);
}

static void post(struct fixture *f, struct loop *loop, int *left, struct store_change *c,
                 enum err_code want)
{
    struct posted *p = mem_new(struct posted);

    *p = (struct posted){.done.fn = posted_done, .loop = loop, .left = left, .want = want};
    ++*left;
    store_post(f->store, loop, c, &p->done);
}

static void a_taken_name_fails_alone_in_its_batch(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct loop *loop = loop_new(&e);
    sqlite3 *other = intruder(f);
    int left = 0;

    /* The first waits for the lock, so all the others are one batch. */
    post(f, loop, &left, putting("a", "web", "1"), ERR_NONE);
    post(f, loop, &left, putting("b", "db", "1"), ERR_NONE);
    post(f, loop, &left, putting("c", "web", "1"), ERR_EXISTS);
    post(f, loop, &left, putting("d", "web2", "1"), ERR_NONE);
    post(f, loop, &left, putting("b", "web2", "2"), ERR_EXISTS);
    let_go(other);
    assert_int_equal(loop_run(loop, &e), 0);
    assert_int_equal(left, 0);
    expect_rows(f, "a=web:1 b=db:1 d=web2:1 ");
    assert_int_equal(store_commit(f->store, putting("e", "db", "1"), &e), -1);
    assert_int_equal(e.code, ERR_EXISTS);
    assert_string_equal(e.msg, "the name db is taken");
    loop_free(loop);
}

static void posting_never_waits_for_the_disk(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct loop *loop = loop_new(&e);
    sqlite3 *other = intruder(f);
    int left = 0;

    for (int i = 0; i < 1000; i++) {
        char id[16];

        (void)snprintf(id, sizeof(id), "id%d", i);
        post(f, loop, &left, putting(id, id, "1"), ERR_NONE);
    }
    assert_int_equal(left, 1000);
    (void)poll(NULL, 0, 300);
    loop_drain(loop);
    assert_int_equal(left, 1000); /* what nobody made durable was acknowledged to nobody */
    let_go(other);
    assert_int_equal(loop_run(loop, &e), 0);
    assert_int_equal(left, 0);
    assert_int_equal(n_rows(f), 1000);
    loop_free(loop);
}

static void closing_writes_what_is_queued(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct loop *loop = loop_new(&e);
    int left = 0;

    for (int i = 0; i < 50; i++) {
        char id[16];

        (void)snprintf(id, sizeof(id), "id%d", i);
        post(f, loop, &left, putting(id, id, "1"), ERR_NONE);
    }
    store_post(f->store, NULL, putting("quiet", "quiet", "1"), NULL);
    reopen(f);
    loop_drain(loop);
    assert_int_equal(left, 0);
    assert_int_equal(n_rows(f), 51);
    loop_free(loop);
}

enum { N_THREADS = 64, PER_THREAD = 20 };

struct committer {
    pthread_t thread;
    struct store *store;
    int from;
    int n;
    int report_fd; /* gets each number once its commit has been acknowledged */
};

static void *commit_many(void *arg)
{
    const struct committer *c = arg;

    for (int i = c->from; i < c->from + c->n; i++) {
        struct err e = {0};
        char id[24];

        (void)snprintf(id, sizeof(id), "id%d", i);
        if (store_commit(c->store, putting(id, id, "{\"n\":1}"), &e) < 0)
            abort();
        if (c->report_fd >= 0 && write(c->report_fd, &i, sizeof(i)) != sizeof(i))
            abort();
    }
    return NULL;
}

static void concurrent_commits_share_their_fsyncs(void **state)
{
    struct fixture *f = *state;
    struct committer threads[N_THREADS];
    int syncs = disk.syncs;
    int64_t began = clock_us();

    for (int i = 0; i < N_THREADS; i++) {
        threads[i] = (struct committer){
            .store = f->store, .from = i * PER_THREAD, .n = PER_THREAD, .report_fd = -1};
        assert_int_equal(pthread_create(&threads[i].thread, NULL, commit_many, &threads[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i].thread, NULL);
    syncs = disk.syncs - syncs;
    print_message("%d commits from %d threads: %d fsyncs, %" PRId64 " us\n",
                  N_THREADS * PER_THREAD,
                  N_THREADS,
                  syncs,
                  clock_us() - began);
    assert_true(syncs > 0 && syncs < N_THREADS * PER_THREAD / 4);
    assert_int_equal(n_rows(f), N_THREADS * PER_THREAD);

    syncs = disk.syncs;
    put(f, "alone", "alone", "1");
    assert_true(disk.syncs > syncs); /* and each acknowledgement has one behind it */
}

/* --- accidents --- */

/* In the child: commits until it is killed. */
static void commit_until_killed(const char *path, int report_fd)
{
    struct committer threads[8];
    struct err e = {0};
    int dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct store *store = store_open(dirfd, &e);

    if (!store)
        _exit(1);
    for (int i = 0; i < 8; i++) {
        threads[i] = (struct committer){
            .store = store, .from = i * 10000000, .n = 10000000, .report_fd = report_fd};
        if (pthread_create(&threads[i].thread, NULL, commit_many, &threads[i]) != 0)
            _exit(1);
    }
    pthread_join(threads[0].thread, NULL);
    _exit(1);
}

static int has_row(void *arg, const struct instance_record *r, struct err *e)
{
    (void)e;
    assert_int_equal(strncmp(r->id, "id", 2), 0);
    buf_printf(arg, "%s.", r->id);
    return 0;
}

static void nothing_acknowledged_is_lost_by_kill_9(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf rows = BUF(16 << 20);
    struct err e = {0};
    int acknowledged = 0;
    int fds[2];
    int status;
    int number;
    pid_t pid;
    int *seen = mem_zalloc(1 << 20, sizeof(int));

    store_close(f->store);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        commit_until_killed(f->path, fds[1]);
    close(fds[1]);
    while (acknowledged < (1 << 20) && read(fds[0], &number, sizeof(number)) == sizeof(number)) {
        seen[acknowledged++] = number;
        if (acknowledged == 500)
            kill(pid, SIGKILL);
    }
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

    f->store = store_open(f->dirfd, &e);
    assert_non_null(f->store);
    assert_int_equal(store_each_instance(f->store, has_row, &rows, &e), 0);
    assert_true(acknowledged >= 500);
    for (int i = 0; i < acknowledged; i++) {
        char id[24];

        (void)snprintf(id, sizeof(id), "id%d.", seen[i]);
        assert_non_null(strstr(buf_str(&rows), id));
    }
    free(seen);
}

/* The disk fails under a commit; afterwards everything is as before, and goes on. */
static void fail_and_recover(struct fixture *f, atomic_bool *fault, enum err_code want)
{
    struct err e = {0};
    struct loop *loop = loop_new(&e);
    int left = 0;

    put(f, "a", "web", "1");
    *fault = true;
    assert_int_equal(store_commit(f->store, putting("b", "db", "1"), &e), -1);
    assert_int_equal(e.code, want);
    print_message("%s\n", e.msg);
    for (int i = 0; i < 3; i++) {
        char id[16];

        (void)snprintf(id, sizeof(id), "id%d", i);
        post(f, loop, &left, putting(id, id, "1"), want);
    }
    assert_int_equal(loop_run(loop, &e), 0);
    expect_rows(f, "a=web:1 ");
    *fault = false;
    put(f, "c", "db", "1");
    expect_rows(f, "a=web:1 c=db:1 ");
    reopen(f);
    expect_rows(f, "a=web:1 c=db:1 ");
    loop_free(loop);
}

static void a_full_disk_fails_the_change_and_not_the_store(void **state)
{
    fail_and_recover(*state, &disk.disk_is_full, ERR_NO_SPACE);
}

static void a_failing_fsync_is_not_acknowledged(void **state)
{
    fail_and_recover(*state, &disk.sync_fails, ERR_INTERNAL);
}

/* Opens what a crash at this moment would leave. */
static void expect_rows_after_a_crash(struct fixture *f, const char *want)
{
    static const char *const files[] = {"hypeman.db", "hypeman.db-wal"};
    struct fixture crashed = {0};
    struct err e = {0};

    assert_int_equal(dir_ensure(f->dirfd, "crashed", 0700, &e), 0);
    crashed.dirfd = dir_open(f->dirfd, "crashed", &e);
    for (size_t i = 0; i < 2; i++) {
        auto_buf struct buf data = BUF(16 << 20);

        assert_int_equal(file_read(f->dirfd, files[i], &data, &e), 0);
        assert_int_equal(file_replace(crashed.dirfd, files[i], 0600, data.data, data.len, &e), 0);
    }
    crashed.store = store_open(crashed.dirfd, &e);
    assert_non_null(crashed.store);
    expect_rows(&crashed, want);
    store_close(crashed.store);
    close(crashed.dirfd);
}

/* It stands whole in the log, and its client was told that it failed. */
static void a_commit_whose_sync_failed_does_not_come_back_after_a_crash(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};

    put(f, "a", "web", "1");
    disk.sync_fails = true;
    assert_int_equal(store_commit(f->store, putting("b", "db", "1"), &e), -1);
    disk.sync_fails = false;
    expect_rows_after_a_crash(f, "a=web:1 ");
}

/* With a real file system: fills it through the store, then makes room. */
static void a_small_disk_fills_up_and_is_emptied(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct store_change *c;
    char *big = mem_zalloc(1, 100001);
    int filler;
    int n = 0;

    if (mount("tmpfs", f->path, "tmpfs", 0, "size=1m") < 0) {
        print_message("not root, or no mounts here: the real full disk was left out\n");
        free(big);
        return;
    }
    memset(big, 'x', 100000);
    store_close(f->store);
    close(f->dirfd);
    f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->store = store_open(f->dirfd, &e);
    assert_non_null(f->store);
    put(f, "a", "web", "1");
    filler = openat(f->dirfd, "filler", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(posix_fallocate(filler, 0, 400000), 0);
    close(filler);

    while (e.code == ERR_NONE && n < 100) {
        char id[16];

        (void)snprintf(id, sizeof(id), "id%d", n);
        if (store_commit(f->store, putting(id, id, big), &e) == 0)
            n++;
    }
    assert_int_equal(e.code, ERR_NO_SPACE);
    assert_non_null(strstr(e.msg, "make room"));
    assert_int_equal(n_rows(f), n + 1);

    assert_int_equal(unlinkat(f->dirfd, "filler", 0), 0);
    c = putting("after", "after", big);
    err_clear(&e);
    if (store_commit(f->store, c, &e) < 0)
        fail_msg("%s", e.msg);
    reopen(f);
    assert_int_equal(n_rows(f), n + 2);

    store_close(f->store);
    close(f->dirfd);
    assert_int_equal(umount2(f->path, MNT_DETACH), 0);
    f->dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->store = store_open(f->dirfd, &e);
    free(big);
}

/* --- opening --- */

static void expect_mode(struct fixture *f, const char *name)
{
    struct stat st;

    assert_int_equal(fstatat(f->dirfd, name, &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void files_are_for_their_owner_only(void **state)
{
    struct fixture *f = *state;

    put(f, "a", "web", "1");
    expect_mode(f, "hypeman.db");
    expect_mode(f, "hypeman.db-wal");
    expect_mode(f, "hypeman.db-shm");
}

static void refused(struct fixture *f, enum err_code code, const char *text)
{
    struct err e = {0};
    size_t fds = open_fds();

    assert_null(store_open(f->dirfd, &e));
    assert_int_equal(e.code, code);
    print_message("%s\n", e.msg);
    assert_non_null(strstr(e.msg, text));
    assert_int_equal(open_fds(), fds);
}

static void a_database_of_a_newer_version_is_refused(void **state)
{
    struct fixture *f = *state;
    char path[96];
    sqlite3 *db;

    store_close(f->store);
    f->store = NULL;
    (void)snprintf(path, sizeof(path), "%s/hypeman.db", f->path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    refused(f, ERR_UNSUPPORTED, "a newer hypeman wrote it (version 99");
}

static void overwrite(struct fixture *f, off_t at, size_t len)
{
    int fd = openat(f->dirfd, "hypeman.db", O_WRONLY | O_CLOEXEC);
    char junk[4096];

    memset(junk, 0x5a, sizeof(junk));
    assert_int_equal(pwrite(fd, junk, len, at), len);
    close(fd);
}

static void a_damaged_database_is_refused(void **state)
{
    struct fixture *f = *state;

    put(f, "a", "web", "1");
    store_close(f->store);
    f->store = NULL;
    overwrite(f, 4096, 4096);
    refused(f, ERR_INTERNAL, "it is damaged");
    overwrite(f, 0, 100);
    refused(f, ERR_INTERNAL, "not a database");
}

#define store_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_test(rows_come_back_in_the_order_of_creation),
        store_test(a_change_is_written_whole_or_not_at_all),
        store_test(a_reader_that_stops_gives_its_reason),
        store_test(images_are_put_replaced_and_deleted),
        store_test(a_number_never_goes_back),
        store_test(a_change_nobody_hands_over_is_freed),
        store_test(a_taken_name_fails_alone_in_its_batch),
        store_test(posting_never_waits_for_the_disk),
        store_test(closing_writes_what_is_queued),
        store_test(concurrent_commits_share_their_fsyncs),
        store_test(nothing_acknowledged_is_lost_by_kill_9),
        store_test(a_full_disk_fails_the_change_and_not_the_store),
        store_test(a_failing_fsync_is_not_acknowledged),
        store_test(a_commit_whose_sync_failed_does_not_come_back_after_a_crash),
        store_test(a_small_disk_fills_up_and_is_emptied),
        store_test(files_are_for_their_owner_only),
        store_test(a_database_of_a_newer_version_is_refused),
        store_test(a_damaged_database_is_refused),
    };

    install_disk();
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
