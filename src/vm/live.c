/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/live.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/net.h"
#include "vm/agent.h"
#include "vm/exit_note.h"
#include "vm/log_limit.h"
#include "vm/network.h"
#include "vm/op.h"
#include "vmm/monitor.h"

/*
 * After a restore: a greeting that met the rest of a cut frame is swallowed with it, and
 * the guest sees that only when the connection ends. So it is ended, and made again when
 * the guest had time to see it.
 */
enum { GREETINGS = 5, AGAIN_MS = 300 };

struct vm_live {
    struct vm_world *world;
    struct instance *row; /* lives as long as we do: a row with a live process is not freed */
    uint64_t boot;        /* what the guest calls its run */
    int pidfd;
    struct watch exit_watch;
    struct vmm_monitor *monitor;
    struct agent *agent;
    struct timer greeting; /* looks for it; after a restore only */
    unsigned greetings;    /* so many were tried */
    int64_t freezes;       /* so many were asked for: the serial of the last */
    int frozen_fd;         /* an operation waits here to hear that the workload stands still; -1 */
    struct log_limit *logs;
    struct net_slot *slot; /* NULL: no network */
    char *why_shutdown;    /* the VMM's word for why the VM ended; NULL for none */

    bool exited; /* the process is gone; not judged yet */
    struct proc_exit exit;
    bool reported; /* the agent told how the workload ended */
    struct exit_record report;
};

struct net_slot *live_slot(const struct instance *row)
{
    return row->live ? row->live->slot : NULL;
}

static void tell_frozen(struct vm_live *live, uint64_t how)
{
    if (live->frozen_fd < 0)
        return;
    (void)!write(live->frozen_fd, &how, sizeof(how));
    close(take_fd(&live->frozen_fd));
}

int live_dup_pidfd(const struct instance *row)
{
    return row->live ? fcntl(row->live->pidfd, F_DUPFD_CLOEXEC, 3) : -1;
}

void live_kill(const struct instance *row)
{
    struct err e = {0};

    if (row->live && proc_signal(row->live->pidfd, SIGKILL, &e) < 0)
        log_warn("kill instance %s: %s", row->id, e.msg);
}

void live_ask_shutdown(const struct instance *row, int64_t grace_ms)
{
    if (row->live && row->live->agent)
        agent_shutdown(row->live->agent, grace_ms);
}

int live_freeze(const struct instance *row)
{
    struct vm_live *live = row->live;
    int fd;

    if (!live || !live->agent)
        return -1;
    tell_frozen(live, 2); /* an operation that has given up */
    live->frozen_fd = eventfd(0, EFD_CLOEXEC);
    fd = live->frozen_fd < 0 ? -1 : fcntl(live->frozen_fd, F_DUPFD_CLOEXEC, 3);
    if (fd >= 0)
        agent_freeze(live->agent, ++live->freezes);
    return fd;
}

void live_thaw(const struct instance *row)
{
    if (row->live && row->live->agent)
        agent_freeze(row->live->agent, 0);
}

/* What was observed is shown at once; the store hears of it when it can. */
static void observed(struct vm_live *live)
{
    struct vm_world *w = live->world;

    live->row->observed_ms = clock_ms();
    instance_changed(&w->table, live->row);
    exit_note_store(w, live->row);
}

static void agent_started(void *owner, int64_t at_us)
{
    struct vm_live *live = owner;

    (void)at_us; /* the guest's clock; the host's is what is accounted */
    if (live->row->holder || live->row->run.state != VM_INITIALIZING)
        return;
    vm_run_enter(&live->row->run, VM_RUNNING, VM_BY_EVENT, wall_us());
    observed(live);
}

static void agent_exited(void *owner, const struct exit_record *record)
{
    struct vm_live *live = owner;

    if (record->incarnation != live->boot)
        return; /* word of an earlier process, replayed by a snapshot or made up */
    live->reported = true;
    live->report = *record;
}

static void agent_frozen(void *owner, int64_t serial, bool frozen, const char *message)
{
    struct vm_live *live = owner;

    if (serial != live->freezes) /* of an operation that has given up */
        return;
    if (!frozen)
        log_warn("instance %s: its workload does not stand still: %s", live->row->id, message);
    tell_frozen(live, frozen ? 1 : 2);
}

static void agent_lost(void *owner, const struct err *why)
{
    struct vm_live *live = owner;

    log_debug("instance %s: %s", live->row->id, why->msg);
    tell_frozen(live, 2);
    agent_close(live->agent);
    live->agent = NULL;
}

static const struct agent_events from_agent = {
    .started = agent_started,
    .exited = agent_exited,
    .frozen = agent_frozen,
    .lost = agent_lost,
};

static void look_for_greeting(struct timer *t);

/* A guest that boots takes its time, and has nothing cut in its stream. */
static void connect_agent(struct vm_live *live, int dir_fd)
{
    struct instance *row = live->row;
    struct agent_identity who = {row->id, row->spec->name, row->run.address};
    struct err e = {0};

    live->agent = agent_open(live->world->loop, dir_fd, &who, &from_agent, live, &e);
    if (!live->agent)
        log_debug("instance %s: %s", row->id, e.msg);
    if (row->run.boot == row->run.incarnation || ++live->greetings >= GREETINGS)
        return;
    live->greeting.fn = look_for_greeting;
    loop_timer_start(live->world->loop, &live->greeting, live->world->greeting_patience_ms);
}

static void connect_again(struct timer *t)
{
    struct vm_live *live = container_of(t, struct vm_live, greeting);
    struct err e = {0};
    int dir_fd = env_open_instance(&live->world->env, live->row->id, &e);

    if (dir_fd < 0)
        return;
    connect_agent(live, dir_fd);
    close(dir_fd);
}

static void look_for_greeting(struct timer *t)
{
    struct vm_live *live = container_of(t, struct vm_live, greeting);

    if (live->agent && agent_has_greeted(live->agent))
        return;
    log_debug("instance %s: its agent does not greet; connecting again", live->row->id);
    agent_close(live->agent);
    live->agent = NULL;
    t->fn = connect_again;
    loop_timer_start(live->world->loop, t, AGAIN_MS);
}

static void enter_by_event(struct vm_live *live, enum vm_state from, enum vm_state to)
{
    if (live->row->holder || live->row->run.state != from)
        return;
    vm_run_enter(&live->row->run, to, VM_BY_EVENT, wall_us());
    observed(live);
}

static void on_monitor(void *owner, const struct vmm_event *event)
{
    struct vm_live *live = owner;

    switch (event->kind) {
    case VMM_EVENT_PAUSED:
        enter_by_event(live, VM_RUNNING, VM_PAUSED);
        break;
    case VMM_EVENT_RESUMED:
        enter_by_event(live, VM_PAUSED, VM_RUNNING);
        break;
    case VMM_EVENT_SHUTDOWN:
    case VMM_EVENT_PANIC:
        free(live->why_shutdown);
        live->why_shutdown = mem_strdup(event->kind == VMM_EVENT_PANIC ? "guest-panic"
                                        : event->reason                ? event->reason
                                                                       : "");
        break;
    case VMM_EVENT_LOST:
        vmm_monitor_close(live->monitor);
        live->monitor = NULL;
        break;
    case VMM_EVENT_READY:
    case VMM_EVENT_STATUS:
    case VMM_EVENT_REBOOT:
        break;
    }
}

static void process_ended(struct watch *watch, uint32_t events)
{
    struct vm_live *live = container_of(watch, struct vm_live, exit_watch);

    (void)events;
    loop_unwatch(live->world->loop, watch);
    live->exit = proc_reap(live->pidfd);
    live->exited = true;
    if (live->agent)
        agent_drain(live->agent);
    if (live->monitor)
        vmm_monitor_drain(live->monitor);
    live_judge(live->world, live->row);
}

void live_attach(struct vm_world *w, struct instance *row, int pidfd, int dir_fd,
                 struct net_slot *slot)
{
    struct vm_live *live = mem_new(struct vm_live);
    struct err e = {0};

    assert(!row->live);
    live->world = w;
    live->row = row;
    live->boot = row->run.boot;
    live->pidfd = pidfd;
    live->slot = slot;
    live->frozen_fd = -1;
    live->exit_watch.fn = process_ended;
    row->live = live;
    if (loop_watch(w->loop, &live->exit_watch, pidfd, EPOLLIN, &e) < 0) {
        log_error("instance %s: its end will not be seen: %s", row->id, e.msg);
        err_clear(&e);
    }
    connect_agent(live, dir_fd);
    live->logs = log_limit_new(w, row->id, dir_fd);
    if (row->spec->driver->monitor)
        live->monitor = vmm_monitor_open(row->spec->driver, w->loop, dir_fd, on_monitor, live, &e);
    if (e.code != ERR_NONE)
        log_warn("instance %s: %s", row->id, e.msg);
}

void live_detach(struct vm_world *w, struct instance *row)
{
    struct vm_live *live = row->live;

    if (!live)
        return;
    row->live = NULL;
    if (live->exit_watch.fd > 0 && !live->exited)
        loop_unwatch(w->loop, &live->exit_watch);
    loop_timer_stop(w->loop, &live->greeting);
    tell_frozen(live, 2);
    vmm_monitor_close(live->monitor);
    agent_close(live->agent);
    log_limit_free(live->logs);
    if (live->slot)
        net_release(w->net, live->slot);
    close(live->pidfd);
    free(live->why_shutdown);
    free(live);
}

/* What can be said of an end that the guest did not report. */
static void describe_end(const struct vm_live *live, char *out, size_t size)
{
    if (live->why_shutdown && strcmp(live->why_shutdown, "guest-panic") == 0)
        (void)snprintf(out, size, "the guest's kernel panicked");
    else if (live->exit.known && live->exit.code > 128)
        (void)snprintf(out, size, "the VMM was ended by signal %d", live->exit.code - 128);
    else if (live->exit.known && live->exit.code != 0)
        (void)snprintf(
            out, size, "the VMM exited with status %d; see its log (source vmm)", live->exit.code);
    else
        (void)snprintf(out, size, "the VM ended without a report from the guest");
}

void live_judge(struct vm_world *w, struct instance *row)
{
    struct vm_live *live = row->live;
    char text[128];
    bool reported;

    if (!live || !live->exited || row->holder)
        return;
    reported = live->reported;
    vm_run_enter(&row->run, VM_STOPPED, VM_BY_EXIT, wall_us());
    row->run.stopped_us = row->run.since_us;
    if (reported) {
        vm_run_set_exit(&row->run, live->report.code, live->report.message);
    } else {
        describe_end(live, text, sizeof(text));
        vm_run_set_end(&row->run, text);
    }
    log_info("instance %s (%s) has ended%s%s",
             row->id,
             row->spec->name,
             row->run.exit_message ? ": " : "",
             row->run.exit_message ? row->run.exit_message : "");
    live_detach(w, row);
    network_settle_ports(row, false);
    row->observed_ms = clock_ms();
    instance_changed(&w->table, row);
    exit_note_store(w, row);
    if (!reported)
        exit_note_read(w, row); /* the guest may have left word on its disk */
}
