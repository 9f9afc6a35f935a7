/* SPDX-License-Identifier: Apache-2.0 */
#include "api/guest_socket.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"

enum {
    PATIENCE_MS = 30 * 1000,
    LEAVE_MS = 30 * 1000,
    /* A piece, what comes behind a pause, and a text that is input. */
    KEPT_MAX = WS_PIECE_MAX + WS_AFTER_PAUSE + WEBSOCKET_TEXT_MAX,
};

static void finish_trace(struct guest_socket *s)
{
    if (s->trace.n == 0)
        return; /* it never was a socket */
    trace_count(&s->trace, "bytes_transferred", (int64_t)s->bytes);
    trace_count(&s->trace, "success", s->succeeded);
    trace_finish(&s->world->sessions, &s->trace, !s->succeeded);
}

static void let_go(struct guest_socket *s)
{
    loop_timer_stop(s->world->loop, &s->patience);
    finish_trace(s);
    guest_close(s->guest);
    buf_free(&s->kept);
    s->kind->free(s);
}

void guest_socket_finish(struct guest_socket *s, enum ws_code code, const char *how)
{
    log_info("%s in %s (%s) by %s: %s after %" PRId64 " ms",
             s->kind->name,
             s->name,
             s->id,
             s->trace.texts[0].value,
             how,
             (clock_us() - s->trace.spans[0].start_us) / 1000);
    websocket_close(s->ws, code);
    let_go(s);
}

/* --- towards the client --- */

void guest_socket_send(struct guest_socket *s, enum ws_kind kind, const void *data, size_t len,
                       size_t cost)
{
    if (!websocket_send(s->ws, kind, data, len))
        s->is_full = true;
    if (s->is_full)
        s->owed += cost;
    else if (cost > 0)
        guest_consumed(s->guest, cost);
}

void guest_socket_send_json(struct guest_socket *s, struct buf *json)
{
    guest_socket_send(s, WS_TEXT, buf_str(json), json->len, 0);
    buf_free(json);
}

static void on_drained(void *owner)
{
    struct guest_socket *s = owner;
    size_t owed = s->owed;

    s->is_full = false;
    s->owed = 0;
    if (s->guest && owed > 0)
        guest_consumed(s->guest, owed);
}

/* --- towards the guest --- */

static void end_input_if_due(struct guest_socket *s)
{
    if (!s->input_ended || s->is_input_out || s->kept.len > 0)
        return;
    s->is_input_out = true;
    if (s->kind->input_ended)
        s->kind->input_ended(s);
    else
        guest_end_input(s->guest);
}

void guest_socket_input(struct guest_socket *s, const char *data, size_t len)
{
    size_t taken = 0;

    if (s->input_ended)
        return;
    if (s->kept.len == 0)
        taken = s->kind->input(s, data, len);
    if (taken == len)
        return;
    buf_append(&s->kept, data + taken, len - taken);
    websocket_pause(s->ws);
}

void guest_socket_push(struct guest_socket *s)
{
    size_t taken = s->kept.len > 0 ? s->kind->input(s, s->kept.data, s->kept.len) : 0;

    if (taken < s->kept.len) {
        buf_consume(&s->kept, taken);
        return;
    }
    buf_free(&s->kept);
    websocket_resume(s->ws);
    end_input_if_due(s);
}

void guest_socket_end_input(struct guest_socket *s)
{
    s->input_ended = true;
    end_input_if_due(s);
}

/* --- the beginning --- */

static void refuse(struct guest_socket *s, const struct err *e)
{
    s->kind->refuse(s, e);
    guest_socket_finish(s, WS_NORMAL, e->msg);
}

static int begin(struct guest_socket *s, const char *text, size_t len, struct err *e)
{
    struct instance *row = table_by_id(&s->world->table, s->id);
    json_t *doc;
    int rc;

    if (!row || !row->published)
        return err_set(e, ERR_BAD_STATE, "the instance was deleted meanwhile");
    if (guest_check(row, e) < 0)
        return -1;
    doc = parse_json(text, len, e);
    if (doc && !json_is_object(doc))
        err_set(e, ERR_INVALID, "an object is expected");
    rc = e->code == ERR_NONE ? s->kind->begin(s, row, doc, e) : -1;
    json_decref(doc);
    if (rc < 0 && e->code == ERR_INVALID)
        err_wrap(e, "invalid JSON");
    return rc;
}

static void on_text(void *owner, const char *text, size_t len)
{
    struct guest_socket *s = owner;
    struct err e = {0};

    if (s->has_begun) {
        if (s->kind->text)
            s->kind->text(s, text, len);
        return;
    }
    s->has_begun = true;
    loop_timer_stop(s->world->loop, &s->patience);
    if (begin(s, text, len, &e) < 0)
        refuse(s, &e);
}

static void on_binary(void *owner, const void *data, size_t len)
{
    struct guest_socket *s = owner;
    struct err e = {0};

    if (!s->has_begun) {
        err_set(&e, ERR_INVALID, "first message must be JSON text");
        refuse(s, &e);
    } else if (len == 0) {
        if (s->kind->empty)
            s->kind->empty(s);
    } else if (s->kind->input) {
        guest_socket_input(s, data, len);
    }
}

static void on_patience(struct timer *t)
{
    struct guest_socket *s = container_of(t, struct guest_socket, patience);

    if (s->is_done)
        guest_socket_finish(s, WS_NORMAL, "done");
    else
        guest_socket_finish(s, WS_POLICY, "the client asked for nothing");
}

static void on_gone(void *owner)
{
    struct guest_socket *s = owner;

    guest_socket_finish(s, WS_GOING_AWAY, s->is_done ? "done" : "the client left");
}

void guest_socket_done(struct guest_socket *s)
{
    guest_close(s->guest);
    s->guest = NULL;
    s->is_done = true;
    loop_timer_start(s->world->loop, &s->patience, LEAVE_MS);
}

static void on_hangup(void *owner)
{
    struct guest_socket *s = owner;

    if (!s->kind->survives_hangup)
        on_gone(s);
}

static const struct websocket_events events = {
    .binary = on_binary,
    .text = on_text,
    .drained = on_drained,
    .hangup = on_hangup,
    .closed = on_gone,
};

void guest_socket_open(struct call *c, struct guest_socket *s, const struct guest_socket_kind *kind)
{
    struct err e = {0};

    s->world = c->api->world;
    s->kind = kind;
    s->patience.fn = on_patience;
    s->kept = BUF(KEPT_MAX);
    memcpy(s->id, c->row->id, sizeof(s->id));
    (void)snprintf(s->name, sizeof(s->name), "%s", c->row->spec->name);
    if (guest_check(c->row, &e) == 0) {
        s->ws = websocket_accept(c->http, &events, s, &e);
        if (!s->ws && e.code == ERR_INVALID)
            err_slug(&e, "Bad Request");
    }
    if (!s->ws) {
        let_go(s);
        call_fail(c, &e);
        return;
    }
    trace_begin(&s->trace, kind->span, s->id);
    trace_text(&s->trace, "subject", c->subject);
    loop_timer_start(s->world->loop, &s->patience, PATIENCE_MS);
    call_done(c);
}
