/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop's two ways to a Cloud Hypervisor: the file that it writes events to, and a
 * connection for probes (api_probe.h).
 *
 * The file is a plain one, so what happened while no daemon ran is still in it. What
 * is there at first is history: only what it came to is told. From then on inotify
 * says when there is more. Where something is cut, garbled or missing, the VMM is
 * asked how it is instead.
 */
#include "vmm/cloud_hypervisor.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/fswatch.h"
#include "vmm/api_probe.h"
#include "vmm/event_stream.h"

enum { EVENT_MAX = 64 * 1024, CHUNK = 4096 };

struct cloud_hypervisor_monitor {
    struct vmm_monitor base;
    struct api_probe *api;
    int events_fd; /* -1: there are none to be had */
    off_t at;      /* what was read of them */
    struct buf in; /* exists only while part of an object waits for the rest */
    struct fswatcher *files;
    struct fswatch more;
    struct timer first_look;
    enum vmm_event_kind latest; /* of history: PAUSED, RESUMED; LOST: nothing to tell */
    uint32_t reboots;           /* of history */
    bool is_history;
    bool greeted; /* the first answer has come */
    bool busy;    /* take_events() is at work, and frees it if the callback closed it */
    bool closed;
};

static const struct {
    const char *source, *event;
    enum vmm_event_kind kind;
    const char *reason;
} kinds[] = {
    {"vm", "paused", VMM_EVENT_PAUSED, NULL},
    {"vm", "resumed", VMM_EVENT_RESUMED, NULL},
    {"vm", "rebooted", VMM_EVENT_REBOOT, NULL},
    {"vm", "shutdown", VMM_EVENT_SHUTDOWN, "guest-shutdown"},
    {"guest", "panic", VMM_EVENT_PANIC, NULL},
};

/* Before the first answer that is under way already. */
static void resync(struct cloud_hypervisor_monitor *m)
{
    struct err ignored = {0};

    (void)api_probe_ask(m->api, &ignored);
}

static void take_event(struct cloud_hypervisor_monitor *m, const struct stream_event *s)
{
    if (s->is_lossy)
        resync(m);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct vmm_event event = {.kind = kinds[i].kind, .reason = kinds[i].reason};

        if (strcmp(kinds[i].source, s->source) != 0 || strcmp(kinds[i].event, s->event) != 0)
            continue;
        if (!m->is_history || event.kind == VMM_EVENT_SHUTDOWN || event.kind == VMM_EVENT_PANIC)
            m->base.fn(m->base.owner, &event);
        else if (event.kind == VMM_EVENT_REBOOT)
            m->reboots++;
        else
            m->latest = event.kind;
        return;
    }
}

static void take_objects(struct cloud_hypervisor_monitor *m)
{
    struct stream_event event;
    size_t used;

    while (!m->closed && (used = event_stream_take(buf_str(&m->in), m->in.len, &event)) > 0) {
        buf_consume(&m->in, used);
        take_event(m, &event);
    }
    if (m->in.len == 0)
        buf_free(&m->in);
}

/* A head that was given back to the disk is skipped; a file that got shorter is begun anew. */
static ssize_t read_chunk(struct cloud_hypervisor_monitor *m, char chunk[CHUNK])
{
    off_t data = lseek(m->events_fd, m->at, SEEK_DATA);

    if (data > m->at && m->in.len == 0)
        m->at = data;
    return pread(m->events_fd, chunk, CHUNK, m->at);
}

static void tell_history(struct cloud_hypervisor_monitor *m)
{
    struct vmm_event reboots = {.kind = VMM_EVENT_REBOOT, .times = m->reboots};
    struct vmm_event latest = {.kind = m->latest};

    m->is_history = false;
    if (m->reboots > 0)
        m->base.fn(m->base.owner, &reboots);
    if (!m->closed && m->latest != VMM_EVENT_LOST)
        m->base.fn(m->base.owner, &latest);
}

static void read_events(struct cloud_hypervisor_monitor *m)
{
    char chunk[CHUNK];
    ssize_t n;

    while (!m->closed && m->events_fd >= 0 && (n = read_chunk(m, chunk)) > 0) {
        m->at += n;
        buf_append(&m->in, chunk, (size_t)n);
        if (!buf_ok(&m->in)) {
            buf_free(&m->in);
            resync(m);
        }
        take_objects(m);
    }
    if (!m->closed && m->is_history)
        tell_history(m);
}

/* Between these two a callback may close the monitor. */
static bool enter(struct cloud_hypervisor_monitor *m)
{
    bool first = !m->busy;

    m->busy = true;
    return first;
}

static void leave(struct cloud_hypervisor_monitor *m)
{
    m->busy = false;
    if (m->closed)
        free(m);
}

static void take_events(struct cloud_hypervisor_monitor *m)
{
    if (!enter(m))
        return;
    read_events(m);
    leave(m);
}

static void on_more(struct fswatch *w)
{
    take_events(container_of(w, struct cloud_hypervisor_monitor, more));
}

static void on_first_look(struct timer *t)
{
    take_events(container_of(t, struct cloud_hypervisor_monitor, first_look));
}

/* What it wrote before the connection broke comes first. */
static void lost(struct cloud_hypervisor_monitor *m, const char *reason)
{
    struct vmm_event event = {.kind = VMM_EVENT_LOST, .reason = reason};

    if (!enter(m))
        return;
    read_events(m);
    if (!m->closed)
        m->base.fn(m->base.owner, &event);
    leave(m);
}

static void on_answer(void *owner, const struct http_answer *answer, const char *reason)
{
    struct cloud_hypervisor_monitor *m = owner;
    struct vmm_event event = {.kind = m->greeted ? VMM_EVENT_STATUS : VMM_EVENT_READY};

    if (!answer) {
        lost(m, reason);
        return;
    }
    m->greeted = true;
    if (answer->status == 200)
        event.status = cloud_hypervisor_status(answer->body, answer->body_len);
    m->base.fn(m->base.owner, &event);
}

/* Without events the VMM's end and its answers are still seen. */
static void follow_events(struct cloud_hypervisor_monitor *m, int dir_fd)
{
    struct err e = {0};

    m->events_fd = openat(dir_fd, VMM_EVENTS_LOG, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (m->events_fd < 0)
        err_errno(&e, "open %s", VMM_EVENTS_LOG);
    else if ((m->files = fswatcher_of(m->base.loop, &e)) != NULL &&
             fswatch_add(m->files, &m->more, m->events_fd, &e) == 0)
        loop_timer_start(m->base.loop, &m->first_look, 0);
    if (e.code != ERR_NONE)
        log_warn("the events of a Cloud Hypervisor are not followed: %s", e.msg);
}

static void monitor_close(struct vmm_monitor *base)
{
    struct cloud_hypervisor_monitor *m = container_of(base, struct cloud_hypervisor_monitor, base);

    api_probe_close(m->api);
    if (m->more.file)
        fswatch_remove(m->files, &m->more);
    loop_timer_stop(base->loop, &m->first_look);
    if (m->events_fd >= 0)
        close(m->events_fd);
    m->events_fd = -1;
    buf_free(&m->in);
    m->closed = true;
    if (!m->busy)
        free(m);
}

static struct vmm_monitor *monitor_open(struct loop *loop, int dir_fd, vmm_event_fn *fn,
                                        void *owner, struct err *e)
{
    struct cloud_hypervisor_monitor *m = mem_new(struct cloud_hypervisor_monitor);

    m->base = (struct vmm_monitor){&cloud_hypervisor_monitor_driver, loop, fn, owner};
    m->in = BUF(EVENT_MAX);
    m->latest = VMM_EVENT_LOST;
    m->is_history = true;
    m->more.fn = on_more;
    m->first_look.fn = on_first_look;
    m->api = api_probe_open(loop, dir_fd, "GET /api/v1/vm.info", on_answer, m, e);
    if (!m->api) {
        free(m);
        return NULL;
    }
    follow_events(m, dir_fd);
    return &m->base;
}

static int monitor_probe(struct vmm_monitor *base, struct err *e)
{
    struct cloud_hypervisor_monitor *m = container_of(base, struct cloud_hypervisor_monitor, base);

    return api_probe_ask(m->api, e);
}

static void monitor_drain(struct vmm_monitor *base)
{
    struct cloud_hypervisor_monitor *m = container_of(base, struct cloud_hypervisor_monitor, base);

    if (!enter(m))
        return;
    read_events(m);
    if (!m->closed)
        api_probe_drain(m->api);
    leave(m);
}

const struct vmm_monitor_driver cloud_hypervisor_monitor_driver = {
    .attach = monitor_open,
    .probe = monitor_probe,
    .drain = monitor_drain,
    .close = monitor_close,
};
