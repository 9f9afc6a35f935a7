/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "http/private.h"

struct http_request *conn_of(struct MHD_Connection *mhd)
{
    return MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/*
 * A connection is cut from outside by shutting its socket down: the library
 * then reads an end of file and does all the cleaning up itself.
 */
void conn_cut(struct http_request *req)
{
    (void)shutdown(req->fd, SHUT_RDWR);
}

static void on_deadline(struct timer *t)
{
    conn_cut(container_of(t, struct http_request, deadline));
}

void conn_deadline(struct http_request *req, int64_t ms)
{
    loop_timer_start(req->server->loop, &req->deadline, ms);
}

void conn_no_deadline(struct http_request *req)
{
    loop_timer_stop(req->server->loop, &req->deadline);
}

/*
 * The library waits for edges and takes a short read for the last one, so an end
 * of file that came together with data escapes it; of a suspended connection it
 * notices nothing at all. So every connection has a watch of ours for that.
 */
static void on_hangup(struct watch *w, uint32_t events)
{
    struct http_request *req = container_of(w, struct http_request, hangup);

    (void)events;
    loop_unwatch(req->server->loop, w);
    list_append(&req->listener->hung_up, &req->hung_up);
    listener_wake(req->listener);
}

void conn_settle(struct http_request *req)
{
    switch (req->phase) {
    case PHASE_BODY:
        (void)request_refuse(req, 400, "the body is shorter than announced");
        conn_cut(req);
        break;
    case PHASE_IDLE:
    case PHASE_HEAD:
        conn_cut(req);
        break;
    case PHASE_HANDLED:
        request_gone(req);
        break;
    case PHASE_SENDING: /* to one who may still read: HTTP clients may close one half */
        if (req->stream)
            request_gone(req);
        break;
    }
}

void conn_suspend(struct http_request *req)
{
    assert(!req->is_suspended);
    MHD_suspend_connection(req->mhd);
    req->is_suspended = true;
}

void conn_resume(struct http_request *req)
{
    if (!req->is_suspended)
        return;
    req->is_suspended = false;
    MHD_resume_connection(req->mhd); /* which only marks it */
    listener_wake(req->listener);
}

enum { NGROUPS_KEPT = 1024 };

static struct http_peer peer_of(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        cred = (struct ucred){.pid = -1, .uid = (uid_t)-1, .gid = (gid_t)-1};
    return (struct http_peer){.is_unix = true, .uid = cred.uid, .gid = cred.gid, .pid = cred.pid};
}

bool http_peer_in_group(const struct http_request *req, gid_t group)
{
    gid_t groups[NGROUPS_KEPT];
    socklen_t len = sizeof(groups);

    if (!req->peer.is_unix)
        return false;
    if (req->peer.gid == group)
        return true;
    /* Someone in more groups than there is room for gets an error, and so no rights by them. */
    if (getsockopt(req->fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
        return false;
    for (size_t i = 0; i < len / sizeof(groups[0]); i++) {
        if (groups[i] == group)
            return true;
    }
    return false;
}

static struct http_request *conn_new(struct listener *l, struct MHD_Connection *mhd)
{
    struct http_request *req = mem_new(struct http_request);
    struct err e = {0};

    req->server = l->server;
    req->listener = l;
    req->mhd = mhd;
    req->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    req->peer = l->is_unix ? peer_of(req->fd)
                           : (struct http_peer){.uid = (uid_t)-1, .gid = (gid_t)-1, .pid = -1};
    req->deadline.fn = on_deadline;
    req->hangup = (struct watch){.fn = on_hangup, .fd = -1};
    list_init(&req->hung_up);
    list_append(&l->server->requests, &req->link);
    if (loop_watch(l->server->loop, &req->hangup, req->fd, EPOLLRDHUP, &e) < 0) {
        err_clear(&e); /* no memory in the kernel: then not even the library can watch it */
        conn_cut(req);
    }
    conn_deadline(req, req->server->quick_ms);
    return req;
}

/*
 * Closing a socket with unread bytes makes the kernel send a reset, which
 * throws away the answer that the client has not read yet. So a client that was
 * refused in the middle of its sending is read to its end, for a while.
 */
struct lingering {
    struct watch watch;
    struct timer timer;
    struct http_server *server;
    struct list link;
};

static void lingering_free(struct lingering *l)
{
    int fd = l->watch.fd;

    loop_unwatch(l->server->loop, &l->watch);
    loop_timer_stop(l->server->loop, &l->timer);
    list_remove(&l->link);
    l->server->n_lingering--;
    close(fd);
    free(l);
}

static void on_lingering(struct watch *w, uint32_t events)
{
    char scrap[16 << 10];

    (void)events;
    if (recv(w->fd, scrap, sizeof(scrap), MSG_DONTWAIT) <= 0)
        lingering_free(container_of(w, struct lingering, watch));
}

static void on_lingering_timer(struct timer *t)
{
    lingering_free(container_of(t, struct lingering, timer));
}

static void linger(struct http_server *s, int fd)
{
    struct lingering *l;
    struct err e = {0};
    int copy;

    if (s->is_dying || s->n_lingering >= LINGERING_MAX)
        return;
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return;
    l = mem_new(struct lingering);
    l->server = s;
    l->watch.fn = on_lingering;
    l->timer.fn = on_lingering_timer;
    if (loop_watch(s->loop, &l->watch, copy, EPOLLIN | EPOLLRDHUP, &e) < 0) {
        err_clear(&e);
        close(copy);
        free(l);
        return;
    }
    list_append(&s->lingering, &l->link);
    s->n_lingering++;
    loop_timer_start(s->loop, &l->timer, LINGER_MS);
}

void lingering_free_all(struct http_server *s)
{
    while (!list_empty(&s->lingering))
        lingering_free(container_of(s->lingering.next, struct lingering, link));
}

static void conn_free(struct http_request *req)
{
    char byte;

    if (req->is_refused || recv(req->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
        linger(req->server, req->fd);
    if (req->hangup.fd >= 0)
        loop_unwatch(req->server->loop, &req->hangup);
    conn_no_deadline(req);
    list_remove(&req->hung_up);
    list_remove(&req->link);
    free(req);
}

void conn_notify(void *cls, struct MHD_Connection *mhd, void **context,
                 enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        *context = conn_new(cls, mhd);
    else
        conn_free(*context);
}
