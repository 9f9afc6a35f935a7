/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "api/handlers.h"
#include "base/jout.h"
#include "base/mem.h"
#include "loop/proc.h"
#include "net/slot.h"
#include "vm/live.h"
#include "vm/network.h"

static void put_number(struct jout *j, const char *key, double v)
{
    char text[64];

    (void)snprintf(text, sizeof(text), "%.3f", v);
    jout_raw(j, key, text);
}

/* The answer under way: all but the network is in it, for the row may go while we count. */
struct stats_call {
    struct call *call;
    struct buf json;
    struct jout j;
    int ifindex;
    struct tap_stats before; /* counted for who had the TAP before */
    struct tap_stats now;
    struct job job;
};

static int64_t share(uint64_t now, uint64_t before)
{
    return now > before ? (int64_t)(now - before) : 0;
}

static void reply(struct stats_call *s)
{
    jout_int(&s->j, "network_rx_bytes", share(s->now.to_guest, s->before.to_guest));
    jout_int(&s->j, "network_tx_bytes", share(s->now.from_guest, s->before.from_guest));
    jout_close(&s->j, '}');
    call_reply(s->call, 200, &s->json);
    free(s);
}

static void count_run(struct job *job)
{
    struct stats_call *s = container_of(job, struct stats_call, job);
    struct err gone = {0}; /* the TAP, with its VMM */

    (void)stats_of(s->ifindex, &s->now, &gone);
}

static void count_done(struct job *job)
{
    reply(container_of(job, struct stats_call, job));
}

static void count(struct stats_call *s, const struct net_slot *slot)
{
    struct err e = {0};

    s->ifindex = slot->ifindex;
    s->before = slot->before;
    s->job.run = count_run;
    s->job.done = count_done;
    s->job.kind = VM_JOB_NOTE;
    s->job.timeout_ms = 10000;
    if (jobs_submit(s->call->api->world->jobs, &s->job, &e) == 0)
        return;
    call_fail(s->call, &e);
    buf_free(&s->json);
    free(s);
}

/* NULL where nobody knows. */
static void put_connections(struct stats_call *s, const struct instance *row)
{
    struct flow_counts n;

    if (network_connections(s->call->api->world, row, &n)) {
        jout_int(&s->j, "active_inbound_connections", n.inbound);
        jout_int(&s->j, "active_outbound_connections", n.outbound);
    } else {
        jout_null(&s->j, "active_inbound_connections");
        jout_null(&s->j, "active_outbound_connections");
    }
}

/*
 * What the instance's process uses, and what it was given. The kernel
 * counts; an instance without a process uses nothing.
 */
void api_instances_stats(struct call *c)
{
    const struct instance *row = c->row;
    struct proc_usage used = {0};
    struct err gone = {0};
    const struct net_slot *slot = live_slot(row);
    struct stats_call *s = mem_new(struct stats_call);

    if (vm_state_has_process(row->run.state))
        (void)proc_usage(&row->run.proc, &used, &gone); /* its exit is on its way to the row */
    s->call = c;
    s->json = BUF(4096);
    s->j = JOUT(&s->json);
    jout_open(&s->j, NULL, '{');
    jout_str(&s->j, "instance_id", row->id);
    jout_str(&s->j, "instance_name", row->spec->name);
    put_number(&s->j, "cpu_seconds", (double)used.cpu_ms / 1000);
    jout_int(&s->j, "memory_rss_bytes", (int64_t)used.resident_bytes);
    jout_int(&s->j, "memory_vms_bytes", (int64_t)used.virtual_bytes);
    jout_int(&s->j, "allocated_vcpus", row->spec->vcpus);
    jout_int(&s->j, "allocated_memory_bytes", (int64_t)row->spec->memory_bytes);
    if (used.resident_bytes > 0 && row->spec->memory_bytes > 0)
        put_number(&s->j,
                   "memory_utilization_ratio",
                   (double)used.resident_bytes / (double)row->spec->memory_bytes);
    else
        jout_null(&s->j, "memory_utilization_ratio");
    put_connections(s, row);
    if (slot)
        count(s, slot);
    else
        reply(s);
}
