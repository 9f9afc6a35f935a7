/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/watch.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/session.h"
#include "cli/sse.h"
#include "cli/text.h"

struct watching {
    const struct watch_sink *sink;
    struct sse events;
    json_t *rows;
    bool is_complete;
    bool has_news;
};

static int take_event(void *ctx, const char *data, size_t len, struct err *e)
{
    struct watching *w = ctx;
    json_auto_t *event = json_loadb(data, len, JSON_ALLOW_NUL, NULL);
    const char *type = text_of(event, "type");
    const char *id = text_of(event, "id");
    json_t *row = json_object_get(event, "instance");

    if (!event)
        return err_set(e, ERR_INTERNAL, "the daemon sent an event that is no JSON");
    if (strcmp(type, "reset") == 0) {
        json_object_clear(w->rows);
        w->is_complete = false;
        return 0;
    }
    if (strcmp(type, "deleted") == 0)
        json_object_del(w->rows, id);
    else if (row && *id)
        json_object_set(w->rows, id, row);
    if (w->is_complete && w->sink->change)
        w->sink->change(w->sink->ctx, event);
    w->is_complete = w->is_complete || strcmp(type, "synced") == 0;
    w->has_news = w->is_complete;
    return 0;
}

static int take_data(void *ctx, const char *data, size_t len, struct err *e)
{
    struct watching *w = ctx;

    if (sse_feed(&w->events, data, len, e) < 0)
        return -1;
    if (w->has_news)
        w->sink->show(w->sink->ctx, w->rows);
    w->has_news = false;
    return fflush(stdout) == 0 ? 0 : err_errno(e, "write to standard output");
}

int watch_instances(const struct watch_sink *sink, struct err *e)
{
    const struct op head = session_op(SESSION_CALL_MS);
    const struct op forever = session_op(INT64_MAX);
    const struct client_request request = {"GET", "/events", NULL};
    struct watching w = {.sink = sink, .rows = json_object()};
    const struct response_sink body = {take_data, &w};
    auto_exchange struct exchange x = EXCHANGE;

    sse_init(&w.events, take_event, &w);
    if (session_send(&head, &x, &request, e) == 0 && session_head(&head, &x, e) == 0 &&
        client_body(&forever, &x, &body, e) == 0)
        err_set(e, ERR_INTERNAL, "the daemon has ended the watch");
    sse_fini(&w.events);
    json_decref(w.rows);
    return -1;
}
