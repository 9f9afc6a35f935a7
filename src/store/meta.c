/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>

#include "store/sql.h"

/* max(): whatever order two writers come in, the number does not go back. */
static const char put[] = "INSERT INTO meta(key, value) VALUES(?1, CAST(?2 AS INTEGER))"
                          " ON CONFLICT(key) DO UPDATE SET value ="
                          " max(value, CAST(?2 AS INTEGER))";
static const char one[] = "SELECT value FROM meta WHERE key = ?1";

void meta_put(struct store_change *c, const char *key, int64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%" PRId64, value);
    change_add(c, &(struct write){.sql = put, .values = {key, text}});
}

static int on_row(void *arg, sqlite3_stmt *at, struct err *e)
{
    (void)e;
    *(int64_t *)arg = sqlite3_column_int64(at, 0);
    return 0;
}

int store_meta(struct store *store, const char *key, int64_t otherwise, int64_t *out, struct err *e)
{
    int64_t value = otherwise;

    if (sql_each(store, one, key, on_row, &value, e) < 0)
        return -1;
    *out = value;
    return 0;
}
