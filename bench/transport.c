/* SPDX-License-Identifier: Apache-2.0 */
#include "transport.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cli/session.h"
#include "vmm/sock.h"

enum { WAIT_MS = 120000, SEND_AHEAD = 256 * 1024 };

static char bytes[64 * 1024];

static void put(int fd, const void *data, size_t len)
{
    struct op op = {clock_ms() + WAIT_MS, -1};
    struct err e = {0};
    const char *at = data;

    while (len > 0) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n > 0) {
            at += n;
            len -= (size_t)n;
        } else {
            must(op_wait(&op, fd, POLLOUT, &e), &e);
        }
    }
}

static void get(int fd, uint64_t len)
{
    struct op op = {clock_ms() + WAIT_MS, -1};
    struct err e = {0};

    while (len > 0) {
        ssize_t n =
            recv(fd, bytes, len < sizeof(bytes) ? (size_t)len : sizeof(bytes), MSG_DONTWAIT);

        if (n > 0)
            len -= (uint64_t)n;
        else if (n == 0)
            give_up("the bare VM has ended");
        else
            must(op_wait(&op, fd, POLLIN, &e), &e);
    }
}

static void ask(const struct transport *t, char what, uint64_t count)
{
    unsigned char request[9] = {(unsigned char)what};

    memcpy(request + 1, &count, sizeof(count));
    put(t->fd, request, sizeof(request));
}

static double echo_us(int fd, enum echo_byte byte)
{
    char what = (char)byte;
    double began = now_us();

    put(fd, &what, 1);
    get(fd, 1);
    return now_us() - began;
}

double transport_echo_us(struct transport *t, enum echo_byte byte)
{
    return echo_us(t->fd, byte);
}

/* A byte there, then one back: in between it leaves the transport alone. */
static _Noreturn void relay(int from, int to)
{
    char byte;

    while (recv(from, &byte, 1, 0) == 1 && send(to, &byte, 1, MSG_NOSIGNAL) == 1 &&
           recv(to, &byte, 1, 0) == 1 && send(from, &byte, 1, MSG_NOSIGNAL) == 1)
        ;
    _exit(0);
}

void transport_relay(struct transport *t)
{
    int ends[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        give_up("make a socket: %m");
    (void)fcntl(t->fd, F_SETFL, 0); /* we ask for MSG_DONTWAIT, it waits */
    pid = fork();
    if (pid < 0)
        give_up("fork: %m");
    if (pid == 0) {
        close(ends[0]);
        relay(ends[1], t->fd);
    }
    close(ends[1]);
    t->relay_fd = ends[0];
    t->relay = pid;
}

double transport_relayed_echo_us(struct transport *t, enum echo_byte byte)
{
    return echo_us(t->relay_fd, byte);
}

void transport_echoes(struct transport *t)
{
    ask(t, 'e', INT64_MAX);
}

double transport_mb_s(struct transport *t, char what, uint64_t count)
{
    bool is_to = what == 's' || what == 'w';
    double began = now_us();

    ask(t, what, count);
    for (uint64_t left = count; is_to && left > 0;) {
        size_t n = left < sizeof(bytes) ? (size_t)left : sizeof(bytes);

        put(t->fd, bytes, n);
        left -= n;
    }
    get(t->fd, is_to ? 1 : count);
    return (double)count / (now_us() - began);
}

void transport_open(struct bench *b, struct transport *t)
{
    struct err e = {0};

    bare_prepare(b, &t->bare, "echo-init");
    bare_keep_disks(b, &t->bare);
    bare_start(&t->bare);
    t->fd = sock_connect(t->bare.dir_fd, VMM_AGENT_SOCKET, &e);
    must(t->fd, &e);
    t->relay_fd = -1;
    ask(t, 'e', 1);
    (void)transport_echo_us(t, ECHO_AT_ONCE); /* it has booted */
}

void transport_close(struct transport *t)
{
    if (t->relay_fd >= 0) {
        close(t->relay_fd); /* which ends it */
        (void)waitpid(t->relay, NULL, 0);
    }
    close(t->fd);
    bare_end(&t->bare);
    close(t->bare.dir_fd);
}

/* --- the daemon's side --- */

static void on_binary(void *arg, const void *data, size_t len, bool is_first)
{
    struct socket *s = arg;

    (void)is_first;
    if (s->received + len < sizeof(s->first))
        memcpy(s->first + s->received, data, len);
    s->received += len;
}

static void on_text(void *arg, const char *text, size_t len)
{
    struct socket *s = arg;

    (void)snprintf(s->text, sizeof(s->text), "%.*s", (int)len, text);
    s->is_final = strstr(s->text, "exitCode") || strstr(s->text, "\"result\"") ||
                  strstr(s->text, "\"final\":true") || strstr(s->text, "\"error\"");
}

static void on_closed(void *arg, unsigned code)
{
    (void)arg;
    (void)code;
}

static const struct ws_events events = {on_binary, on_text, on_closed};

void socket_open(struct bench *b, struct socket *s, const char *what, const char *request)
{
    struct op op = {clock_ms() + WAIT_MS, -1};
    auto_free char *path = mem_printf("/instances/%s", what);
    static char where[320];
    struct err e = {0};

    (void)snprintf(where, sizeof(where), "%s/h.sock", b->root);
    session_target.socket_path = where;
    session_forget();
    *s = (struct socket){.ws = WSOCK};
    must(wsock_open(&op, &s->ws, path, &events, s, &e), &e);
    socket_text(s, request);
}

static void flush(struct socket *s, size_t left)
{
    struct op op = {clock_ms() + WAIT_MS, -1};
    struct err e = {0};

    must(wsock_drain(&op, &s->ws, left, &e), &e);
}

void socket_send(struct socket *s, const void *data, size_t len)
{
    ws_put(s->ws.ws, WS_BINARY, data, len);
    flush(s, SEND_AHEAD);
}

void socket_text(struct socket *s, const char *text)
{
    ws_put(s->ws.ws, WS_TEXT, text, strlen(text));
    flush(s, 0);
}

void socket_fill(struct socket *s, size_t want)
{
    struct op op = {clock_ms() + WAIT_MS, -1};
    struct err e = {0};

    flush(s, 0);
    while (s->received < want && !s->is_final && !s->ws.is_over)
        must(wsock_step(&op, &s->ws, &e), &e);
}

double socket_echo_us(struct socket *s)
{
    size_t want = s->received + 1;
    double began = now_us();

    socket_send(s, "x", 1);
    socket_fill(s, want);
    if (s->received != want)
        give_up("the command in the guest has ended: %s", s->text);
    return now_us() - began;
}

void socket_close(struct socket *s)
{
    wsock_fini(&s->ws);
}
