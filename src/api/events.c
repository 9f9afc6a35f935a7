/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>

#include "api/handlers.h"
#include "api/list.h"
#include "base/jout.h"
#include "base/mem.h"
#include "base/parse.h"

/*
 * GET /events: every change of a row, once and in order, as server-sent events.
 *
 * The journal is the queue of all watchers, so a slow one costs its stream's buffer
 * and no more; one that falls behind the journal's end starts anew. Whatever starts
 * gets all rows as they are at one revision, out of the same buffer as a list, and
 * from there on the changes.
 */

enum { BUFFERED_MAX = 2 << 20, WATCHERS_MAX = 512 };

struct watcher {
    struct follower follower;
    struct api *api;
    struct http_stream *http;
    uint64_t next;            /* revision to send */
    struct list_view *rest;   /* all rows, while they are being sent; NULL */
    size_t n_sent;            /* of them */
    const char *reset_reason; /* to be sent before them; NULL */
};

static unsigned n_watchers;

static void end(struct watcher *w)
{
    prober_unwatch(&w->api->world->prober);
    journal_unfollow(&w->follower);
    list_release(w->rest);
    if (w->http)
        http_stream_close(w->http);
    n_watchers--;
    free(w);
}

/* --- one event; false when the client has to take some first --- */

struct shown {
    uint64_t revision;
    const char *type;
    const char *id; /* NULL for none, as the next two */
    const char *reason;
    const char *row;
    size_t row_len;
};

static bool send_event(struct watcher *w, const struct shown *s)
{
    struct buf out = BUF(BUFFERED_MAX);
    struct jout j = JOUT(&out);
    bool sent;

    buf_puts(&out, "data: ");
    jout_open(&j, NULL, '{');
    jout_int(&j, "revision", (int64_t)s->revision);
    jout_str(&j, "type", s->type);
    if (s->id)
        jout_str(&j, "id", s->id);
    if (s->reason)
        jout_str(&j, "reason", s->reason);
    if (s->row) {
        buf_puts(&out, ",\"instance\":");
        buf_append(&out, s->row, s->row_len);
    }
    jout_close(&j, '}');
    buf_puts(&out, "\n\n");
    sent = http_stream_write(w->http, buf_str(&out), out.len) == 0;
    buf_free(&out);
    return sent;
}

static bool send_change(struct watcher *w, const struct event *e)
{
    const struct shown s = {
        .revision = e->revision,
        .type = event_kind_name(e->kind),
        .id = e->id,
        .row = e->row ? e->row->json : NULL,
        .row_len = e->row ? e->row->len : 0,
    };

    if (!send_event(w, &s))
        return false;
    w->next++;
    return true;
}

/* The next of all rows, or what stands before and behind them. */
static bool send_rest(struct watcher *w)
{
    struct list_view *v = w->rest;
    struct shown s = {.revision = v->revision};

    if (w->reset_reason) {
        s.type = "reset";
        s.reason = w->reset_reason;
    } else if (w->n_sent < v->n) {
        s.type = "existing";
        s.row = v->json + v->places[w->n_sent].at;
        s.row_len = v->places[w->n_sent].len;
        s.id = v->places[w->n_sent].id;
    } else {
        s.type = "synced";
    }
    if (!send_event(w, &s))
        return false;
    if (w->reset_reason) {
        w->reset_reason = NULL;
    } else if (w->n_sent++ == v->n) {
        list_release(v);
        w->rest = NULL;
    }
    return true;
}

static int start_anew(struct watcher *w, const char *reason, struct err *e)
{
    w->rest = list_take(&w->api->lists, &w->api->world->table, e);
    if (!w->rest)
        return -1;
    w->n_sent = 0;
    w->reset_reason = reason;
    w->next = w->rest->revision + 1;
    return 0;
}

/* Sends what there is and the client takes. False: it has come to an end. */
static bool pump(struct watcher *w)
{
    const struct journal *journal = &w->api->world->table.journal;
    struct err e = {0};
    bool takes = true;

    while (takes && (w->rest || w->next <= journal->revision)) {
        const struct event *event = w->rest ? NULL : journal_at(journal, w->next);

        if (w->rest)
            takes = send_rest(w);
        else if (event)
            takes = send_change(w, event);
        else if (start_anew(w, "this client is too far behind", &e) < 0)
            return false;
    }
    return true;
}

static void on_change(struct follower *f)
{
    struct watcher *w = container_of(f, struct watcher, follower);

    if (!pump(w))
        end(w);
}

static void on_drained(void *arg)
{
    if (!pump(arg))
        end(arg);
}

static void on_gone(void *arg)
{
    end(arg);
}

static int begin(struct watcher *w, const char *since, struct err *e)
{
    const struct journal *journal = &w->api->world->table.journal;
    uint64_t revision = 0;

    if (n_watchers >= WATCHERS_MAX)
        return err_set(e, ERR_LIMIT, "%d watch already; try again later", WATCHERS_MAX);
    if (since && *since && !parse_u64(since, 0, INT64_MAX, &revision)) {
        err_set(e, ERR_INVALID, "since must be a revision, which is a number");
        return err_slug(e, "Bad Request");
    }
    if (!since || !*since)
        return start_anew(w, "this is all there is", e);
    if (!journal_reaches(journal, revision))
        return start_anew(w, "the revision is too old", e);
    w->next = revision + 1;
    return 0;
}

void api_events(struct call *c)
{
    struct watcher *w = mem_new(struct watcher);
    struct http_stream_events events = {.gone = on_gone, .drained = on_drained, .arg = w};
    struct err e = {0};

    w->api = c->api;
    w->follower.fn = on_change;
    if (begin(w, http_query(c->http, "since"), &e) < 0) {
        free(w);
        call_fail(c, &e);
        return;
    }
    n_watchers++;
    w->http = http_stream_open(c->http, "text/event-stream", BUFFERED_MAX, &events);
    journal_follow(&w->api->world->table.journal, &w->follower);
    prober_watch(&w->api->world->prober);
    call_done(c);
    if (!pump(w))
        end(w);
}
