/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/guest.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "vm/agent.h"
#include "vm/guest_mux.h"
#include "vm/instance.h"
#include "vm/live.h"

/* What a client's socket hands over at once, so that a piece of its is not two of ours. */
enum { PIECE_MAX = 32 * 1024 };

struct guest {
    struct loop *loop;
    struct agent *agent; /* that has greeted; NULL while there is none */
    int64_t version;     /* of the protocol, that this one speaks */
    bool is_too_old;     /* it has greeted, and knows no streams */
    uint32_t last_id;
    struct list streams; /* that run in the guest */
    struct list waiting; /* to be begun there, in order */
    size_t n_streams;
};

struct guest_stream {
    struct guest *guest; /* NULL: it is over */
    const struct guest_events *events;
    void *owner;
    struct list link;
    struct timer deadline; /* while it waits */
    enum frame_type type;
    uint32_t id;        /* 0 while it waits */
    struct buf request; /* while it waits */
    uint32_t size[2];   /* of its terminal, if that changed while it waited */
    bool input_is_over;
    uint32_t credit;    /* that the guest has granted us */
    bool wants_room;    /* writable() is due */
    size_t outstanding; /* handed to the caller and not given back */
    uint32_t owed;      /* given back, and not yet granted anew */
    bool *gone;         /* set while a callback runs: tells that the caller has closed */
};

struct guest *guest_new(struct loop *loop)
{
    struct guest *g = mem_new(struct guest);

    g->loop = loop;
    list_init(&g->streams);
    list_init(&g->waiting);
    return g;
}

/* Takes the stream away from the guest. */
static void detach(struct guest_stream *s)
{
    if (!s->guest)
        return;
    list_remove(&s->link);
    loop_timer_stop(s->guest->loop, &s->deadline);
    s->guest->n_streams--;
    s->guest = NULL;
    buf_free(&s->request);
}

/* The last callback; the stream is its caller's alone. */
static void end(struct guest_stream *s, const struct guest_end *how)
{
    detach(s);
    if (s->events->ended)
        s->events->ended(s->owner, how);
}

static void end_with(struct guest_stream *s, const struct err *why)
{
    end(s, &(struct guest_end){.code = GUEST_EXIT_NOT_STARTED, .err = *why});
}

static void end_all(struct list *list, const struct err *why)
{
    while (!list_empty(list))
        end_with(container_of(list->next, struct guest_stream, link), why);
}

void guest_free(struct guest *g, const struct err *why)
{
    if (!g)
        return;
    end_all(&g->streams, why);
    end_all(&g->waiting, why);
    free(g);
}

void guest_lost(struct guest *g, const struct err *why)
{
    g->agent = NULL;
    g->is_too_old = false;
    end_all(&g->streams, why);
}

/* --- to the guest --- */

static bool has_room(const struct guest *g)
{
    return g->agent && agent_out(g->agent)->len < AGENT_BACKLOG;
}

static void put_request(struct guest_stream *s)
{
    struct buf *out = agent_out(s->guest->agent);
    size_t at = 0;

    do {
        size_t n = s->request.len - at < FRAME_MAX ? s->request.len - at : FRAME_MAX;
        bool is_last = at + n == s->request.len;

        frame_put_head(out,
                       (struct frame_head){.type = (uint8_t)s->type,
                                           .flags = is_last ? 0 : FRAME_MORE,
                                           .stream = s->id,
                                           .len = (uint32_t)n});
        buf_append(out, s->request.data + at, n);
        at += n;
    } while (at < s->request.len);
}

/* Begins what waits, as far as there is room. */
static void begin_waiting(struct guest *g)
{
    while (!list_empty(&g->waiting) && has_room(g)) {
        struct guest_stream *s = container_of(g->waiting.next, struct guest_stream, link);

        list_remove(&s->link);
        list_append(&g->streams, &s->link);
        loop_timer_stop(g->loop, &s->deadline);
        s->id = ++g->last_id ? g->last_id : ++g->last_id;
        put_request(s);
        buf_free(&s->request);
        if (s->size[0])
            frame_put_u32s(agent_out(g->agent), FRAME_RESIZE, s->id, s->size[0], s->size[1]);
        if (s->input_is_over)
            frame_put(agent_out(g->agent), FRAME_END_INPUT, s->id, NULL, 0);
        s->credit = window_to_guest(s->type);
    }
    if (g->agent)
        agent_send(g->agent);
}

/* Streams whose callers were refused room are asked again, each once, in turn. */
static void offer_room(struct guest *g)
{
    struct list asked;

    list_init(&asked);
    while (!list_empty(&g->streams) && has_room(g)) {
        struct guest_stream *s = container_of(g->streams.next, struct guest_stream, link);
        bool is_due = s->wants_room && s->credit > 0;

        list_remove(&s->link);
        list_append(&asked, &s->link);
        if (!is_due)
            continue;
        s->wants_room = false;
        if (s->events->writable)
            s->events->writable(s->owner);
    }
    /* Those that were asked go behind the others. */
    while (!list_empty(&asked)) {
        struct list *l = asked.next;

        list_remove(l);
        list_append(&g->streams, l);
    }
}

void guest_drained(struct guest *g)
{
    begin_waiting(g);
    offer_room(g);
}

void guest_greeted(struct guest *g, struct agent *agent, int64_t version)
{
    struct err e = {0};

    g->version = version;
    if (version >= WIRE_STREAMS) {
        g->agent = agent;
        begin_waiting(g);
        offer_room(g);
        return;
    }
    g->is_too_old = true;
    err_set(&e,
            ERR_UNSUPPORTED,
            "the guest's agent (version %" PRId64 ") is older than this; restart the instance",
            version);
    end_all(&g->waiting, &e);
}

static bool is_open(const struct guest_stream *s)
{
    return s->guest && s->id && !s->input_is_over;
}

size_t guest_write(struct guest_stream *s, const void *data, size_t len)
{
    const char *at = data;
    size_t left = len;

    if (s->input_is_over)
        return 0;
    while (left > 0 && is_open(s) && s->credit > 0 && has_room(s->guest)) {
        size_t n = left < PIECE_MAX ? left : PIECE_MAX;

        if (n > s->credit)
            n = s->credit;
        frame_put(agent_out(s->guest->agent), FRAME_DATA, s->id, at, n);
        s->credit -= (uint32_t)n;
        at += n;
        left -= n;
        agent_send(s->guest->agent);
    }
    s->wants_room |= left > 0;
    return len - left;
}

/* A small frame, whether there is room or not. */
static void control(struct guest_stream *s, enum frame_type type, const uint32_t *words, size_t n)
{
    struct buf *out;

    if (!s->guest || s->id == 0)
        return;
    out = agent_out(s->guest->agent);
    if (n == 2)
        frame_put_u32s(out, (uint8_t)type, s->id, words[0], words[1]);
    else if (n == 1)
        frame_put_u32(out, (uint8_t)type, s->id, words[0]);
    else
        frame_put(out, (uint8_t)type, s->id, NULL, 0);
    agent_send(s->guest->agent);
}

static void links_are_unknown(struct timer *t)
{
    struct guest_stream *s = container_of(t, struct guest_stream, deadline);
    struct err e = {0};

    err_set(&e,
            ERR_UNSUPPORTED,
            "the guest's agent is older than hard links in a copy; restart the instance, or pack "
            "with --hard-dereference");
    control(s, FRAME_CLOSE, NULL, 0);
    end_with(s, &e);
}

bool guest_put_entry(struct guest_stream *s, const struct guest_entry *entry)
{
    auto_buf struct buf content = BUF(FRAME_MAX);

    if (entry->kind == GUEST_HARD_LINK && is_open(s) && s->guest->version < WIRE_HARD_LINKS) {
        s->deadline.fn = links_are_unknown;
        loop_timer_start(s->guest->loop, &s->deadline, 0);
        return false;
    }
    entry_put(&content, entry);
    if (!is_open(s) || !has_room(s->guest) || content.len > s->credit) {
        s->wants_room = true;
        return false;
    }
    frame_put(agent_out(s->guest->agent), FRAME_ENTRY, s->id, content.data, content.len);
    s->credit -= (uint32_t)content.len;
    agent_send(s->guest->agent);
    return true;
}

void guest_end_input(struct guest_stream *s)
{
    if (is_open(s))
        control(s, FRAME_END_INPUT, NULL, 0);
    s->input_is_over = true;
}

void guest_resize(struct guest_stream *s, uint16_t rows, uint16_t cols)
{
    s->size[0] = rows;
    s->size[1] = cols;
    control(s, FRAME_RESIZE, s->size, 2);
}

void guest_signal(struct guest_stream *s, int signal)
{
    control(s, FRAME_SIGNAL, &(const uint32_t){(uint32_t)signal}, 1);
}

void guest_consumed(struct guest_stream *s, size_t len)
{
    if (len > s->outstanding)
        len = s->outstanding;
    s->outstanding -= len;
    s->owed += (uint32_t)len;
    /* Not for every byte: the guest has the rest of its window meanwhile. */
    if (s->owed < window_to_host(s->type) / 4)
        return;
    control(s, FRAME_CREDIT, &s->owed, 1);
    s->owed = 0;
}

void guest_close(struct guest_stream *s)
{
    if (!s)
        return;
    if (s->gone)
        *s->gone = true;
    control(s, FRAME_CLOSE, NULL, 0);
    detach(s);
    free(s);
}

/* --- from the guest --- */

/* False when the caller has closed the stream meanwhile. */
static bool hand_data(struct guest_stream *s, enum guest_channel from, const void *data, size_t len)
{
    bool gone = false;

    s->outstanding += len;
    if (!s->events->data) {
        guest_consumed(s, len);
        return true;
    }
    s->gone = &gone;
    s->events->data(s->owner, from, data, len);
    if (!gone)
        s->gone = NULL;
    return !gone;
}

static int take_zeros(struct guest_stream *s, size_t n)
{
    static const char zeros[FRAME_DATA_MAX];

    for (; n > 0; n -= n < sizeof(zeros) ? n : sizeof(zeros)) {
        if (!hand_data(s, GUEST_STDOUT, zeros, n < sizeof(zeros) ? n : sizeof(zeros)))
            break;
    }
    return 0;
}

static int take_entry(struct guest_stream *s, const struct frame *f, struct err *e)
{
    struct guest_entry entry;

    if (entry_get(f->data, f->len, &entry, e) < 0)
        return -1;
    s->outstanding += f->len;
    if (s->events->entry)
        s->events->entry(s->owner, &entry);
    else
        guest_consumed(s, f->len);
    return 0;
}

static enum err_code code_of(int64_t number)
{
    if (number == ENOENT)
        return ERR_NOT_FOUND;
    return number == ENOSPC || number == EDQUOT ? ERR_NO_SPACE : ERR_INVALID;
}

static int64_t number_of(const json_t *doc, const char *name, int64_t max)
{
    int64_t v = json_integer_value(json_object_get(doc, name));

    return v < 0 ? 0 : v > max ? max : v;
}

static int take_done(struct guest_stream *s, const struct frame *f, struct err *e)
{
    json_t *doc = parse_json((const char *)f->data, f->len, e);
    const char *error = json_string_value(json_object_get(doc, "error"));
    struct guest_end how = {
        .ok = !error,
        .code = (int)number_of(doc, "code", 255),
        .signal = (int)number_of(doc, "signal", 64),
        .timed_out = json_is_true(json_object_get(doc, "timed_out")),
        .out_of_memory = json_is_true(json_object_get(doc, "oom")),
        .bytes = (uint64_t)number_of(doc, "bytes", INT64_MAX),
    };

    if (!doc)
        return -1;
    if (error)
        err_set(&how.err, code_of(number_of(doc, "errno", INT_MAX)), "%s", error);
    json_decref(doc);
    end(s, &how);
    return 0;
}

static int take_credit(struct guest_stream *s, const struct frame *f, struct err *e)
{
    uint32_t n = frame_u32(f, 0);

    if (n > window_to_guest(s->type) - s->credit)
        return err_set(e, ERR_INVALID, "the guest grants more than its window");
    s->credit += n;
    if (s->wants_room && has_room(s->guest)) {
        s->wants_room = false;
        if (s->events->writable)
            s->events->writable(s->owner);
    }
    return 0;
}

static struct guest_stream *find(const struct guest *g, uint32_t id)
{
    for (struct list *l = g->streams.next; l != &g->streams; l = l->next) {
        struct guest_stream *s = container_of(l, struct guest_stream, link);

        if (s->id == id)
            return s;
    }
    return NULL;
}

int guest_frame(struct guest *g, const struct frame *f, struct err *e)
{
    struct guest_stream *s = find(g, f->stream);

    if (!s) /* closed; the guest need not know yet */
        return 0;
    if (frame_cost(f) > window_to_host(s->type) - s->outstanding - s->owed)
        return err_set(e, ERR_INVALID, "the guest sends more than it was granted");
    switch (f->type) {
    case FRAME_DATA:
        (void)hand_data(s, f->flags & FRAME_STDERR ? GUEST_STDERR : GUEST_STDOUT, f->data, f->len);
        return 0;
    case FRAME_ZEROS:
        return take_zeros(s, frame_u32(f, 0));
    case FRAME_ENTRY:
        return take_entry(s, f, e);
    case FRAME_CREDIT:
        return take_credit(s, f, e);
    case FRAME_DONE:
        return take_done(s, f, e);
    default:
        return 0;
    }
}

/* --- beginning --- */

static void waited_too_long(struct timer *t)
{
    struct guest_stream *s = container_of(t, struct guest_stream, deadline);
    struct err e = {0};

    err_set(&e, ERR_TIMEOUT, "the guest's agent did not answer in time");
    end_with(s, &e);
}

static struct guest_stream *stream_new(struct guest *g, enum frame_type type, struct buf *request,
                                       int64_t wait_ms)
{
    struct guest_stream *s = mem_new(struct guest_stream);

    s->guest = g;
    s->type = type;
    s->request = *request;
    *request = (struct buf){0};
    s->deadline.fn = waited_too_long;
    list_init(&s->link);
    list_append(&g->waiting, &s->link);
    g->n_streams++;
    loop_timer_start(g->loop, &s->deadline, wait_ms > 0 ? wait_ms : GUEST_WAIT_MS);
    return s;
}

int guest_check(const struct instance *row, struct err *e)
{
    if (row->run.state != VM_RUNNING && row->run.state != VM_INITIALIZING)
        return err_set(e,
                       ERR_BAD_STATE,
                       "instance must be running (current state: %s)",
                       vm_state_name(row->run.state));
    if (row->spec->skip_guest_agent)
        return err_set(e,
                       ERR_BAD_STATE,
                       "the instance was created without the guest agent (skip_guest_agent)");
    return 0;
}

struct guest_stream *guest_begin(struct instance *row, const struct guest_work *work,
                                 const struct guest_events *events, void *owner, struct err *e)
{
    struct guest *g = live_guest(row);
    struct guest_stream *s;

    if (guest_check(row, e) < 0)
        return NULL;
    if (!g)
        err_set(e, ERR_BAD_STATE, "the instance's process is gone");
    else if (g->is_too_old)
        err_set(e, ERR_UNSUPPORTED, "the guest's agent is older than this; restart the instance");
    else if (g->n_streams >= GUEST_STREAMS_MAX)
        err_set(e, ERR_LIMIT, "%d commands and copies run in this instance", GUEST_STREAMS_MAX);
    else if (!buf_ok(work->request))
        err_set(e, ERR_TOO_LARGE, "the command and its environment are too long");
    if (e->code != ERR_NONE)
        return NULL;
    s = stream_new(g, work->type, work->request, work->wait_ms);
    s->events = events;
    s->owner = owner;
    begin_waiting(g);
    return s;
}
