/* SPDX-License-Identifier: Apache-2.0 */
#include "http/websocket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/mem.h"
#include "http/private.h"

enum {
    READ_BYTES = 64 * 1024,
    READS_PER_TURN = 4,  /* so that one client that sends fast delays nobody */
    CLOSE_MS = 5 * 1000, /* for the client to answer a close */
    OUT_MAX = WEBSOCKET_HIGH + WEBSOCKET_SLACK,
    /* From here on nothing is read: who does not read must not ping either. */
    READ_BELOW = WEBSOCKET_HIGH + WEBSOCKET_SLACK / 2,
};

/*
 * Two hold it: the owner until websocket_close(), the connection until it is
 * done. Everything that may call the owner, or end the connection, happens in
 * turn(), which the watch and the timer call.
 */
struct websocket {
    struct http_request *req; /* NULL once the connection is done */
    struct http_server *server;
    struct MHD_UpgradeResponseHandle *urh; /* NULL until the answer is out */
    int fd;
    struct watch watch;
    uint32_t watched; /* events */
    struct timer timer;
    struct ws *ws;
    struct buf in; /* read before a pause, or by the library together with the head */

    const struct websocket_events *events;
    void *owner;
    bool is_released;   /* by the owner */
    bool is_waited_for; /* drained() is owed */
    bool is_dead;       /* nothing more can be read, or written */
    bool has_hung_up;
    bool knows_hangup; /* the owner has been told */
    bool was_closed;   /* likewise */

    int64_t heard_ms; /* when the client last showed that it lives, or could not */
    int64_t pinged_ms;
    int64_t flushed_ms; /* since when, after the release, all is sent; 0: not yet */
};

static void tell_closed(struct websocket *w)
{
    if (w->was_closed || w->is_released)
        return;
    w->was_closed = true;
    w->events->closed(w->owner);
}

static void websocket_free(struct websocket *w)
{
    ws_free(w->ws);
    buf_free(&w->in);
    free(w);
}

/* The connection is done; the library closes the socket. */
static void hand_back(struct websocket *w)
{
    if (w->watch.fd >= 0)
        loop_unwatch(w->server->loop, &w->watch);
    tell_closed(w);
    loop_timer_stop(w->server->loop, &w->timer);
    w->req->websocket = NULL;
    if (w->urh) {
        MHD_upgrade_action(w->urh, MHD_UPGRADE_ACTION_CLOSE); /* which only marks it */
        listener_wake(w->req->listener);
    }
    w->req = NULL;
    if (w->is_released)
        websocket_free(w);
}

static void wake(struct websocket *w)
{
    loop_timer_start(w->server->loop, &w->timer, 0);
}

/* --- bytes --- */

/* Sends what the socket takes. */
static void flush(struct websocket *w)
{
    struct buf *out = ws_out(w->ws);
    size_t sent = 0;

    if (!w->urh || w->is_dead)
        return;
    if (!buf_ok(out))
        w->is_dead = true; /* an owner that did not stop */
    while (sent < out->len && !w->is_dead) {
        ssize_t n = send(w->fd, out->data + sent, out->len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EAGAIN)
            break;
        if (n >= 0)
            sent += (size_t)n;
        else if (errno != EINTR)
            w->is_dead = true;
    }
    if (sent < out->len)
        buf_consume(out, sent);
    else
        buf_free(out); /* an idle connection keeps no buffer */
}

static bool may_read(const struct websocket *w)
{
    return !w->is_dead && !ws_is_paused(w->ws) && ws_out(w->ws)->len < READ_BELOW;
}

static void feed_kept(struct websocket *w)
{
    size_t used = ws_feed(w->ws, buf_str(&w->in), w->in.len);

    if (used < w->in.len)
        buf_consume(&w->in, used);
    else
        buf_free(&w->in);
}

/* False when there is nothing more to read for now. */
static bool read_once(struct websocket *w)
{
    char bytes[READ_BYTES];
    ssize_t n = recv(w->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    size_t used;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        w->is_dead = true;
        return false;
    }
    w->heard_ms = clock_ms();
    used = ws_feed(w->ws, bytes, (size_t)n);
    buf_append(&w->in, bytes + used, (size_t)n - used);
    return n == sizeof(bytes); /* else it was all there is */
}

static void read_some(struct websocket *w)
{
    if (w->in.len > 0 && may_read(w))
        feed_kept(w);
    for (int i = 0; i < READS_PER_TURN && w->in.len == 0 && may_read(w); i++) {
        if (!read_once(w))
            return;
    }
}

/* --- time --- */

/* When something is next to be done about the client's silence; -1: the connection ends now. */
static int64_t next_ms(struct websocket *w)
{
    int64_t now = clock_ms();
    bool is_empty = ws_out(w->ws)->len == 0;

    if (w->is_released && is_empty) {
        w->flushed_ms = w->flushed_ms ? w->flushed_ms : now;
        return now - w->flushed_ms >= CLOSE_MS ? -1 : w->flushed_ms + CLOSE_MS - now;
    }
    if (ws_is_paused(w->ws) || (!is_empty && !w->is_released))
        w->heard_ms = now; /* its pongs are behind what we do not read, or it behind what we send */
    if (now - w->heard_ms >= w->server->ws_silence_ms)
        return -1;
    if (is_empty && now - w->heard_ms >= w->server->ws_ping_ms &&
        now - w->pinged_ms >= w->server->ws_ping_ms) {
        ws_ping(w->ws);
        w->pinged_ms = now;
        flush(w);
    }
    return w->server->ws_ping_ms;
}

/* --- a turn --- */

static void watch_on(struct websocket *w)
{
    uint32_t events =
        (may_read(w) ? EPOLLIN : 0u) | (ws_out(w->ws)->len > 0 ? EPOLLOUT : 0u) | EPOLLRDHUP;
    struct err e = {0};
    int rc;

    if (w->has_hung_up) {
        /* The event would come again and again; what is there is read without one. */
        if (may_read(w))
            wake(w);
        return;
    }
    if (w->watch.fd >= 0 && events == w->watched)
        return;
    rc = w->watch.fd >= 0 ? loop_rewatch(w->server->loop, &w->watch, events, &e)
                          : loop_watch(w->server->loop, &w->watch, w->fd, events, &e);
    w->watched = events;
    if (rc < 0) { /* no memory in the kernel */
        err_clear(&e);
        w->is_dead = true;
    }
}

static void tell_owner(struct websocket *w)
{
    if (w->has_hung_up && !w->knows_hangup && ws_is_paused(w->ws) && !w->is_released) {
        w->knows_hangup = true;
        if (w->events->hangup)
            w->events->hangup(w->owner);
    }
    if (w->is_waited_for && !w->is_released && ws_out(w->ws)->len <= WEBSOCKET_HIGH / 2) {
        w->is_waited_for = false;
        w->events->drained(w->owner);
    }
}

static bool is_done(const struct websocket *w)
{
    if (w->is_dead)
        return true;
    return ws_close_sent(w->ws) && ws_close_received(w->ws) && ws_out(w->ws)->len == 0;
}

static void turn(struct websocket *w)
{
    size_t waiting = ws_out(w->ws)->len;
    int64_t again_ms;

    if (!w->urh)
        return; /* the answer is not out yet */
    read_some(w);
    flush(w);
    if (ws_out(w->ws)->len < waiting)
        w->heard_ms = clock_ms(); /* it takes what has been waiting for it */
    tell_owner(w);
    flush(w);
    again_ms = is_done(w) ? -1 : next_ms(w);
    if (again_ms < 0) {
        hand_back(w);
        return;
    }
    loop_timer_start(w->server->loop, &w->timer, again_ms);
    watch_on(w);
    if (w->is_dead)
        wake(w);
}

static void on_ready(struct watch *watch, uint32_t events)
{
    struct websocket *w = container_of(watch, struct websocket, watch);

    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        w->has_hung_up = true;
        loop_unwatch(w->server->loop, watch);
    }
    turn(w);
}

static void on_timer(struct timer *t)
{
    turn(container_of(t, struct websocket, timer));
}

/* --- messages --- */

static void on_binary(void *arg, const void *data, size_t len, bool is_first)
{
    struct websocket *w = arg;

    (void)is_first;
    if (!w->is_released)
        w->events->binary(w->owner, data, len);
}

static void on_text(void *arg, const char *text, size_t len)
{
    struct websocket *w = arg;

    if (!w->is_released)
        w->events->text(w->owner, text, len);
}

static void on_closed(void *arg, unsigned code)
{
    (void)code;
    tell_closed(arg);
}

bool websocket_send(struct websocket *w, enum ws_kind kind, const void *data, size_t len)
{
    if (!w->req || w->is_dead)
        return true;
    ws_put(w->ws, kind, data, len);
    flush(w);
    if (w->is_dead || ws_out(w->ws)->len > 0)
        wake(w);
    w->is_waited_for |= ws_out(w->ws)->len > WEBSOCKET_HIGH;
    return ws_out(w->ws)->len <= WEBSOCKET_HIGH;
}

void websocket_pause(struct websocket *w)
{
    ws_pause(w->ws);
}

void websocket_resume(struct websocket *w)
{
    if (!ws_is_paused(w->ws))
        return;
    ws_resume(w->ws);
    if (w->req)
        wake(w);
}

void websocket_close(struct websocket *w, enum ws_code code)
{
    w->is_released = true;
    if (!w->req) {
        websocket_free(w);
        return;
    }
    ws_resume(w->ws); /* what comes is dropped, until the client answers the close */
    ws_close(w->ws, code);
    wake(w);
}

/* --- from the rest of the server --- */

void websocket_upgraded(void *cls, struct MHD_Connection *mhd, void *context, const char *extra,
                        size_t extra_len, MHD_socket fd, struct MHD_UpgradeResponseHandle *urh)
{
    struct http_request *req = cls;
    struct websocket *w = req->websocket;
    int on = 1;

    (void)mhd, (void)context, (void)fd;
    conn_no_deadline(req);
    if (!w || req->server->is_dying) {
        MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
        listener_wake(req->listener);
        return;
    }
    if (req->hangup.fd >= 0)
        loop_unwatch(req->server->loop, &req->hangup);
    if (!req->listener->is_unix) /* the library has turned it off, and a key press cannot wait */
        (void)setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    buf_append(&w->in, extra, extra_len);
    w->urh = urh;
    w->heard_ms = clock_ms();
    wake(w);
}

void websocket_drop(struct http_request *req)
{
    struct websocket *w = req->websocket;

    ws_close(w->ws, WS_GOING_AWAY);
    flush(w);
    hand_back(w);
}

static const struct ws_events frames = {on_binary, on_text, on_closed};

struct websocket *websocket_new(struct http_request *req, const struct websocket_events *events,
                                void *owner)
{
    struct websocket *w = mem_new(struct websocket);

    w->req = req;
    w->server = req->server;
    w->fd = req->fd;
    w->watch = (struct watch){.fn = on_ready, .fd = -1};
    w->timer.fn = on_timer;
    w->ws = ws_new(false, WEBSOCKET_TEXT_MAX, OUT_MAX, &frames, w);
    w->in = BUF(READ_BYTES);
    w->events = events;
    w->owner = owner;
    req->websocket = w;
    return w;
}
