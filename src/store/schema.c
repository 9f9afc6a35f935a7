/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/parse.h"
#include "store/sql.h"

/*
 * Step n takes a database from version n to n + 1. A step that was released is
 * never edited: what is wrong with it is put right by a later one.
 */
static const char *const steps[] = {
    "CREATE TABLE instances(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " name TEXT NOT NULL UNIQUE, spec TEXT NOT NULL, state TEXT NOT NULL) STRICT;"
    "CREATE TABLE images(name TEXT NOT NULL PRIMARY KEY, digest TEXT NOT NULL, doc TEXT NOT NULL)"
    " STRICT, WITHOUT ROWID;"
    "CREATE TABLE meta(key TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID;",
};
enum { N_STEPS = sizeof(steps) / sizeof(steps[0]) };

static int exec(sqlite3 *db, const char *sql, struct err *e)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : sql_err(db, "prepare it", e);
}

/* The first column of the first row. */
static int ask(sqlite3 *db, const char *sql, char *answer, size_t size, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);

    if (rc == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
        (void)sqlite3_snprintf((int)size, answer, "%s", sql_text(st, 0));
    rc = sqlite3_finalize(st);
    return rc == SQLITE_OK ? 0 : sql_err(db, "read it", e);
}

static int check(sqlite3 *db, struct err *e)
{
    char answer[200] = "";

    if (ask(db, "PRAGMA quick_check(1)", answer, sizeof(answer), e) < 0)
        return -1;
    if (strcmp(answer, "ok") != 0)
        return err_set(e, ERR_INTERNAL, "it is damaged (%s): put back a copy of it", answer);
    return 0;
}

static int take_step(sqlite3 *db, int from, struct err *e)
{
    char set_version[48];
    struct err ignored = {0};

    (void)sqlite3_snprintf(
        sizeof(set_version), set_version, "PRAGMA user_version = %d; COMMIT", from + 1);
    if (exec(db, "BEGIN IMMEDIATE", e) == 0 && exec(db, steps[from], e) == 0 &&
        exec(db, set_version, e) == 0)
        return 0;
    if (!sqlite3_get_autocommit(db))
        (void)exec(db, "ROLLBACK", &ignored);
    return err_wrap(e, "migrate it from version %d", from);
}

int schema_check_and_migrate(sqlite3 *db, struct err *e)
{
    char answer[24] = "";
    uint64_t found;
    int version;

    if (ask(db, "PRAGMA user_version", answer, sizeof(answer), e) < 0)
        return -1;
    if (!parse_u64(answer, 0, INT32_MAX, &found))
        return err_set(e, ERR_INTERNAL, "its version, %s, is none of ours", answer);
    version = (int)found;
    if (version > N_STEPS)
        return err_set(e,
                       ERR_UNSUPPORTED,
                       "a newer hypeman wrote it (version %d, this one knows up to %d):"
                       " run that one again",
                       version,
                       N_STEPS);
    if (check(db, e) < 0)
        return -1;
    for (; version < N_STEPS; version++) {
        if (take_step(db, version, e) < 0)
            return -1;
    }
    return 0;
}
