/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/live.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/net.h"
#include "vm/agent.h"
#include "vm/dial.h"
#include "vm/exit_note.h"
#include "vm/guest_mux.h"
#include "vm/live_private.h"
#include "vm/log_limit.h"
#include "vm/network.h"
#include "vm/op.h"
#include "vmm/monitor.h"
#include "wire/frame.h"

#define UNRESPONSIVE "unresponsive" /* our own word among a VMM's reasons */

struct net_slot *live_slot(const struct instance *row)
{
    return row->live ? row->live->slot : NULL;
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

void live_observed(struct vm_live *live)
{
    struct vm_world *w = live->world;

    live->row->observed_us = wall_us();
    probe_overtake(&live->row->probe);
    instance_changed(&w->table, live->row);
    exit_note_store(w, live->row);
}

/* What the VMM says of itself: by its own word, or asked. */
static void enter(struct vm_live *live, enum vm_state to, enum vm_source source)
{
    if (live->row->holder || live->row->run.state == to)
        return;
    vm_run_enter(&live->row->run, to, source, wall_us());
    live_observed(live);
}

static void enter_by_event(struct vm_live *live, enum vm_state from, enum vm_state to)
{
    if (live->row->run.state == from)
        enter(live, to, VM_BY_EVENT);
}

/* The answer to a question. Running says nothing of the guest's own progress. */
static void take_status(struct vm_live *live, enum vmm_status status)
{
    enum vm_state now = live->row->run.state;

    switch (status) {
    case VMM_STATUS_CREATED:
        enter(live, VM_CREATED, VM_BY_PROBE);
        break;
    case VMM_STATUS_PAUSED:
        enter(live, VM_PAUSED, VM_BY_PROBE);
        break;
    case VMM_STATUS_SHUTDOWN:
        enter(live, VM_SHUTDOWN, VM_BY_PROBE);
        break;
    case VMM_STATUS_RUNNING:
        if (now != VM_INITIALIZING && now != VM_RUNNING)
            enter(live, now == VM_CREATED ? VM_INITIALIZING : VM_RUNNING, VM_BY_PROBE);
        break;
    case VMM_STATUS_UNKNOWN:
        break;
    }
}

static void ask_when_ready(struct vm_live *live)
{
    struct err e = {0};

    live->is_ready = true;
    if (live->is_asked && vmm_monitor_probe(live->monitor, &e) < 0) {
        log_debug("instance %s: %s", live->row->id, e.msg);
        prober_refused(&live->world->prober, live->row);
    }
    live->is_asked = false;
}

void live_hang_up(struct instance *row)
{
    struct vm_live *live = row->live;

    vmm_monitor_close(live->monitor);
    live->monitor = NULL;
    live->is_ready = live->is_asked = false;
}

/* Its events may have been missed: whoever is asked next connects anew. */
static void monitor_lost(struct vm_live *live, const char *why)
{
    struct prober *prober = &live->world->prober;

    log_debug("instance %s: its VMM's events: %s", live->row->id, why ? why : "lost");
    live_hang_up(live->row);
    if (live->row->probe.is_in_flight)
        prober_refused(prober, live->row);
    else if (!live->why_shutdown && !live->reported) /* which its end explains */
        prober_resync(prober, live->row);
}

/* The process goes on, and the workload begins again: its end is kept as the last one's. */
static void guest_restarted(struct vm_live *live, uint32_t times)
{
    struct vm_run *run = &live->row->run;
    char text[80];

    if (live->row->holder || (times > 0 && times <= run->restarts))
        return;
    run->restarts = times > 0 ? times : run->restarts + 1;
    (void)snprintf(text,
                   sizeof(text),
                   "the guest restarted its machine, %u time%s so far",
                   run->restarts,
                   run->restarts == 1 ? "" : "s");
    if (live->reported)
        vm_run_set_exit(run, live->report.code, live->report.message);
    else
        vm_run_set_end(run, text);
    live->reported = false;
    vm_run_enter(run, VM_INITIALIZING, VM_BY_EVENT, wall_us());
    run->started_us = run->since_us;
    log_info("instance %s (%s): %s", live->row->id, live->row->spec->name, text);
    live_observed(live);
}

static void on_monitor(void *owner, const struct vmm_event *event)
{
    struct vm_live *live = owner;
    struct prober *prober = &live->world->prober;

    if (event->kind == VMM_EVENT_STATUS) {
        if (prober_answered(prober, live->row))
            take_status(live, event->status);
        return;
    }
    if (event->kind != VMM_EVENT_LOST)
        prober_heard(prober, live->row);
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
        monitor_lost(live, event->reason);
        break;
    case VMM_EVENT_REBOOT:
        guest_restarted(live, event->times);
        break;
    case VMM_EVENT_READY:
        ask_when_ready(live);
        break;
    case VMM_EVENT_STATUS:
        break;
    }
}

/* --- for the prober --- */

static int open_monitor(struct vm_live *live, int dir_fd, struct err *e)
{
    if (!live->row->spec->driver->monitor)
        return err_set(e, ERR_UNSUPPORTED, "%s cannot be asked", live->row->spec->hypervisor);
    live->is_ready = live->is_asked = false;
    live->monitor =
        vmm_monitor_open(live->row->spec->driver, live->world->loop, dir_fd, on_monitor, live, e);
    return live->monitor ? 0 : -1;
}

int live_ask(struct instance *row, struct err *e)
{
    struct vm_live *live = row->live;

    if (!live->monitor) {
        /* Its VMM's working directory: the kernel has it at hand, no disk is waited for. */
        auto_close int dir_fd = env_open_instance(&live->world->env, row->id, e);

        if (dir_fd < 0 || open_monitor(live, dir_fd, e) < 0)
            return -1;
    }
    if (live->is_ready)
        return vmm_monitor_probe(live->monitor, e);
    live->is_asked = true;
    return 0;
}

void live_drain(struct instance *row)
{
    if (row->live->monitor)
        vmm_monitor_drain(row->live->monitor);
}

void live_probed(struct instance *row)
{
    struct vm_world *w = row->live->world;
    struct vm_run *run = &row->run;

    if (probe_is_unknown(&row->probe) && run->state != VM_UNKNOWN) {
        log_warn("instance %s (%s): its VMM does not answer", row->id, row->spec->name);
        vm_run_enter(run, VM_UNKNOWN, VM_BY_PROBE, wall_us());
    } else if (!probe_is_unknown(&row->probe) && run->state == VM_UNKNOWN) {
        log_info("instance %s (%s): its VMM answers again", row->id, row->spec->name);
        vm_run_enter(run, run->before, VM_BY_PROBE, wall_us());
    }
    instance_changed(&w->table, row);
}

void live_kill_silent(struct instance *row)
{
    struct vm_live *live = row->live;

    log_warn("instance %s (%s): its VMM did not answer for too long; killing it",
             row->id,
             row->spec->name);
    free(live->why_shutdown);
    live->why_shutdown = mem_strdup(UNRESPONSIVE);
    live_kill(row);
}

static void process_ended(struct ending *end, const struct proc_exit *how)
{
    struct vm_live *live = container_of(end, struct vm_live, end);

    live->exit = *how;
    live->exited = true;
    if (live->agent)
        agent_drain(live->agent);
    if (live->monitor)
        vmm_monitor_drain(live->monitor);
    live_judge(live->world, live->row);
}

void live_attach(struct vm_world *w, struct instance *row, int pidfd, struct net_slot *slot)
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
    live->end.fn = process_ended;
    live->guest = guest_new(w->loop);
    row->live = live;
    if (ending_await(w->loop, &live->end, pidfd, &e) < 0) {
        log_error("instance %s: its end will not be seen: %s", row->id, e.msg);
        err_clear(&e);
    }
    if (row->spec->driver->monitor)
        prober_add(&w->prober, &live->question, row);
}

void live_listen(struct instance *row, int dir_fd)
{
    struct vm_live *live = row->live;
    struct err e = {0};

    if (live->listens)
        return;
    live->listens = true;
    loop_timer_stop(live->world->loop, &live->greeting);
    live_connect_agent(live, dir_fd);
    live->logs = log_limit_new(live->world, row->id, dir_fd);
    if (row->spec->driver->monitor && !live->monitor && open_monitor(live, dir_fd, &e) < 0)
        log_warn("instance %s: %s", row->id, e.msg);
}

void live_listen_now(struct vm_live *live)
{
    struct err e = {0};
    auto_close int dir_fd =
        live->listens ? -1 : env_open_instance(&live->world->env, live->row->id, &e);

    if (dir_fd >= 0)
        live_listen(live->row, dir_fd);
    else if (!live->listens)
        log_warn("instance %s: %s", live->row->id, e.msg);
}

static void listen_now(struct timer *t)
{
    live_listen_now(container_of(t, struct vm_live, greeting));
}

void live_listen_soon(struct instance *row)
{
    struct vm_live *live = row->live;

    if (!live || live->listens)
        return;
    live->greeting.fn = listen_now;
    loop_timer_start(live->world->loop, &live->greeting, 0);
}

void live_detach(struct vm_world *w, struct instance *row)
{
    struct vm_live *live = row->live;
    struct err e;

    if (!live)
        return;
    if (row->question)
        prober_remove(&w->prober, row->question);
    row->live = NULL;
    e = live_end_of_work(row);
    guest_free(live->guest, &e);
    ending_forget(&live->end);
    loop_timer_stop(w->loop, &live->greeting);
    live_tell_frozen(live, 2);
    vmm_monitor_close(live->monitor);
    dial_free(live->dial);
    agent_close(live->agent);
    log_limit_free(live->logs);
    if (live->slot)
        net_release(w->net, live->slot);
    close(live->pidfd);
    free(live->why_shutdown);
    free(live);
}

void live_let_go(struct vm_world *w, struct instance *row)
{
    if (row->run.state == VM_UNKNOWN) {
        vm_run_enter(&row->run, row->run.before, VM_BY_REQUEST, wall_us());
        instance_changed(&w->table, row);
    }
    live_detach(w, row);
}

/* What can be said of an end that the guest did not report. */
static void describe_end(const struct vm_live *live, char *out, size_t size)
{
    const struct vmm_driver *driver = live->row->spec->driver;
    const char *meaning = driver->exit_meaning ? driver->exit_meaning(live->exit.code) : NULL;

    if (live->why_shutdown && strcmp(live->why_shutdown, "guest-panic") == 0)
        (void)snprintf(out, size, "the guest's kernel panicked");
    else if (live->why_shutdown && strcmp(live->why_shutdown, UNRESPONSIVE) == 0)
        (void)snprintf(out, size, "the VMM did not answer any more and was killed, as configured");
    else if (live->exit.known && live->exit.code > 128 && !meaning)
        (void)snprintf(out, size, "the VMM was ended by signal %d", live->exit.code - 128);
    else if (live->exit.known && live->exit.code != 0)
        (void)snprintf(out,
                       size,
                       "the VMM exited with status %d%s%s; see its log (source vmm)",
                       live->exit.code,
                       meaning ? ": " : "",
                       meaning ? meaning : "");
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
    network_settle(w, row, false);
    row->observed_us = wall_us();
    instance_changed(&w->table, row);
    exit_note_store(w, row);
    if (!reported)
        exit_note_read(w, row); /* the guest may have left word on its disk */
}
