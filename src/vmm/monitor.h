/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop's own connection to a VMM: events as they happen, and probes.
 *
 * Belongs to the loop thread and never blocks. A monitor tells its owner what
 * happened through one callback; it never changes an instance itself. Lines from
 * a VMM are capped and validated; garbage or an overflow is reported as LOST
 * (something may have been missed: ask again), never trusted.
 *
 * A probe is one write and one read: the answer comes as STATUS, or does not
 * come; the deadline is the owner's timer.
 */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "loop/loop.h"

struct vmm_driver;
struct vmm_monitor;

enum vmm_event_kind {
    VMM_EVENT_READY,  /* the monitor's handshake is done: it can be probed */
    VMM_EVENT_STATUS, /* the answer to a probe */
    VMM_EVENT_PAUSED,
    VMM_EVENT_RESUMED,
    VMM_EVENT_SHUTDOWN, /* the guest or somebody ended the VM; the process exits soon */
    VMM_EVENT_REBOOT,   /* the guest restarts within the same process */
    VMM_EVENT_PANIC,
    VMM_EVENT_LOST, /* the stream ended or was not understood */
};

enum vmm_status {
    VMM_STATUS_UNKNOWN,
    VMM_STATUS_CREATED, /* not started yet */
    VMM_STATUS_RUNNING,
    VMM_STATUS_PAUSED,
    VMM_STATUS_SHUTDOWN, /* the VM is off, its process lives */
};

struct vmm_event {
    enum vmm_event_kind kind;
    enum vmm_status status; /* with STATUS */
    const char *reason;     /* with SHUTDOWN and LOST; good during the callback */
    uint32_t times;         /* with REBOOT: of this process so far; 0: once more */
};

/* The callback may close the monitor. */
typedef void vmm_event_fn(void *owner, const struct vmm_event *event);

/* A driver's part: the same functions, see below for what they do. */
struct vmm_monitor_driver {
    struct vmm_monitor *(*attach)(struct loop *loop, int dir_fd, vmm_event_fn *fn, void *owner,
                                  struct err *e);
    int (*probe)(struct vmm_monitor *m, struct err *e);
    void (*drain)(struct vmm_monitor *m);
    void (*close)(struct vmm_monitor *m);
};

/* Every implementation embeds this first. */
struct vmm_monitor {
    const struct vmm_monitor_driver *driver;
    struct loop *loop;
    vmm_event_fn *fn;
    void *owner;
};

/* dir_fd is borrowed for the call; connecting does not wait. */
struct vmm_monitor *vmm_monitor_open(const struct vmm_driver *driver, struct loop *loop, int dir_fd,
                                     vmm_event_fn *fn, void *owner, struct err *e);
int vmm_monitor_probe(struct vmm_monitor *m, struct err *e); /* at most one is in flight */
void vmm_monitor_drain(
    struct vmm_monitor *m); /* takes what has arrived, before an exit is judged */
void vmm_monitor_close(struct vmm_monitor *m); /* NULL is fine */
