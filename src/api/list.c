/* SPDX-License-Identifier: Apache-2.0 */
#include "api/list.h"

#include <stdlib.h>
#include <string.h>

#include "api/view.h"
#include "base/clock.h"
#include "base/mem.h"

enum { STALE_US = 100 * 1000 };

/* What clients that do not read may pin, all together. */
static const size_t ALL_BYTES_MAX = 512UL << 20;
static size_t all_bytes;

static size_t size_of(const struct list_view *v)
{
    return v->len + v->n * sizeof(*v->places);
}

void list_release(struct list_view *v)
{
    if (!v || --v->refs > 0)
        return;
    all_bytes -= size_of(v);
    free(v->places);
    free(v->json);
    free(v);
}

/* --- making one --- */

struct rows {
    struct instance **v; /* with text */
    size_t n;
    size_t room;
    size_t bytes;
};

static void take_row(struct rows *rows, const struct instance_table *t, struct instance *row)
{
    if (rows->n == rows->room) {
        rows->room = rows->room ? rows->room * 2 : 256;
        rows->v = mem_realloc(rows->v, rows->room * sizeof(struct instance *));
    }
    rows->v[rows->n++] = row;
    rows->bytes += instance_text(t, row)->len + 1;
}

static bool is_chosen(const struct list_choice *choice, const struct instance *row)
{
    return row->published && (!choice->passes || choice->passes(choice->arg, row));
}

static void collect(struct rows *rows, const struct instance_table *t,
                    const struct list_choice *choice)
{
    size_t limit = choice->limit ? choice->limit : SIZE_MAX;

    if (choice->by_id) {
        for (size_t i = choice->after ? table_after(t, choice->after) : 0;
             i < t->n_sorted && rows->n < limit;
             i++) {
            if (is_chosen(choice, t->sorted[i]))
                take_row(rows, t, t->sorted[i]);
        }
        return;
    }
    for (struct list *l = t->order.next; l != &t->order && rows->n < limit; l = l->next) {
        struct instance *row = container_of(l, struct instance, order);

        if (is_chosen(choice, row))
            take_row(rows, t, row);
    }
}

static void join(struct list_view *v, const struct rows *rows)
{
    char *at = v->json;

    *at++ = '[';
    for (size_t i = 0; i < rows->n; i++) {
        const struct row_text *text = rows->v[i]->text;

        if (i > 0)
            *at++ = ',';
        memcpy(at, text->json, text->len);
        v->places[i] = (struct list_place){
            .row = rows->v[i],
            .at = (uint32_t)(at - v->json),
            .len = text->len,
        };
        memcpy(v->places[i].id, rows->v[i]->id, ID_SIZE);
        at += text->len;
    }
    *at++ = ']';
    *at = '\0';
    v->len = (size_t)(at - v->json);
}

static void bring_up_to_date(struct list_view *v, int64_t now_us)
{
    for (size_t i = 0; i < v->n; i++) {
        struct list_place *p = &v->places[i];

        row_text_put_phase(v->json + p->at, p->row, now_us);
        if (p->observed_us != p->row->observed_us) {
            row_text_put_observed(v->json + p->at, p->row);
            p->observed_us = p->row->observed_us;
        }
    }
    v->as_of_us = now_us;
}

struct list_view *list_choose(const struct instance_table *t, const struct list_choice *choice,
                              struct err *e)
{
    struct rows rows = {0};
    struct list_view *v;

    collect(&rows, t, choice);
    if (all_bytes + rows.bytes > ALL_BYTES_MAX || rows.bytes > UINT32_MAX - 2) {
        free(rows.v);
        err_set(e, ERR_LIMIT, "too many long lists are being read; ask with limit, or again later");
        return NULL;
    }
    v = mem_new(struct list_view);
    v->refs = 1;
    v->revision = t->journal.revision;
    v->n = rows.n;
    v->json = mem_realloc(NULL, rows.bytes + 3);
    v->places = mem_realloc(NULL, rows.n * sizeof(*v->places) + 1);
    join(v, &rows);
    free(rows.v);
    all_bytes += size_of(v);
    bring_up_to_date(v, wall_us());
    return v;
}

/* --- the one that everybody shares --- */

struct list_view *list_take(struct lists *l, const struct instance_table *t, struct err *e)
{
    int64_t now_us = wall_us();
    struct list_view *v = l->whole;
    bool is_current = v && v->revision == t->journal.revision;
    bool is_lent = v && v->refs > 1;

    if (is_current && !is_lent) {
        bring_up_to_date(v, now_us);
    } else if (!is_current || now_us - v->as_of_us > STALE_US || now_us < v->as_of_us) {
        list_release(v);
        l->whole = v = list_choose(t, &(struct list_choice){0}, e);
        if (!v)
            return NULL;
    }
    v->refs++;
    return v;
}

void lists_free(struct lists *l)
{
    list_release(l->whole);
    l->whole = NULL;
}
