/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "http/private.h"

/* More rounds than one, because the library writes in the round after the one that resumes. */
enum { ROUNDS = 4 };

struct http_server *http_server_new(struct loop *loop, const struct http_handler *handler)
{
    struct http_server *s = mem_new(struct http_server);

    s->loop = loop;
    s->handler = *handler;
    s->quick_ms = QUICK_MS;
    s->idle_ms = IDLE_MS;
    s->ws_ping_ms = WS_PING_MS;
    s->ws_silence_ms = WS_SILENCE_MS;
    list_init(&s->listeners);
    list_init(&s->requests);
    list_init(&s->lingering);
    return s;
}

void listener_wake(struct listener *l)
{
    loop_timer_start(l->server->loop, &l->again, 0);
}

static void listener_run(struct listener *l)
{
    MHD_UNSIGNED_LONG_LONG wait_ms;
    int rounds = 0;

    do {
        if (++rounds > ROUNDS) {
            listener_wake(l); /* the others get their turn first */
            return;
        }
        MHD_run(l->daemon);
        /* No timeout is set in the library, so the only one it may ask for is "now". */
    } while (MHD_get_timeout(l->daemon, &wait_ms) == MHD_YES);

    for (struct list *i = l->hung_up.next; i != &l->hung_up; i = i->next)
        conn_settle(container_of(i, struct http_request, hung_up));
}

static void on_ready(struct watch *w, uint32_t events)
{
    (void)events;
    listener_run(container_of(w, struct listener, watch));
}

static void on_again(struct timer *t)
{
    listener_run(container_of(t, struct listener, again));
}

static void on_library_log(void *cls, const char *fmt, va_list ap)
    __attribute__((format(printf, 2, 0)));

static void on_library_log(void *cls, const char *fmt, va_list ap)
{
    char line[200];
    int n = vsnprintf(line, sizeof(line), fmt, ap);

    (void)cls;
    while (n > 0 && (size_t)n < sizeof(line) && line[n - 1] == '\n')
        line[--n] = '\0';
    log_debug("http: %s", line);
}

static struct MHD_Daemon *start_daemon(struct listener *l, int listen_fd)
{
    return MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE |
                                MHD_USE_ERROR_LOG,
                            0,
                            NULL,
                            NULL,
                            request_part,
                            NULL,
                            MHD_OPTION_EXTERNAL_LOGGER,
                            on_library_log,
                            NULL,
                            MHD_OPTION_LISTEN_SOCKET,
                            listen_fd,
                            MHD_OPTION_CONNECTION_LIMIT,
                            (unsigned)CONNECTIONS_MAX,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                            (size_t)POOL_BYTES,
                            MHD_OPTION_NOTIFY_CONNECTION,
                            conn_notify,
                            l,
                            MHD_OPTION_NOTIFY_COMPLETED,
                            request_completed,
                            NULL,
                            MHD_OPTION_URI_LOG_CALLBACK,
                            request_line,
                            NULL,
                            MHD_OPTION_END);
}

/* Stops accepting. The file goes first: as soon as nobody listens, a new daemon may take it over.
 */
static void listener_quiesce(struct listener *l)
{
    int fd;

    if (l->path)
        (void)unlink(l->path);
    free(l->path);
    l->path = NULL;
    fd = MHD_quiesce_daemon(l->daemon);
    if (fd >= 0)
        close(fd);
}

static void listener_free(struct listener *l)
{
    if (l->watch.fd >= 0)
        loop_unwatch(l->server->loop, &l->watch);
    MHD_stop_daemon(l->daemon);
    loop_timer_stop(l->server->loop, &l->again);
    list_remove(&l->link);
    free(l);
}

int listener_add(struct http_server *s, int listen_fd, const char *unix_path, struct err *e)
{
    struct listener *l = mem_new(struct listener);
    const union MHD_DaemonInfo *info;

    l->server = s;
    l->watch = (struct watch){.fn = on_ready, .fd = -1};
    l->again.fn = on_again;
    list_init(&l->hung_up);
    l->is_unix = unix_path != NULL;
    l->path = unix_path ? mem_strdup(unix_path) : NULL;
    l->daemon = start_daemon(l, listen_fd); /* owns the fd from here on, also if it fails */
    if (!l->daemon) {
        free(l->path);
        free(l);
        return err_set(e, ERR_INTERNAL, "the HTTP library did not start");
    }
    list_append(&s->listeners, &l->link);
    info = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (loop_watch(s->loop, &l->watch, info->epoll_fd, EPOLLIN, e) < 0) {
        listener_quiesce(l);
        listener_free(l);
        return -1;
    }
    return 0;
}

void http_server_stop(struct http_server *s)
{
    if (s->is_stopping)
        return;
    s->is_stopping = true;
    for (struct list *i = s->listeners.next; i != &s->listeners; i = i->next)
        listener_quiesce(container_of(i, struct listener, link));
    for (struct list *i = s->requests.next; i != &s->requests; i = i->next) {
        struct http_request *req = container_of(i, struct http_request, link);

        if (req->phase == PHASE_IDLE)
            conn_cut(req);
    }
}

unsigned http_server_open(const struct http_server *s)
{
    return s->n_open;
}

/* The library must not be stopped with suspended or upgraded connections. What gone() answers still
 * goes out, if the client's socket takes it. */
static void resume_all(struct http_server *s)
{
    for (struct list *i = s->requests.next; i != &s->requests; i = i->next) {
        struct http_request *req = container_of(i, struct http_request, link);

        if (req->websocket)
            websocket_drop(req);
        if (req->is_suspended)
            request_gone(req);
        conn_resume(req);
    }
}

void http_server_free(struct http_server *s)
{
    if (!s)
        return;
    http_server_stop(s);
    s->is_dying = true;
    resume_all(s);
    while (!list_empty(&s->listeners)) {
        struct listener *l = container_of(s->listeners.next, struct listener, link);

        listener_run(l);
        listener_free(l);
    }
    lingering_free_all(s);
    free(s);
}
