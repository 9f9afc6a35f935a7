/* SPDX-License-Identifier: Apache-2.0 */
#include "store/sql.h"

static const char put[] = "INSERT INTO images(name, digest, doc) VALUES(?1, ?2, ?3)"
                          " ON CONFLICT(name) DO UPDATE SET digest = ?2, doc = ?3";
static const char delete[] = "DELETE FROM images WHERE name = ?1";
static const char all[] = "SELECT name, digest, doc FROM images ORDER BY name";

void images_put(struct store_change *c, const struct image_record *r)
{
    change_add(c, &(struct write){.sql = put, .values = {r->name, r->digest, r->doc}});
}

void images_delete(struct store_change *c, const char *name)
{
    change_add(c, &(struct write){.sql = delete, .values = {name}});
}

struct each {
    int (*fn)(void *arg, const struct image_record *r, struct err *e);
    void *arg;
};

static int on_row(void *arg, sqlite3_stmt *at, struct err *e)
{
    const struct each *each = arg;
    struct image_record r = {
        .name = sql_text(at, 0),
        .digest = sql_text(at, 1),
        .doc = sql_text(at, 2),
    };

    return each->fn(each->arg, &r, e);
}

int store_each_image(struct store *store,
                     int (*fn)(void *arg, const struct image_record *r, struct err *e), void *arg,
                     struct err *e)
{
    return sql_each(store, all, NULL, on_row, &(struct each){fn, arg}, e);
}
