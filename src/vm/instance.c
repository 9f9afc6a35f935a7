/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/instance.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

void table_init(struct instance_table *t)
{
    *t = (struct instance_table){0};
    list_init(&t->order);
    journal_init(&t->journal);
}

static void row_free(struct instance *row)
{
    assert(!row->holder && !row->preemptor && !row->live && !row->ports &&
           list_empty(&row->waiters));
    spec_unref(row->spec);
    vm_run_free(&row->run);
    row_text_unref(row->text);
    free(row);
}

void table_free(struct instance_table *t)
{
    while (!list_empty(&t->order)) {
        struct instance *row = container_of(t->order.next, struct instance, order);

        list_remove(&row->order);
        row_free(row);
    }
    map_free(&t->ids);
    map_free(&t->names);
    free(t->sorted);
    journal_free(&t->journal);
}

struct row_text *instance_text(const struct instance_table *t, struct instance *row)
{
    if (!row->text)
        row->text = t->show(row);
    return row->text;
}

struct instance *table_reserve(struct instance_table *t, const char *id, struct spec *spec)
{
    struct instance *row = mem_new(struct instance);

    memcpy(row->id, id, strlen(id) + 1);
    row->spec = spec;
    row->observed_us = wall_us();
    list_init(&row->waiters);
    map_put(&t->ids, &row->by_id, row->id);
    map_put(&t->names, &row->by_name, spec->name);
    list_append(&t->order, &row->order);
    return row;
}

static void tell_waiters(struct instance *row, const struct instance *shown);

static void tell(struct instance_table *t, struct instance *row, enum event_kind kind)
{
    row_text_unref(row->text);
    row->text = NULL;
    journal_add(&t->journal,
                kind,
                row->id,
                t->show && t->journal.is_open ? row_text_ref(instance_text(t, row)) : NULL);
    tell_waiters(row, row);
}

/* The place of the first sorted id that is not less. */
static size_t place_of(const struct instance_table *t, const char *id)
{
    size_t low = 0;
    size_t high = t->n_sorted;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (strcmp(t->sorted[middle]->id, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void table_publish(struct instance_table *t, struct instance *row)
{
    size_t at = place_of(t, row->id);

    assert(!row->published);
    if (t->n_sorted == t->sorted_room) {
        t->sorted_room = t->sorted_room ? t->sorted_room * 2 : 64;
        t->sorted = mem_realloc(t->sorted, t->sorted_room * sizeof(struct instance *));
    }
    memmove(&t->sorted[at + 1], &t->sorted[at], (t->n_sorted - at) * sizeof(struct instance *));
    t->sorted[at] = row;
    t->n_sorted++;
    row->published = true;
    tell(t, row, EVENT_CREATED);
}

static void tell_waiters(struct instance *row, const struct instance *shown)
{
    struct list due;

    /* A waiter may go, or bring others: each that was there is told once. */
    list_init(&due);
    while (!list_empty(&row->waiters)) {
        struct list *l = row->waiters.next;

        list_remove(l);
        list_append(&due, l);
    }
    while (!list_empty(&due)) {
        struct instance_waiter *w = container_of(due.next, struct instance_waiter, link);

        list_remove(&w->link);
        if (shown)
            list_append(&row->waiters, &w->link);
        w->fn(w, shown);
    }
}

void table_remove(struct instance_table *t, struct instance *row)
{
    if (row->published) {
        size_t at = place_of(t, row->id);

        memmove(
            &t->sorted[at], &t->sorted[at + 1], (t->n_sorted - at - 1) * sizeof(struct instance *));
        t->n_sorted--;
        journal_add(&t->journal, EVENT_DELETED, row->id, NULL);
    }
    map_remove(&t->ids, &row->by_id);
    map_remove(&t->names, &row->by_name);
    list_remove(&row->order);
    tell_waiters(row, NULL);
    row_free(row);
}

size_t table_after(const struct instance_table *t, const char *id)
{
    size_t at = place_of(t, id);

    return at < t->n_sorted && strcmp(t->sorted[at]->id, id) == 0 ? at + 1 : at;
}

bool table_name_is_taken(const struct instance_table *t, const char *name)
{
    return map_find(&t->names, name) != NULL;
}

struct instance *table_by_id(const struct instance_table *t, const char *id)
{
    struct map_link *l = map_find(&t->ids, id);

    return l ? container_of(l, struct instance, by_id) : NULL;
}

struct instance *table_resolve(const struct instance_table *t, const char *text, struct err *e)
{
    struct instance *row = table_by_id(t, text);
    struct map_link *l;
    size_t n = strlen(text);
    size_t at;

    if (row && row->published)
        return row;
    l = map_find(&t->names, text);
    if (l && container_of(l, struct instance, by_name)->published)
        return container_of(l, struct instance, by_name);
    at = place_of(t, text);
    if (n == 0 || at == t->n_sorted || strncmp(t->sorted[at]->id, text, n) != 0) {
        err_set(e, ERR_NOT_FOUND, "resource not found");
        return NULL;
    }
    if (at + 1 < t->n_sorted && strncmp(t->sorted[at + 1]->id, text, n) == 0) {
        err_set(e, ERR_EXISTS, "multiple resources match, use full ID");
        err_slug(e, "ambiguous");
        return NULL;
    }
    return t->sorted[at];
}

void instance_changed(struct instance_table *t, struct instance *row)
{
    if (row->published)
        tell(t, row, EVENT_UPDATED);
}

void instance_wait(struct instance *row, struct instance_waiter *w)
{
    list_append(&row->waiters, &w->link);
}

void instance_unwait(struct instance_waiter *w)
{
    list_remove(&w->link);
}

void instance_set_spec(struct instance_table *t, struct instance *row, struct spec *spec)
{
    assert(strcmp(row->spec->name, spec->name) == 0);
    map_remove(&t->names, &row->by_name); /* its key lives in the old spec */
    spec_unref(row->spec);
    row->spec = spec;
    map_put(&t->names, &row->by_name, spec->name);
}
