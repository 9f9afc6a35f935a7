/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/agent.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "net/address.h"
#include "wire/frame.h"

enum {
    OUT_MAX = 8 * 1024 * 1024, /* a guest that lets this much wait is lost */
    NONCE_BYTES = 16,
    SEED_BYTES = 64,
    MACHINE_ID_BYTES = 16, /* of the instance id: its first 16 of 24 characters, about 82 bits */
    /* What one turn of the loop takes from one guest, so that a flood delays nobody. */
    READS_PER_TURN = 8,
};

struct agent {
    struct loop *loop;
    const struct agent_events *events;
    void *owner;
    int fd;
    struct watch watch;
    uint32_t watched; /* what for */
    struct frame_reader in;
    struct buf out;
    bool greeted;  /* the guest has repeated our nonce */
    bool was_full; /* drained() is due once less waits */
    char nonce[2 * NONCE_BYTES + 1];
    bool is_busy; /* one of its watch's calls is running */
    bool is_closed;
};

static void put_hex(char *out, const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", (unsigned)bytes[i]);
}

static void draw(unsigned char *bytes, size_t n)
{
    if (getrandom(bytes, n, 0) != (ssize_t)n)
        abort();
}

static void draw_nonce(struct agent *a)
{
    unsigned char bytes[NONCE_BYTES];

    draw(bytes, sizeof(bytes));
    put_hex(a->nonce, bytes, sizeof(bytes));
}

static void lose(struct agent *a, const struct err *why)
{
    loop_unwatch(a->loop, &a->watch);
    close(a->fd);
    a->fd = -1;
    a->events->lost(a->owner, why); /* may free a */
}

static int watch_for(struct agent *a, uint32_t events, struct err *e)
{
    if (events == a->watched)
        return 0;
    a->watched = events;
    return loop_rewatch(a->loop, &a->watch, events, e);
}

/* Sends what the socket takes; the rest when it is writable again. */
static int flush(struct agent *a, struct err *e)
{
    uint32_t events = EPOLLIN;
    bool was_full = a->out.len >= AGENT_BACKLOG;

    if (!buf_ok(&a->out))
        return err_set(e, ERR_LIMIT, "the guest's agent does not read what it is sent");
    while (a->out.len > 0) {
        ssize_t n = send(a->fd, a->out.data, a->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            events |= EPOLLOUT;
            break;
        }
        if (n < 0)
            return err_errno(e, "send to the guest's agent");
        buf_consume(&a->out, (size_t)n);
    }
    if (a->out.len == 0)
        buf_free(&a->out); /* an idle connection keeps no buffer */
    a->was_full |= was_full;
    return watch_for(a, events, e);
}

struct buf *agent_out(struct agent *a)
{
    return &a->out;
}

/* What goes wrong here is met again by the loop, which may call back. */
void agent_send(struct agent *a)
{
    struct err e = {0};

    if (a->fd >= 0 && (flush(a, &e) < 0 || a->was_full))
        (void)watch_for(a, EPOLLIN | EPOLLOUT, &(struct err){0});
}

static void introduce(struct agent *a, const struct agent_identity *who)
{
    unsigned char seed[SEED_BYTES];
    char seed_text[2 * SEED_BYTES + 1];
    char machine_id[2 * MACHINE_ID_BYTES + 1];
    char address[ADDRESS_TEXT_SIZE];
    struct buf json = BUF(1024);
    struct jout j = JOUT(&json);

    draw(seed, sizeof(seed));
    put_hex(seed_text, seed, sizeof(seed));
    put_hex(machine_id, (const unsigned char *)who->id, MACHINE_ID_BYTES);
    jout_open(&j, NULL, '{');
    jout_int(&j, "time_us", wall_us());
    jout_str(&j, "seed", seed_text);
    jout_str(&j, "hostname", who->hostname);
    jout_str(&j, "machine_id", machine_id);
    if (who->address)
        jout_str(&j, "outer_address", address_text(who->address, address));
    jout_close(&j, '}');
    frame_put(&a->out, FRAME_IDENTITY, 0, json.data, json.len);
    explicit_bzero(json.data, json.len);
    buf_free(&json);
}

static int take_hello(struct agent *a, const json_t *doc, struct err *e)
{
    const char *nonce = json_string_value(json_object_get(doc, "nonce"));

    if (!nonce || strcmp(nonce, a->nonce) != 0)
        return err_set(e, ERR_INVALID, "the agent's greeting does not answer ours");
    if (json_integer_value(json_object_get(doc, "version")) < 1)
        return err_set(e, ERR_INVALID, "the agent's greeting holds no version");
    if (a->greeted)
        return err_set(e, ERR_INVALID, "the agent greets twice");
    a->greeted = true;
    a->events->greeted(a->owner, json_integer_value(json_object_get(doc, "version")));
    return 0;
}

static int take_exit(struct agent *a, const struct frame *f, struct err *e)
{
    struct exit_record record;

    if (exit_record_parse((const char *)f->data, f->len, &record, e) < 0)
        return -1;
    a->events->exited(a->owner, &record);
    return 0;
}

static void take_frozen(struct agent *a, const json_t *doc)
{
    const char *message = json_string_value(json_object_get(doc, "message"));

    a->events->frozen(a->owner,
                      json_integer_value(json_object_get(doc, "serial")),
                      json_is_true(json_object_get(doc, "frozen")),
                      message ? message : "");
}

/* One frame from the guest. Unknown types are left to later versions. */
static int take_frame(struct agent *a, const struct frame *f, struct err *e)
{
    json_t *doc = NULL;
    int rc = 0;

    if (f->type == FRAME_EXITED)
        return a->greeted ? take_exit(a, f, e) : 0;
    if (f->stream != 0)
        return a->greeted ? a->events->frame(a->owner, f, e) : 0;
    if (f->type != FRAME_HELLO && f->type != FRAME_STARTED && f->type != FRAME_FROZEN)
        return 0;
    doc = parse_json((const char *)f->data, f->len, e);
    if (!doc)
        return -1;
    if (f->type == FRAME_HELLO)
        rc = take_hello(a, doc, e);
    else if (a->greeted && f->type == FRAME_FROZEN)
        take_frozen(a, doc);
    else if (a->greeted)
        a->events->started(a->owner, json_integer_value(json_object_get(doc, "at_us")));
    json_decref(doc);
    return rc;
}

/* -1: it is not the protocol. A callback may have closed the connection. */
static int hand_out(struct agent *a, struct err *e)
{
    struct frame f;
    int rc = 0;

    while (!a->is_closed && (rc = frame_next(&a->in, &f, e)) == 1) {
        if (take_frame(a, &f, e) < 0)
            return -1;
    }
    return rc;
}

static void receive(struct agent *a, int turns)
{
    struct err e = {0};

    while (turns-- > 0) {
        size_t room;
        void *space = frame_reader_space(&a->in, &room);
        ssize_t n = space ? recv(a->fd, space, room, MSG_DONTWAIT) : -1;

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n == 0)
            err_set(&e, ERR_INTERNAL, "the connection to the guest's agent ended");
        else if (n < 0)
            err_errno(&e, "read from the guest's agent");
        if (n > 0) {
            frame_reader_filled(&a->in, (size_t)n);
            if (hand_out(a, &e) >= 0 && !a->is_closed) {
                if ((size_t)n < room)
                    return; /* it was all there is */
                continue;
            }
        }
        if (!a->is_closed)
            lose(a, &e);
        return;
    }
}

/* Callbacks may close the connection; the memory stays for as long as we look at it. */
static void enter(struct agent *a)
{
    a->is_busy = true;
}

static void leave(struct agent *a)
{
    a->is_busy = false;
    if (a->is_closed)
        free(a);
}

static void serve(struct agent *a, uint32_t events)
{
    struct err e = {0};

    if ((events & EPOLLOUT) && flush(a, &e) < 0) {
        lose(a, &e);
        return;
    }
    if (a->was_full && a->out.len < AGENT_BACKLOG) {
        a->was_full = false;
        a->events->drained(a->owner);
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !a->is_closed)
        receive(a, READS_PER_TURN);
}

static void agent_ready(struct watch *w, uint32_t events)
{
    struct agent *a = container_of(w, struct agent, watch);

    enter(a);
    serve(a, events);
    leave(a);
}

struct agent *agent_open(struct loop *loop, int connection_fd, const struct agent_identity *who,
                         const struct agent_events *events, void *owner, struct err *e)
{
    auto_close int fd = connection_fd;
    struct agent *a = mem_new(struct agent);

    a->loop = loop;
    a->events = events;
    a->owner = owner;
    a->watch.fn = agent_ready;
    a->out = BUF(OUT_MAX);
    frame_reader_init(&a->in);
    draw_nonce(a);
    frame_put_hello(&a->out, a->nonce);
    introduce(a, who);
    a->watched = EPOLLIN | EPOLLOUT;
    if (loop_watch(loop, &a->watch, fd, a->watched, e) < 0) {
        frame_reader_free(&a->in);
        buf_free(&a->out);
        free(a);
        return NULL;
    }
    a->fd = take_fd(&fd);
    return a;
}

bool agent_has_greeted(const struct agent *a)
{
    return a->greeted;
}

void agent_shutdown(struct agent *a, int64_t grace_ms)
{
    char json[64];
    struct err e = {0};

    if (a->fd < 0)
        return;
    (void)snprintf(json, sizeof(json), "{\"grace_ms\":%" PRId64 "}", grace_ms);
    frame_put(&a->out, FRAME_SHUTDOWN, 0, json, strlen(json));
    if (flush(a, &e) < 0)
        lose(a, &e);
}

void agent_freeze(struct agent *a, int64_t serial)
{
    char json[64];
    struct err e = {0};

    if (a->fd < 0)
        return;
    (void)snprintf(json, sizeof(json), "{\"serial\":%" PRId64 "}", serial);
    frame_put(&a->out, FRAME_FREEZE, 0, json, strlen(json));
    if (flush(a, &e) < 0)
        lose(a, &e);
}

void agent_drain(struct agent *a)
{
    if (a->fd < 0)
        return;
    enter(a);
    receive(a, 1024);
    leave(a);
}

void agent_close(struct agent *a)
{
    if (!a)
        return;
    a->is_closed = true;
    if (a->fd >= 0) {
        loop_unwatch(a->loop, &a->watch);
        close(a->fd);
    }
    frame_reader_free(&a->in);
    buf_free(&a->out);
    if (!a->is_busy)
        free(a);
}
