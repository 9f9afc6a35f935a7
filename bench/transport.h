/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What exec and cp are measured with: the bare transport to a guest that only echoes,
 * and a WebSocket to one of the daemon's instances.
 */
#pragma once

#include <sys/types.h>

#include "bare.h"
#include "cli/wsock.h"
#include "echo.h"

struct transport {
    struct bare bare;
    int fd;
    int relay_fd; /* -1: there is none */
    pid_t relay;
};

void transport_open(struct bench *b, struct transport *t); /* once "bench" was made */
void transport_close(struct transport *t);
void transport_echoes(struct transport *t);                         /* from here on it only does */
double transport_echo_us(struct transport *t, enum echo_byte byte); /* there and back */

/* The same through a process of the host that only passes it on, as a daemon is one at the least.
 */
void transport_relay(struct transport *t);
double transport_relayed_echo_us(struct transport *t, enum echo_byte byte);
double transport_mb_s(struct transport *t, char what, uint64_t bytes); /* as echo_init.c */

struct socket {
    struct wsock ws;
    size_t received;  /* bytes of binary messages */
    char first[4096]; /* of them, as text */
    char text[512];   /* the last text message */
    bool is_final;    /* it was "exitCode", "result" or a final "end" */
};
/* what: "NAME/exec" or "NAME/cp". */
void socket_open(struct bench *b, struct socket *s, const char *what, const char *request);
void socket_send(struct socket *s, const void *data, size_t len);
void socket_text(struct socket *s, const char *text);
void socket_fill(struct socket *s, size_t bytes); /* until so much has come, or the end */
double socket_echo_us(struct socket *s);          /* a byte through its command and back */
void socket_close(struct socket *s);
