/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "api/handlers.h"
#include "base/jout.h"
#include "loop/proc.h"

static void put_number(struct jout *j, const char *key, double v)
{
    char text[64];

    (void)snprintf(text, sizeof(text), "%.3f", v);
    jout_raw(j, key, text);
}

/*
 * What the instance's process uses, and what it was given. Nothing waits: the
 * kernel counts, and an instance without a process uses nothing.
 */
void api_instances_stats(struct call *c)
{
    const struct instance *row = c->row;
    struct proc_usage used = {0};
    struct err gone = {0};
    struct buf json = BUF(4096);
    struct jout j = JOUT(&json);

    if (vm_state_has_process(row->run.state))
        (void)proc_usage(&row->run.proc, &used, &gone); /* its exit is on its way to the row */
    jout_open(&j, NULL, '{');
    jout_str(&j, "instance_id", row->id);
    jout_str(&j, "instance_name", row->spec->name);
    put_number(&j, "cpu_seconds", (double)used.cpu_ms / 1000);
    jout_int(&j, "memory_rss_bytes", (int64_t)used.resident_bytes);
    jout_int(&j, "memory_vms_bytes", (int64_t)used.virtual_bytes);
    jout_int(&j, "network_rx_bytes", 0);
    jout_int(&j, "network_tx_bytes", 0);
    jout_int(&j, "allocated_vcpus", row->spec->vcpus);
    jout_int(&j, "allocated_memory_bytes", (int64_t)row->spec->memory_bytes);
    if (used.resident_bytes > 0 && row->spec->memory_bytes > 0)
        put_number(&j,
                   "memory_utilization_ratio",
                   (double)used.resident_bytes / (double)row->spec->memory_bytes);
    else
        jout_null(&j, "memory_utilization_ratio");
    jout_close(&j, '}');
    call_reply(c, 200, &json);
}
