/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the server share; nobody else includes this. Loop thread only.
 *
 * server.c  one library daemon per listener, run by the loop; stop and free
 * listen.c  the sockets
 * conn.c    a connection's life: deadlines, suspension, the client going away
 * request.c a request's way through the library's callbacks, and its answer
 * stream.c  answers that go on
 * guard.c   what a head must not hold
 * handshake.c, websocket.c  requests that become WebSockets; their framing is ws.c
 */
#pragma once

#include <microhttpd.h>
#include <stdint.h>

#include "http/server.h"

enum {
    CONNECTIONS_MAX = 2048, /* per listener; beyond that clients wait in the backlog */
    POOL_BYTES = 24 << 10,  /* the library's memory for one connection, head included */
    HEAD_MAX = 16 << 10,
    TARGET_MAX = 8 << 10,
    QUICK_MS = 30 * 1000, /* for a head, and for a body besides its bytes' own time */
    IDLE_MS = 75 * 1000,  /* between two requests */
    SLOWEST_BYTES_PER_MS = 16,
    LINGER_MS = 5 * 1000,
    LINGERING_MAX = 64,
    WS_PING_MS = 30 * 1000,
    WS_SILENCE_MS = 15 * 60 * 1000,
};

struct http_server {
    struct loop *loop;
    struct http_handler handler;
    struct list listeners;
    struct list requests;  /* one a connection */
    struct list lingering; /* refused clients that may still be sending */
    unsigned n_lingering;
    unsigned n_open;
    int64_t quick_ms; /* QUICK_MS and so on, but for tests */
    int64_t idle_ms;
    int64_t ws_ping_ms;
    int64_t ws_silence_ms;
    bool is_stopping;
    bool is_dying; /* nothing is waited for any more */
};

struct listener {
    struct http_server *server;
    struct MHD_Daemon *daemon;
    struct watch watch;  /* of the daemon's epoll fd */
    struct timer again;  /* the daemon has something to do that no fd tells */
    struct list hung_up; /* requests whose client sends nothing any more */
    char *path;          /* of a unix socket, until it is removed */
    bool is_unix;
    struct list link;
};

enum phase {
    PHASE_IDLE,    /* nothing of a request has been seen */
    PHASE_HEAD,    /* its first line has */
    PHASE_BODY,    /* the head is accepted, the body is on its way */
    PHASE_HANDLED, /* the handler has been given it */
    PHASE_SENDING, /* the answer is the library's */
};

/* A connection and the request it carries. They share a struct because the library serves a
 * connection's requests one after the other. */
struct http_request {
    struct http_server *server;
    struct listener *listener;
    struct MHD_Connection *mhd;
    int fd; /* the library's */
    struct http_peer peer;
    struct timer deadline;
    struct watch hangup; /* fd is -1 once the client has hung up */
    struct list hung_up; /* and then this is on the listener's list */
    bool is_suspended;
    bool is_refused;
    struct list link;

    /* From here on of the present request. */
    enum phase phase;
    const char *method; /* the library's */
    bool is_http11;
    char *path;
    bool is_bad_target;
    struct buf body;
    int64_t body_since_ms;
    struct buf headers; /* to be sent: name NUL value NUL ... */
    struct MHD_Response *response;
    int status;
    size_t response_len;
    bool is_gone;
    void (*gone)(void *arg);
    void *gone_arg;
    struct http_stream *stream;
    struct websocket *websocket;
};

/* --- server.c --- */
void listener_wake(struct listener *l); /* soon, and not from in here */
int listener_add(struct http_server *s, int listen_fd, const char *unix_path, struct err *e);

/* --- conn.c --- */
void conn_notify(void *cls, struct MHD_Connection *mhd, void **context,
                 enum MHD_ConnectionNotificationCode what);
struct http_request *conn_of(struct MHD_Connection *mhd);
void conn_suspend(struct http_request *req); /* only from within the library's callbacks */
void conn_resume(struct http_request *req);  /* fine on one that is not suspended */
void conn_settle(
    struct http_request *req); /* once its client has hung up, and all it sent is read */
void conn_deadline(struct http_request *req, int64_t ms);
void conn_no_deadline(struct http_request *req);
void conn_cut(struct http_request *req); /* the library notices and cleans up */
void lingering_free_all(struct http_server *s);

/* --- request.c --- */
void *request_line(void *cls, const char *target, struct MHD_Connection *mhd);
enum MHD_Result request_part(void *cls, struct MHD_Connection *mhd, const char *url,
                             const char *method, const char *version, const char *data, size_t *len,
                             void **context);
void request_completed(void *cls, struct MHD_Connection *mhd, void **context,
                       enum MHD_RequestTerminationCode how);
void request_answer(struct http_request *req, int status, const char *content_type,
                    struct MHD_Response *response);
void request_gone(struct http_request *req);
enum MHD_Result request_refuse(struct http_request *req, int status, const char *message);

/* --- stream.c --- */
void stream_detach(struct http_request *req); /* the connection is done with it, or dead */

/* --- websocket.c --- */
struct websocket_events;
struct websocket *websocket_new(struct http_request *req, const struct websocket_events *events,
                                void *owner);
void websocket_upgraded(void *cls, struct MHD_Connection *mhd, void *context, const char *extra,
                        size_t extra_len, MHD_socket fd, struct MHD_UpgradeResponseHandle *urh);
void websocket_drop(struct http_request *req); /* the connection is dead, or the server is freed */
