/* SPDX-License-Identifier: Apache-2.0 */
#include "store/sql.h"

/* A replaced row keeps its place in the order of creation. */
static const char put[] = "INSERT INTO instances(id, name, spec, state) VALUES(?1, ?2, ?3, ?4)"
                          " ON CONFLICT(id) DO UPDATE SET name = ?2, spec = ?3, state = ?4";
static const char put_state[] = "UPDATE instances SET state = ?2 WHERE id = ?1";
static const char delete[] = "DELETE FROM instances WHERE id = ?1";
static const char all[] = "SELECT id, name, spec, state FROM instances ORDER BY seq";

void instances_put(struct store_change *c, const struct instance_record *r)
{
    change_add(c,
               &(struct write){
                   .sql = put, .values = {r->id, r->name, r->spec, r->state}, .unique = r->name});
}

void instances_put_state(struct store_change *c, const char *id, const char *state)
{
    change_add(c, &(struct write){.sql = put_state, .values = {id, state}, .must_match = true});
}

void instances_delete(struct store_change *c, const char *id)
{
    change_add(c, &(struct write){.sql = delete, .values = {id}});
}

struct each {
    int (*fn)(void *arg, const struct instance_record *r, struct err *e);
    void *arg;
};

static int on_row(void *arg, sqlite3_stmt *at, struct err *e)
{
    const struct each *each = arg;
    struct instance_record r = {
        .id = sql_text(at, 0),
        .name = sql_text(at, 1),
        .spec = sql_text(at, 2),
        .state = sql_text(at, 3),
    };

    return each->fn(each->arg, &r, e);
}

int store_each_instance(struct store *store,
                        int (*fn)(void *arg, const struct instance_record *r, struct err *e),
                        void *arg, struct err *e)
{
    return sql_each(store, all, NULL, on_row, &(struct each){fn, arg}, e);
}
