/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the watches on one VMM (vm/live.h): live.c has its process and what it says of
 * itself, live_agent.c what the agent in its guest says. Nobody else includes this.
 * Loop thread.
 */
#pragma once

#include "loop/ending.h"
#include "vm/live.h"
#include "vm/prober.h"
#include "wire/config_disk.h"

struct agent;
struct dial;
struct guest;
struct log_limit;
struct net_slot;
struct vmm_monitor;

struct vm_live {
    struct vm_world *world;
    struct instance *row; /* lives as long as we do: a row with a live process is not freed */
    uint64_t boot;        /* what the guest calls its run */
    int pidfd;
    struct ending end;
    struct vmm_monitor *monitor;
    bool listens;  /* to the monitor and the agent, or has tried to */
    bool is_ready; /* the monitor takes questions */
    bool is_asked; /* one waits for that */
    struct question question;
    struct agent *agent;
    struct guest *guest;
    struct dial *dial; /* how the agent is reached where that may take several tries; else NULL */
    int64_t
        shutdown_due_ms; /* the grace of a shutdown that the agent is told when it is reached; 0 */
    struct timer greeting; /* begins to listen; then looks for it, after a restore only */
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

/* What was observed is shown at once; the store hears of it when it can. */
void live_observed(struct vm_live *live);

/* live_listen() in the instance's own directory. */
void live_listen_now(struct vm_live *live);

/* To the agent: in the way that the driver has. dir_fd is borrowed for the call. */
void live_connect_agent(struct vm_live *live, int dir_fd);

/* Whoever waits to hear that the workload stands still: 1 it does, 2 it does not. */
void live_tell_frozen(struct vm_live *live, uint64_t how);

/* What is told to whoever had work in the guest. */
struct err live_end_of_work(const struct instance *row);
