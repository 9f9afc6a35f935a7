/* SPDX-License-Identifier: Apache-2.0 */
#include "server.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/scm.h"
#include "fault.h"

enum { MAX_CONNECTIONS = 10, HEAD_MAX = 4096 };

struct connection {
    int fd;
    struct buf in;
};

static struct connection connections[MAX_CONNECTIONS];

static void send_text(int fd, const char *text, size_t len, int pause_ms)
{
    size_t step = pause_ms ? 1 : len;

    for (size_t at = 0; at < len; at += step) {
        if (send(fd, text + at, step, MSG_NOSIGNAL) < 0)
            return;
        if (pause_ms)
            fault_pause_ms(pause_ms);
    }
}

static void send_answer(const struct server *s, int fd, const char *request, const struct answer *a)
{
    static const char garbage[] = "\x16\x03\x01 nothing that anybody asked for\r\n\r\n";
    struct buf text = BUF(128 * 1024);
    int pause_ms = 0;

    buf_printf(
        &text, "HTTP/1.1 %d \r\nServer: %s\r\nConnection: keep-alive\r\n", a->status, s->name);
    if (a->status != 204)
        buf_printf(&text, "Content-Type: application/json\r\nContent-Length: %zu\r\n", a->body.len);
    buf_printf(&text, "\r\n%s", a->status == 204 ? "" : buf_str(&a->body));
    (void)fault_is("drip", request, &pause_ms);
    if (fault_is("garbage", request, NULL))
        send_text(fd, garbage, sizeof(garbage) - 1, 0);
    else if (fault_is("half", request, NULL)) {
        send_text(fd, text.data, text.len / 2, 0);
        _exit(DOUBLE_EXIT_ERROR);
    } else
        send_text(fd, text.data, text.len, pause_ms);
    buf_free(&text);
}

static void handle(const struct server *s, int fd, const char *request, const char *body_text,
                   size_t len)
{
    struct answer a = {.body = BUF(64 * 1024)};
    json_error_t je;
    json_t *body = len ? json_loadb(body_text, len, 0, &je) : NULL;
    int number = 0;

    if (strcmp(request, "GET /double") != 0)
        s->vm->counts.requests++;
    if (fault_is("deaf", request, NULL)) {
        for (;;)
            (void)pause();
    }
    if (fault_is("die", request, &number))
        _exit(number);
    if (fault_is("hold", request, &number))
        fault_pause_ms(number);
    if (len && !body)
        s->fault(&a, "An error occurred when deserializing the json body of a request.");
    else if (fault_is("refuse", request, NULL))
        s->fault(&a, "The double was told to refuse this.");
    else
        s->carry_out(request, body, &a);
    if (fault_is("park", request, &number))
        fault_pause_ms(number);
    send_answer(s, fd, request, &a);
    if (a.then_exit)
        exit(a.status >= 400 ? DOUBLE_EXIT_ERROR : 0);
    json_decref(body);
    buf_free(&a.body);
}

/* --- connections --- */

static void hang_up(struct connection *c)
{
    close(c->fd);
    buf_free(&c->in);
    c->fd = -1;
}

/* Serves the request at the front, if it is all there. */
static bool serve_one(const struct server *s, struct connection *c)
{
    const char *head_end = c->in.len ? memmem(c->in.data, c->in.len, "\r\n\r\n", 4) : NULL;
    const char *length_line;
    char request[256];
    size_t length = 0;
    size_t head;
    char method[16];
    char path[200];

    if (!head_end)
        return false;
    head = (size_t)(head_end + 4 - c->in.data);
    length_line = strcasestr(c->in.data, "\r\nContent-Length:");
    if (length_line && length_line < head_end)
        length = strtoul(length_line + strlen("\r\nContent-Length:"), NULL, 10);
    if (length > s->payload_max || sscanf(c->in.data, "%15s %199s HTTP/1.1", method, path) != 2) {
        hang_up(c);
        return false;
    }
    if (c->in.len < head + length)
        return false;
    (void)snprintf(request, sizeof(request), "%s %s", method, path);
    handle(s, c->fd, request, c->in.data + head, length);
    buf_consume(&c->in, head + length);
    return true;
}

static void readable(struct server *s, struct connection *c)
{
    char *space = buf_space(&c->in, HEAD_MAX);
    ssize_t n = space ? scm_receive(c->fd, space, HEAD_MAX, &s->given_fd) : 0;

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        hang_up(c);
        return;
    }
    buf_added(&c->in, (size_t)n);
    while (c->fd >= 0 && serve_one(s, c))
        ;
}

static void accept_one(const struct server *s, int listen_fd)
{
    static const char full[] = "HTTP/1.1 503 \r\nContent-Length: 40\r\n\r\n"
                               "{ \"error\": \"Too many open connections\" }";
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

    for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
        if (connections[i].fd < 0) {
            connections[i] = (struct connection){.fd = fd, .in = BUF(s->payload_max + HEAD_MAX)};
            return;
        }
    }
    (void)!send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL);
    close(fd);
}

/* A guest that is paused is not there: its sockets take connections, and nobody answers. */
void server_run(struct server *s, int listen_fd)
{
    s->given_fd = -1;
    for (size_t i = 0; i < MAX_CONNECTIONS; i++)
        connections[i].fd = -1;
    for (;;) {
        bool runs = s->vm->phase == VM_RUNNING;
        struct pollfd fds[MAX_CONNECTIONS + 3];
        nfds_t n = 0;

        if (vm_resets(s->vm))
            exit(0);
        for (; n < MAX_CONNECTIONS; n++)
            fds[n] = (struct pollfd){.fd = connections[n].fd, .events = POLLIN};
        fds[n++] = (struct pollfd){.fd = listen_fd, .events = POLLIN};
        fds[n++] = (struct pollfd){.fd = runs ? s->vm->vsock_fd : -1, .events = POLLIN};
        fds[n++] = (struct pollfd){.fd = runs ? guest_fd(s->guest) : -1, .events = POLLIN};
        if (poll(fds, n, -1) < 0)
            continue;
        for (nfds_t i = 0; i < MAX_CONNECTIONS; i++) {
            if (fds[i].revents)
                readable(s, &connections[i]);
        }
        if (fds[MAX_CONNECTIONS].revents)
            accept_one(s, listen_fd);
        if (fds[MAX_CONNECTIONS + 2].revents && guest_fd(s->guest) >= 0)
            guest_readable(s->guest);
        if (fds[MAX_CONNECTIONS + 1].revents && s->vm->phase == VM_RUNNING)
            guest_accept(s->guest);
    }
}
