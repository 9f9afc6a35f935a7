/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client's WebSocket and one piece of work inside a guest, joined.
 *
 * The handler of a route makes its struct around a guest_socket and opens it. The
 * client's first message, JSON as text, says what is to be done; kind->begin()
 * starts it. From then on what the client sends goes to kind->input(), and what
 * that does not take waits, bounded, while the client is not read; what the guest
 * sends goes to the client by guest_socket_send(), and the guest is made to wait
 * while the client has no room. Either side's end is told once, and the work's
 * own end is up to the kind.
 *
 * Loop thread; nothing blocks. The kind's callbacks may call
 * guest_socket_finish(), and must not touch the socket after that.
 */
#pragma once

#include "api/api.h"
#include "http/websocket.h"
#include "vm/guest.h"

struct guest_socket;

struct guest_socket_kind {
    const char *name;     /* for the log: "exec" */
    const char *span;     /* for traces: "cp.session" */
    bool survives_hangup; /* what a client that has left had sent is still carried out */
    struct guest_events events;

    /* What the first message asks for; sets s->guest. -1 and e (ERR_INVALID: the message). */
    int (*begin)(struct guest_socket *s, struct instance *row, const json_t *doc, struct err *e);

    /* Bytes of the client's, and text that came after the first message. */
    size_t (*input)(struct guest_socket *s, const char *data, size_t len); /* how many it took */
    void (*empty)(struct guest_socket *s);                                 /* an empty message */
    void (*text)(struct guest_socket *s, const char *text, size_t len);
    void (*input_ended)(struct guest_socket *s); /* all was taken; NULL: guest_end_input() */

    /* It did not begin: tells the client. What it asked for was wrong, or could not be had. */
    void (*refuse)(struct guest_socket *s, const struct err *e);
    void (*free)(struct guest_socket *s);
};

struct guest_socket {
    /* Set by guest_socket_open(). */
    struct vm_world *world;
    const struct guest_socket_kind *kind;
    char id[ID_SIZE];
    char name[64];
    struct websocket *ws;
    struct trace trace;
    bool succeeded;        /* for the trace, when it ends; so is the next */
    uint64_t bytes;        /* of a command's output, of files */
    struct timer patience; /* for the first message, and for the client to leave */

    struct guest_stream *guest; /* NULL before it begins */
    bool has_begun;
    struct buf kept;   /* of the client's bytes: what there is no room for yet */
    bool input_ended;  /* no more comes behind those */
    bool is_input_out; /* and the guest knows */
    size_t owed;       /* to the guest: bytes that the client has yet to take */
    bool is_full;      /* the client is */
    bool is_done;      /* the client has been told all, and is to leave */
};

/* Answers the call, which becomes the socket or an error; s is freed by its kind in either case. */
void guest_socket_open(struct call *c, struct guest_socket *s,
                       const struct guest_socket_kind *kind);

/* To the client. cost is given back to the guest once the client has room again; 0 for none. */
void guest_socket_send(struct guest_socket *s, enum ws_kind kind, const void *data, size_t len,
                       size_t cost);
void guest_socket_send_json(struct guest_socket *s, struct buf *json); /* frees the buffer */

/* Bytes of the client's, in their order; for kind->text() as well. */
void guest_socket_input(struct guest_socket *s, const char *data, size_t len);
void guest_socket_end_input(struct guest_socket *s);
void guest_socket_push(struct guest_socket *s); /* the guest has room again */

/* The work is done; the client is given time to leave by itself before the socket is closed. */
void guest_socket_done(struct guest_socket *s);

/* Ends both sides and frees all; not from within kind->input(). how is for the log. */
void guest_socket_finish(struct guest_socket *s, enum ws_code code, const char *how);
