/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/api_probe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/list.h"
#include "base/mem.h"
#include "vmm/sock.h"
#include "vmm/vmm.h"

enum { ANSWER_MAX = 256 * 1024, CHUNK = 4096, QUESTION_MAX = 128 };

struct api_probe {
    struct loop *loop;
    api_probe_fn *fn;
    void *owner;
    struct watch watch; /* watch.fd is owned; -1 once the connection is lost */
    struct buf in;      /* exists only while part of an answer waits for the rest */
    bool asking;
    bool answered;
    bool busy; /* in the callback: tell() frees it if that closed it */
    bool closed;
    char question[QUESTION_MAX];
};

static void stop_watching(struct api_probe *p)
{
    int fd = p->watch.fd;

    if (fd < 0)
        return;
    loop_unwatch(p->loop, &p->watch);
    close(fd);
    buf_free(&p->in);
}

static void tell(struct api_probe *p, const struct http_answer *answer, const char *reason)
{
    p->busy = true;
    p->fn(p->owner, answer, reason);
    p->busy = false;
    if (p->closed)
        free(p);
}

static void lose(struct api_probe *p, const char *reason)
{
    stop_watching(p);
    tell(p, NULL, reason);
}

/* What does not fit into the socket at once is not waited for. */
static bool ask(struct api_probe *p, int fd)
{
    ssize_t len = (ssize_t)strlen(p->question);

    p->asking = send(fd, p->question, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL) == len;
    return p->asking;
}

static void take_answer(struct api_probe *p)
{
    struct http_answer a = {0};
    struct err e = {0};
    struct buf in = p->in;
    int rc = http_answer_parse(buf_str(&in), in.len, &a, &e);

    if (rc == 0 && p->asking)
        return;
    if (rc < 0 || in.len > a.len || !p->asking) {
        lose(p, "it sent what is not an answer");
        return;
    }
    p->in = BUF(ANSWER_MAX);
    p->asking = false;
    p->answered = true;
    tell(p, &a, NULL);
    buf_free(&in);
}

/* False when there is nothing more to take for now, or ever. */
static bool take_some(struct api_probe *p)
{
    char chunk[CHUNK];
    ssize_t n = recv(p->watch.fd, chunk, sizeof(chunk), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        lose(p, "it closed the connection");
        return false;
    }
    buf_append(&p->in, chunk, (size_t)n);
    if (!buf_ok(&p->in)) {
        lose(p, "it sent too long an answer");
        return false;
    }
    if (n == sizeof(chunk))
        return true;
    take_answer(p);
    return false;
}

static void on_readable(struct watch *w, uint32_t events)
{
    struct api_probe *p = container_of(w, struct api_probe, watch);

    (void)events;
    api_probe_drain(p);
}

struct api_probe *api_probe_open(struct loop *loop, int dir_fd, const char *request,
                                 api_probe_fn *fn, void *owner, struct err *e)
{
    struct api_probe *p;
    int fd = sock_connect(dir_fd, VMM_API_SOCKET, e);

    if (fd < 0)
        return NULL;
    p = mem_new(struct api_probe);
    p->loop = loop;
    p->fn = fn;
    p->owner = owner;
    p->in = BUF(ANSWER_MAX);
    p->watch.fn = on_readable;
    (void)snprintf(p->question,
                   sizeof(p->question),
                   "%s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
                   request);
    if (!ask(p, fd))
        err_set(e, ERR_INTERNAL, "the VMM does not take questions");
    else if (loop_watch(loop, &p->watch, fd, EPOLLIN, e) == 0)
        return p;
    close(fd);
    free(p);
    return NULL;
}

int api_probe_ask(struct api_probe *p, struct err *e)
{
    if (!api_probe_was_answered(p))
        return err_set(e, ERR_BAD_STATE, "the monitor is not connected");
    if (p->asking || ask(p, p->watch.fd))
        return 0;
    return err_set(e, ERR_INTERNAL, "the VMM does not take questions");
}

bool api_probe_was_answered(const struct api_probe *p)
{
    return p->answered && p->watch.fd >= 0;
}

void api_probe_drain(struct api_probe *p)
{
    if (p->watch.fd < 0 || p->busy)
        return;
    while (take_some(p))
        ;
}

void api_probe_close(struct api_probe *p)
{
    if (!p)
        return;
    stop_watching(p);
    p->closed = true;
    if (!p->busy)
        free(p);
}
