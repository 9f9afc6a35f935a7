/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/thread.h"
#include "store/sql.h"

#define DB_NAME "hypeman.db"

enum {
    /* Somebody who looks at the file with sqlite3 may hold it for a while; a minute is a mistake.
     */
    BUSY_TIMEOUT_MS = 60 * 1000,
    STACK_BYTES = 256 * 1024,
    MAX_STATEMENTS = 20,
};

/* The default cache is 2 MiB, and a WAL that once grew would keep its size. */
static const char settings[] = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                               "PRAGMA cache_size = -512; PRAGMA mmap_size = 0;"
                               "PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 8388608;";

static const char begin[] = "BEGIN IMMEDIATE";
static const char commit[] = "COMMIT";
static const char rollback[] = "ROLLBACK";
static const char bury[] = "INSERT INTO meta(key, value) VALUES('failed_commits', 1)"
                           " ON CONFLICT(key) DO UPDATE SET value = value + 1";
static const char savepoint[] = "SAVEPOINT one_change";
static const char release[] = "RELEASE one_change";
static const char rollback_to[] = "ROLLBACK TO one_change";

struct kept_write {
    struct write w;
    struct kept_write *next;
};

struct store_change {
    struct kept_write *first;
    struct kept_write **last;

    /* While it is queued. */
    struct store_change *next;
    struct err err;
    bool is_awaited; /* by store_await(), on told; else done is told, if there is one */
    sem_t told;
    int64_t ended_us;
    struct loop *loop;
    struct store_done *done;
};

struct store {
    pthread_t writer;

    pthread_mutex_t db_lock; /* the writer while it applies; a reader at start-up */
    sqlite3 *db;
    struct {
        const char *sql;
        sqlite3_stmt *st;
    } statements[MAX_STATEMENTS];

    pthread_mutex_t lock; /* guards what follows; never held while waiting for the disk */
    pthread_cond_t wake;
    struct store_change *queue;
    struct store_change **queue_end;
    bool closing;
};

/* --- changes --- */

struct store_change *store_change_new(void)
{
    struct store_change *c = mem_new(struct store_change);

    c->last = &c->first;
    return c;
}

void store_change_free(struct store_change *change)
{
    struct kept_write *kept;

    if (!change)
        return;
    while ((kept = change->first) != NULL) {
        change->first = kept->next;
        free(kept);
    }
    free(change);
}

/* One allocation: the values stand behind the struct. */
void change_add(struct store_change *c, const struct write *w)
{
    size_t size = sizeof(struct kept_write);
    struct kept_write *kept;
    char *text;

    for (int i = 0; i < MAX_VALUES && w->values[i]; i++)
        size += strlen(w->values[i]) + 1;
    kept = mem_zalloc(1, size);
    kept->w = *w;
    text = (char *)(kept + 1);
    for (int i = 0; i < MAX_VALUES && w->values[i]; i++) {
        size_t len = strlen(w->values[i]) + 1;

        kept->w.values[i] = memcpy(text, w->values[i], len);
        if (w->unique == w->values[i])
            kept->w.unique = text;
        text += len;
    }
    *c->last = kept;
    c->last = &kept->next;
}

/* --- statements; the caller holds db_lock --- */

int sql_err(sqlite3 *db, const char *doing, struct err *e)
{
    int rc = sqlite3_errcode(db) & 0xff;
    int sys = rc == SQLITE_IOERR || rc == SQLITE_CANTOPEN ? sqlite3_system_errno(db) : 0;

    switch (rc) {
    case SQLITE_FULL:
        break;
    case SQLITE_BUSY:
        return err_set(e, ERR_TIMEOUT, "another program holds it locked; end that program");
    case SQLITE_NOTADB:
        return err_set(e, ERR_INTERNAL, "this is not a database: put back a copy of it");
    default:
        if (sys == ENOSPC || sys == EDQUOT)
            break;
        return err_set(e,
                       ERR_INTERNAL,
                       "%s: %s%s%s",
                       doing,
                       sqlite3_errmsg(db),
                       sys ? ": " : "",
                       sys ? strerrordesc_np(sys) : "");
    }
    return err_set(e,
                   ERR_NO_SPACE,
                   "the disk that holds the data directory is full, so nothing was changed:"
                   " make room there and try again");
}

static sqlite3_stmt *statement(struct store *store, const char *sql, struct err *e)
{
    size_t i = 0;

    while (i < MAX_STATEMENTS && store->statements[i].sql && store->statements[i].sql != sql)
        i++;
    assert(i < MAX_STATEMENTS);
    if (!store->statements[i].sql) {
        if (sqlite3_prepare_v3(
                store->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &store->statements[i].st, NULL) !=
            SQLITE_OK) {
            sql_err(store->db, "prepare a statement", e);
            return NULL;
        }
        store->statements[i].sql = sql;
    }
    return store->statements[i].st;
}

/* The text must outlive the statement's run. */
static void bind(sqlite3_stmt *st, int place, const char *value)
{
    if (sqlite3_bind_text(st, place, value, -1, SQLITE_STATIC) != SQLITE_OK) {
        log_error("out of memory"); /* the only way to get here with our static SQL */
        abort();
    }
}

static int write_error(struct store *store, const struct write *w, struct err *e)
{
    if (sqlite3_extended_errcode(store->db) == SQLITE_CONSTRAINT_UNIQUE && w->unique)
        return err_set(e, ERR_EXISTS, "the name %s is taken", w->unique);
    sql_err(store->db, "write", e);
    return err_wrap(e, DB_NAME);
}

static int run_write(struct store *store, const struct write *w, struct err *e)
{
    sqlite3_stmt *st = statement(store, w->sql, e);
    int rc = 0;

    if (!st)
        return -1;
    for (int i = 0; i < MAX_VALUES && w->values[i]; i++)
        bind(st, i + 1, w->values[i]);
    if (sqlite3_step(st) != SQLITE_DONE)
        rc = write_error(store, w, e);
    else if (w->must_match && sqlite3_changes(store->db) == 0)
        rc = err_set(e, ERR_NOT_FOUND, "there is no record of %s", w->values[0]);
    (void)sqlite3_reset(st);
    (void)sqlite3_clear_bindings(st);
    return rc;
}

static int run_plain(struct store *store, const char *sql, struct err *e)
{
    return run_write(store, &(struct write){.sql = sql}, e);
}

const char *sql_text(sqlite3_stmt *at, int column)
{
    const char *text = (const char *)sqlite3_column_text(at, column);

    return text ? text : "";
}

int sql_each(struct store *store, const char *sql, const char *key, sql_row_fn *row, void *arg,
             struct err *e)
{
    sqlite3_stmt *st;
    int step = SQLITE_DONE;
    int rc = -1;

    pthread_mutex_lock(&store->db_lock);
    st = statement(store, sql, e);
    if (st) {
        if (key)
            bind(st, 1, key);
        rc = 0;
        while (rc == 0 && (step = sqlite3_step(st)) == SQLITE_ROW)
            rc = row(arg, st, e);
        if (rc == 0 && step != SQLITE_DONE)
            rc = sql_err(store->db, "read", e);
        (void)sqlite3_reset(st);
        (void)sqlite3_clear_bindings(st);
    }
    pthread_mutex_unlock(&store->db_lock);
    return rc;
}

/* --- the writer thread --- */

/* Leaves the change's own result in it; whole_out is set when the batch cannot go on. */
static void apply_one(struct store *store, struct store_change *c, struct err *whole_out)
{
    int rc = 0;

    if (run_plain(store, savepoint, whole_out) < 0)
        return;
    for (const struct kept_write *k = c->first; k && rc == 0; k = k->next)
        rc = run_write(store, &k->w, &c->err);
    if (rc < 0 && sqlite3_get_autocommit(store->db)) {
        *whole_out = c->err; /* a full disk may end the transaction itself */
        return;
    }
    if (rc == 0 || run_plain(store, rollback_to, whole_out) == 0)
        (void)run_plain(store, release, whole_out);
}

/*
 * A commit that failed may stand whole in the log, where recovery after a crash would
 * take it for done: another one is written over it, whether it can be synced or not.
 */
static void bury_commit(struct store *store)
{
    struct err ignored = {0};

    if (run_plain(store, begin, &ignored) == 0 &&
        (run_plain(store, bury, &ignored) < 0 || run_plain(store, commit, &ignored) < 0) &&
        !sqlite3_get_autocommit(store->db)) {
        err_clear(&ignored);
        (void)run_plain(store, rollback, &ignored);
    }
}

/*
 * A batch that cannot be committed fails as a whole, each change with the
 * reason, and leaves the connection fit for the next one.
 */
static void apply_batch(struct store *store, struct store_change *batch)
{
    struct err whole = {0};
    struct err ignored = {0};
    bool is_written = false;

    if (run_plain(store, begin, &whole) == 0) {
        for (struct store_change *c = batch; c && whole.code == ERR_NONE; c = c->next)
            apply_one(store, c, &whole);
        is_written = whole.code == ERR_NONE;
        if (is_written)
            (void)run_plain(store, commit, &whole);
    }
    if (whole.code == ERR_NONE)
        return;
    if (!sqlite3_get_autocommit(store->db))
        (void)run_plain(store, rollback, &ignored);
    if (is_written)
        bury_commit(store);
    for (struct store_change *c = batch; c; c = c->next) {
        if (c->err.code == ERR_NONE)
            c->err = whole;
    }
}

static void on_loop(struct post *post)
{
    struct store_done *done = container_of(post, struct store_done, post);

    done->fn(done, &done->err);
}

static void tell(struct store_change *c)
{
    if (c->is_awaited) {
        c->ended_us = clock_us();
        sem_post(&c->told); /* the change is the waiter's again from here on */
        return;
    }
    if (c->done) {
        c->done->err = c->err;
        c->done->post = (struct post){.fn = on_loop};
        loop_post(c->loop, &c->done->post);
    } else if (c->err.code != ERR_NONE) {
        log_warn("a record was not written: %s", c->err.msg);
    }
    store_change_free(c);
}

static struct store_change *take_batch(struct store *store)
{
    struct store_change *batch;

    pthread_mutex_lock(&store->lock);
    while (!store->queue && !store->closing)
        pthread_cond_wait(&store->wake, &store->lock);
    batch = store->queue;
    store->queue = NULL;
    store->queue_end = &store->queue;
    pthread_mutex_unlock(&store->lock);
    return batch;
}

static void *writer(void *arg)
{
    struct store *store = arg;
    struct store_change *batch;

    while ((batch = take_batch(store)) != NULL) {
        pthread_mutex_lock(&store->db_lock);
        apply_batch(store, batch);
        pthread_mutex_unlock(&store->db_lock);
        while (batch) {
            struct store_change *next = batch->next;

            tell(batch);
            batch = next;
        }
    }
    return NULL;
}

static void enqueue(struct store *store, struct store_change *change)
{
    pthread_mutex_lock(&store->lock);
    assert(!store->closing);
    *store->queue_end = change;
    store->queue_end = &change->next;
    pthread_mutex_unlock(&store->lock);
    pthread_cond_signal(&store->wake); /* who wakes finds the lock free */
}

void store_begin(struct store *store, struct store_change *change)
{
    sem_init(&change->told, 0, 0);
    change->is_awaited = true;
    enqueue(store, change);
}

int store_await(struct store_change *change, int64_t *ended_us, struct err *e)
{
    int rc = 0;

    while (sem_wait(&change->told) < 0 && errno == EINTR)
        ;
    sem_destroy(&change->told);
    if (change->err.code != ERR_NONE) {
        *e = change->err;
        rc = -1;
    }
    if (ended_us)
        *ended_us = change->ended_us;
    store_change_free(change);
    return rc;
}

int store_commit(struct store *store, struct store_change *change, struct err *e)
{
    store_begin(store, change);
    return store_await(change, NULL, e);
}

void store_post(struct store *store, struct loop *loop, struct store_change *change,
                struct store_done *done)
{
    change->loop = loop;
    change->done = done;
    enqueue(store, change);
}

/* --- opening and closing --- */

/* Made before SQLite sees it, so that it and the files beside it, which copy its mode, are ours. */
static int make_private(int data_dirfd, struct err *e)
{
    auto_close int fd =
        openat(data_dirfd, DB_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return err_errno(e, "open");
    return fchmod(fd, 0600) < 0 ? err_errno(e, "set its mode") : 0;
}

static int open_db(struct store *store, int data_dirfd, struct err *e)
{
    char path[64];
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;

    if (make_private(data_dirfd, e) < 0)
        return -1;
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d/" DB_NAME, data_dirfd);
    if (sqlite3_open_v2(path, &store->db, flags, NULL) != SQLITE_OK ||
        sqlite3_busy_timeout(store->db, BUSY_TIMEOUT_MS) != SQLITE_OK ||
        sqlite3_exec(store->db, settings, NULL, NULL, NULL) != SQLITE_OK)
        return sql_err(store->db, "open", e);
    if (schema_check_and_migrate(store->db, e) < 0)
        return -1;
    return dir_sync(data_dirfd, e);
}

static int start_writer(struct store *store, struct err *e)
{
    int rc = thread_start(&store->writer, STACK_BYTES, writer, store);

    return rc == 0 ? 0 : err_set(e, ERR_LIMIT, "start the writer thread: %s", strerror(rc));
}

static void release_store(struct store *store)
{
    for (size_t i = 0; i < MAX_STATEMENTS; i++)
        (void)sqlite3_finalize(store->statements[i].st);
    (void)sqlite3_close(store->db);
    pthread_mutex_destroy(&store->db_lock);
    pthread_mutex_destroy(&store->lock);
    pthread_cond_destroy(&store->wake);
    free(store);
}

struct store *store_open(int data_dirfd, struct err *e)
{
    struct store *store = mem_new(struct store);

    pthread_mutex_init(&store->db_lock, NULL);
    pthread_mutex_init(&store->lock, NULL);
    pthread_cond_init(&store->wake, NULL);
    store->queue_end = &store->queue;
    if (open_db(store, data_dirfd, e) < 0 || start_writer(store, e) < 0) {
        err_wrap(e, DB_NAME);
        release_store(store);
        return NULL;
    }
    return store;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    pthread_mutex_lock(&store->lock);
    store->closing = true;
    pthread_cond_signal(&store->wake);
    pthread_mutex_unlock(&store->lock);
    pthread_join(store->writer, NULL);
    release_store(store);
}
