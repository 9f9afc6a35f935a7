/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of store/ share: a change is a list of writes, a write is one
 * SQL statement with text values. Nobody outside this folder includes it.
 *
 * SQL texts are static arrays. Each is prepared once and found again by its
 * address, so a table's file holds its SQL and nothing has to list it twice.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <sqlite3.h>

#include "base/err.h"
#include "store/store.h"

enum { MAX_VALUES = 4 };

struct write {
    const char *sql;
    const char *values[MAX_VALUES]; /* bound to ?1, ?2, ... up to the first NULL */
    const char *unique;             /* the one of them that may be taken: ERR_EXISTS */
    bool must_match;                /* no row changed is ERR_NOT_FOUND */
};

/* Copies the values. */
void change_add(struct store_change *c, const struct write *w);

typedef int sql_row_fn(void *arg, sqlite3_stmt *at, struct err *e);

/* Calls row for each row of a query. key is bound to ?1 and may be NULL. Start-up only. */
int sql_each(struct store *store, const char *sql, const char *key, sql_row_fn *row, void *arg,
             struct err *e);

const char *sql_text(sqlite3_stmt *at, int column); /* of a NOT NULL column; valid for this row */

/* Fills in e from the connection's last error. Returns -1. */
int sql_err(sqlite3 *db, const char *doing, struct err *e);

/* schema.c: brings a database to the version this program knows, or refuses it. */
int schema_check_and_migrate(sqlite3 *db, struct err *e);
