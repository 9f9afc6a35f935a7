/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent in the guest says, and how it is reached. */
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "vm/agent.h"
#include "vm/dial.h"
#include "vm/guest_mux.h"
#include "vm/live_private.h"
#include "vm/op.h"
#include "vmm/sock.h"
#include "vmm/vmm.h"
#include "wire/frame.h"

/*
 * After a restore: a greeting that met the rest of a cut frame is swallowed with it, and
 * the guest sees that only when the connection ends. So it is ended, and made again when
 * the guest had time to see it.
 */
enum { GREETINGS = 5, AGAIN_MS = 300 };

struct guest *live_guest(const struct instance *row)
{
    return row->live ? row->live->guest : NULL;
}

void live_tell_frozen(struct vm_live *live, uint64_t how)
{
    if (live->frozen_fd < 0)
        return;
    (void)!write(live->frozen_fd, &how, sizeof(how));
    close(take_fd(&live->frozen_fd));
}

void live_ask_shutdown(const struct instance *row, int64_t grace_ms)
{
    if (row->live && row->live->agent)
        agent_shutdown(row->live->agent, grace_ms);
    else if (row->live)
        row->live->shutdown_due_ms = grace_ms;
}

int live_freeze(const struct instance *row)
{
    struct vm_live *live = row->live;
    int fd;

    if (live)
        live_listen_now(live);
    if (!live || !live->agent)
        return -1;
    live_tell_frozen(live, 2); /* an operation that has given up */
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

static void agent_started(void *owner, int64_t at_us)
{
    struct vm_live *live = owner;

    (void)at_us; /* the guest's clock; the host's is what is accounted */
    prober_heard(&live->world->prober, live->row);
    if (live->row->holder || live->row->run.state != VM_INITIALIZING)
        return;
    vm_run_enter(&live->row->run, VM_RUNNING, VM_BY_EVENT, wall_us());
    live_observed(live);
}

static void agent_exited(void *owner, const struct exit_record *record)
{
    struct vm_live *live = owner;

    prober_heard(&live->world->prober, live->row);
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
    live_tell_frozen(live, frozen ? 1 : 2);
}

static void agent_greeted(void *owner, int64_t version)
{
    struct vm_live *live = owner;

    guest_greeted(live->guest, live->agent, version);
}

static int agent_frame(void *owner, const struct frame *f, struct err *e)
{
    struct vm_live *live = owner;

    return guest_frame(live->guest, f, e);
}

static void agent_drained(void *owner)
{
    struct vm_live *live = owner;

    guest_drained(live->guest);
}

struct err live_end_of_work(const struct instance *row)
{
    struct err e = {0};

    if (row->holder)
        err_set(&e, ERR_BAD_STATE, "ended by the instance's %s", row->holder->verb->name);
    else if (vm_state_has_process(row->run.state))
        err_set(&e, ERR_BAD_STATE, "the connection to the guest's agent ended");
    else
        err_set(&e, ERR_BAD_STATE, "the instance is %s", vm_state_name(row->run.state));
    return e;
}

static void connect_again(struct timer *t);

static void agent_lost(void *owner, const struct err *why)
{
    struct vm_live *live = owner;
    struct err e = live_end_of_work(live->row);

    log_debug("instance %s: %s", live->row->id, why->msg);
    guest_lost(live->guest, &e);
    live_tell_frozen(live, 2);
    agent_close(live->agent);
    live->agent = NULL;
    if (live->dial) { /* a snapshot cuts a vsock's connections */
        dial_begin(live->dial, WIRE_VSOCK_PORT);
        return;
    }
    /* Of a port only who breaks the protocol loses it: a liar, or an agent that came after one that
     * was killed. */
    live->greeting.fn = connect_again;
    loop_timer_start(live->world->loop, &live->greeting, AGAIN_MS);
}

static const struct agent_events from_agent = {
    .started = agent_started,
    .exited = agent_exited,
    .greeted = agent_greeted,
    .frame = agent_frame,
    .drained = agent_drained,
    .frozen = agent_frozen,
    .lost = agent_lost,
};

static void agent_reached(void *owner, int fd)
{
    struct vm_live *live = owner;
    const struct instance *row = live->row;
    struct agent_identity who = {row->id, row->spec->name, row->run.address};
    struct err e = {0};

    live->agent = agent_open(live->world->loop, fd, &who, &from_agent, live, &e);
    if (!live->agent)
        log_debug("instance %s: %s", row->id, e.msg);
    else if (live->shutdown_due_ms > 0)
        agent_shutdown(live->agent, live->shutdown_due_ms);
}

static void look_for_greeting(struct timer *t);

/* A guest that boots takes its time, and has nothing cut in its stream. */
static void connect_port(struct vm_live *live, int dir_fd)
{
    struct instance *row = live->row;
    struct err e = {0};
    int fd = sock_connect(dir_fd, VMM_AGENT_SOCKET, &e);

    if (fd >= 0)
        agent_reached(live, fd);
    else
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
    connect_port(live, dir_fd);
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

/* Each connection of a vsock is a stream of its own: nothing is cut in it. */
void live_connect_agent(struct vm_live *live, int dir_fd)
{
    struct err e = {0};

    if (!live->row->spec->driver->agent_by_vsock) {
        connect_port(live, dir_fd);
        return;
    }
    live->dial = dial_new(live->world->loop, dir_fd, agent_reached, live, &e);
    if (live->dial)
        dial_begin(live->dial, WIRE_VSOCK_PORT);
    else
        log_debug("instance %s: %s", live->row->id, e.msg);
}
