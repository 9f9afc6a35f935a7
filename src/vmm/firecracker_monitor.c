/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop's connection to a Firecracker. It tells of nothing by itself (an end is
 * the process's end), so this is a connection that is kept for probes: GET / and
 * its answer. The first one is the handshake.
 *
 * A Firecracker that is busy with another request, as while it writes a snapshot,
 * answers after it; whether that is late is the owner's to say.
 */
#include "vmm/firecracker.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/list.h"
#include "base/mem.h"
#include "vmm/api_probe.h"

struct firecracker_monitor {
    struct vmm_monitor base;
    struct api_probe *api;
    bool greeted;
};

static enum vmm_status status_of(const struct http_answer *a)
{
    static const struct {
        const char *state;
        enum vmm_status status;
    } states[] = {
        {"Not started", VMM_STATUS_CREATED},
        {"Running", VMM_STATUS_RUNNING},
        {"Paused", VMM_STATUS_PAUSED},
    };
    struct err ignored = {0};
    json_auto_t *body = a->status == 200 ? parse_json(a->body, a->body_len, &ignored) : NULL;
    const char *state = json_string_value(json_object_get(body, "state"));

    for (size_t i = 0; state && i < sizeof(states) / sizeof(states[0]); i++) {
        if (strcmp(states[i].state, state) == 0)
            return states[i].status;
    }
    return VMM_STATUS_UNKNOWN;
}

static void on_answer(void *owner, const struct http_answer *answer, const char *reason)
{
    struct firecracker_monitor *m = owner;
    struct vmm_event event = {.kind = VMM_EVENT_LOST, .reason = reason};

    if (answer) {
        event.kind = m->greeted ? VMM_EVENT_STATUS : VMM_EVENT_READY;
        event.status = status_of(answer);
        m->greeted = true;
    }
    m->base.fn(m->base.owner, &event);
}

static void monitor_close(struct vmm_monitor *base)
{
    struct firecracker_monitor *m = container_of(base, struct firecracker_monitor, base);

    api_probe_close(m->api);
    free(m);
}

static struct vmm_monitor *monitor_open(struct loop *loop, int dir_fd, vmm_event_fn *fn,
                                        void *owner, struct err *e)
{
    struct firecracker_monitor *m = mem_new(struct firecracker_monitor);

    m->base = (struct vmm_monitor){&firecracker_monitor_driver, loop, fn, owner};
    m->api = api_probe_open(loop, dir_fd, "GET /", on_answer, m, e);
    if (m->api)
        return &m->base;
    free(m);
    return NULL;
}

static int monitor_probe(struct vmm_monitor *base, struct err *e)
{
    return api_probe_ask(container_of(base, struct firecracker_monitor, base)->api, e);
}

static void monitor_drain(struct vmm_monitor *base)
{
    api_probe_drain(container_of(base, struct firecracker_monitor, base)->api);
}

const struct vmm_monitor_driver firecracker_monitor_driver = {
    .attach = monitor_open,
    .probe = monitor_probe,
    .drain = monitor_drain,
    .close = monitor_close,
};
