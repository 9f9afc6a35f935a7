/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/list.h"
#include "api/view.h"
#include "base/clock.h"
#include "base/jout.h"
#include "base/mem.h"
#include "base/parse.h"

/*
 * GET /instances and GET /instances/{id}: answered from the table, as it is. What is
 * old in it is asked for afterwards, when the answer is out, unless the client wants
 * to wait for that (fresh=true), which takes PROBE_BOUND_MS at most.
 */

enum { VIEW_MAX = 8 << 20, MAX_TAGS = 50, MAX_LIMIT = 1000000, ETAG_SIZE = 32 };

struct reading {
    struct prober_wait wait;
    struct call *call;
    struct trace trace;
    bool is_fresh;

    /* Of a list. */
    bool by_state;
    enum vm_state state;
    struct tag tags[MAX_TAGS];
    size_t n_tags;
    char *after;
    size_t limit;
    struct err err;
};

static void reading_free(struct reading *r)
{
    for (size_t i = 0; i < r->n_tags; i++) {
        free(r->tags[i].key);
        free(r->tags[i].value);
    }
    free(r->after);
    free(r);
}

static bool take_bool(struct reading *r, const char *key, const char *value, bool *out)
{
    *out = strcmp(value, "true") == 0;
    if (!*out && *value && strcmp(value, "false") != 0 && r->err.code == ERR_NONE)
        err_set(&r->err, ERR_INVALID, "%s must be true or false", key);
    return *out;
}

static void take_tag(struct reading *r, const char *key, size_t n, const char *value)
{
    struct tag *tag = &r->tags[r->n_tags];

    if (r->n_tags == MAX_TAGS) {
        if (r->err.code == ERR_NONE)
            err_set(&r->err, ERR_INVALID, "more than %d tags to filter by", MAX_TAGS);
        return;
    }
    tag->key = mem_strdup(key);
    tag->key[n] = '\0';
    tag->value = mem_strdup(value);
    r->n_tags++;
}

/* "tags[key]=value", any number of them; all must hold. What is empty is not there. */
static void take_query(void *arg, const char *key, const char *value)
{
    struct reading *r = arg;
    size_t n = strlen(key);
    uint64_t limit = 0;

    if (n >= 7 && strncmp(key, "tags[", 5) == 0 && key[n - 1] == ']') {
        take_tag(r, key + 5, n - 6, value);
    } else if (strcmp(key, "fresh") == 0) {
        (void)take_bool(r, key, value, &r->is_fresh);
    } else if (!*value || r->err.code != ERR_NONE) {
        return;
    } else if (strcmp(key, "state") == 0) {
        r->by_state = true;
        if (!vm_state_parse(value, &r->state))
            err_set(&r->err, ERR_INVALID, "state \"%.40s\" is not one", value);
    } else if (strcmp(key, "limit") == 0) {
        if (!parse_u64(value, 1, MAX_LIMIT, &limit))
            err_set(&r->err, ERR_INVALID, "limit must be a number from 1 to %d", MAX_LIMIT);
        r->limit = limit;
    } else if (strcmp(key, "after") == 0) {
        free(r->after);
        r->after = mem_strdup(value);
        if (!id_is_valid(value))
            err_set(&r->err, ERR_INVALID, "after must be the id of an instance");
    }
}

static bool passes(const void *arg, const struct instance *row)
{
    const struct reading *r = arg;

    if (r->by_state && row->run.state != r->state)
        return false;
    for (size_t i = 0; i < r->n_tags; i++) {
        if (!spec_has_tag(row->spec, r->tags[i].key, r->tags[i].value))
            return false;
    }
    return true;
}

/* --- the list --- */

/* Once the last byte is out: only now is anybody asked. */
struct lent {
    struct list_view *view;
    struct prober *prober;
};

static void list_sent(void *arg)
{
    struct lent *lent = arg;

    list_release(lent->view);
    prober_soon(lent->prober);
    free(lent);
}

static bool is_known(const struct call *c, const char *etag)
{
    const char *seen = http_header(c->http, "If-None-Match");
    const char *opaque = etag + 2; /* weak comparison: without the W/ */

    return seen && (strstr(seen, opaque) || strcmp(seen, "*") == 0);
}

static struct list_view *take_rows(struct call *c, const struct reading *r, struct err *e)
{
    const struct instance_table *t = &c->api->world->table;
    bool is_paged = r->limit > 0 || r->after;
    struct list_choice choice = {
        .passes = r->by_state || r->n_tags > 0 ? passes : NULL,
        .arg = r,
        .after = r->after,
        .limit = r->limit,
        .by_id = is_paged,
    };

    if (!choice.passes && !is_paged)
        return list_take(&c->api->lists, t, e);
    return list_choose(t, &choice, e);
}

static void answer_list(struct reading *r)
{
    struct call *c = r->call;
    struct prober *prober = &c->api->world->prober;
    struct lent *lent;
    struct err e = {0};
    char etag[ETAG_SIZE];
    struct list_view *v;
    struct prober_count count = prober_read_all(prober);

    trace_count(&r->trace, "hypervisor_state.cache_hit", count.hits);
    trace_count(&r->trace, "hypervisor_state.cache_miss", count.misses);
    (void)snprintf(etag,
                   sizeof(etag),
                   "W/\"%llu\"",
                   (unsigned long long)c->api->world->table.journal.revision);
    http_add_header(c->http, "ETag", etag);
    if (is_known(c, etag)) {
        call_reply_empty(c, 304);
        prober_soon(prober);
        return;
    }
    v = take_rows(c, r, &e);
    if (!v) {
        call_fail(c, &e);
        return;
    }
    trace_count(&r->trace, "count", (int64_t)v->n);
    lent = mem_new(struct lent);
    lent->view = v;
    lent->prober = prober;
    http_reply_shared(
        c->http, 200, "application/json", &(struct http_shared){v->json, v->len, list_sent, lent});
    call_done(c);
}

/* --- one --- */

/* Beside what every answer shows: the question itself. */
static void put_last_probe(struct buf *out, const struct instance *row)
{
    struct jout j = JOUT(out);
    char at[TIME_TEXT_SIZE];

    if (!row->question)
        return;
    out->len--; /* opens the object again */
    j.comma = true;
    jout_open(&j, "last_probe", '{');
    jout_str(&j, "result", probe_result_name(row->probe.result));
    jout_str(&j, "at", row->probed_us ? time_text(row->probed_us, at) : NULL);
    jout_close(&j, '}');
    jout_close(&j, '}');
}

static void answer_one(struct reading *r)
{
    struct call *c = r->call;
    struct prober *prober = &c->api->world->prober;
    struct buf json = BUF(VIEW_MAX);

    (void)prober_read(prober, c->row);
    instance_view(&json, &c->api->world->table, c->row);
    if (buf_ok(&json))
        put_last_probe(&json, c->row);
    call_reply(c, 200, &json);
    prober_soon(prober);
}

/* --- both --- */

static void answer(struct reading *r)
{
    struct vm_world *w = r->call->api->world;

    if (r->call->row)
        answer_one(r);
    else
        answer_list(r);
    trace_finish(&w->reads, &r->trace, false);
    reading_free(r);
}

static void is_asked(struct prober_wait *wait)
{
    struct reading *r = container_of(wait, struct reading, wait);
    struct call *c = r->call;

    http_on_gone(c->http, NULL, NULL);
    if (r->trace.subject[0]) {
        c->row = table_by_id(&c->api->world->table, r->trace.subject);
        if (!c->row) {
            reading_free(r);
            call_fail_with(c, ERR_NOT_FOUND, NULL, "the instance was deleted meanwhile");
            return;
        }
    }
    answer(r);
}

static void client_gone(void *arg)
{
    struct reading *r = arg;
    struct call *c = r->call;

    prober_wait_cancel(&r->wait);
    reading_free(r);
    call_reply_empty(c, 200); /* sends nothing; lets go of the request */
}

static void ask_first(struct reading *r)
{
    struct call *c = r->call;
    struct prober *prober = &c->api->world->prober;

    prober_wait_init(prober, &r->wait, is_asked);
    if (c->row)
        prober_wait_add(&r->wait, c->row);
    for (struct list *l = prober->all.next; !c->row && l != &prober->all; l = l->next) {
        struct instance *row = container_of(l, struct question, all)->row;

        if (row->published && passes(r, row))
            prober_wait_add(&r->wait, row);
    }
    http_on_gone(c->http, client_gone, r);
    prober_wait_start(&r->wait);
}

static void read_rows(struct call *c, const char *span)
{
    struct reading *r = mem_new(struct reading);

    r->call = c;
    trace_begin(&r->trace, span, c->row ? c->row->id : "");
    http_each_query(c->http, take_query, r);
    if (r->err.code != ERR_NONE) {
        err_slug(&r->err, "Bad Request");
        call_fail(c, &r->err);
        reading_free(r);
    } else if (r->is_fresh) {
        ask_first(r);
    } else {
        answer(r);
    }
}

void api_instances_list(struct call *c)
{
    read_rows(c, "instances.list");
}

void api_instances_get(struct call *c)
{
    read_rows(c, "instances.get");
}
