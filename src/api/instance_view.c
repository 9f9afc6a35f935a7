/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "api/api.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/parse.h"
#include "net/publish.h"

static void put_time(struct jout *j, const char *key, int64_t at_us)
{
    char text[TIME_TEXT_SIZE];

    jout_str(j, key, at_us ? time_text(at_us, text) : NULL);
}

static void put_size(struct jout *j, const char *key, uint64_t bytes)
{
    char text[SIZE_TEXT_SIZE];

    jout_str(j, key, size_text(bytes, text));
}

static void put_rate(struct jout *j, const char *key, uint64_t bytes)
{
    char size[SIZE_TEXT_SIZE];
    char text[SIZE_TEXT_SIZE + 2];

    if (bytes == 0)
        return;
    (void)snprintf(text, sizeof(text), "%s/s", size_text(bytes, size));
    jout_str(j, key, text);
}

static void put_network(struct jout *j, const struct spec *spec, const struct vm_run *run)
{
    char text[ADDRESS_TEXT_SIZE];

    jout_open(j, "network", '{');
    jout_bool(j, "enabled", spec->network_enabled);
    if (spec->network_enabled)
        jout_str(j, "name", "default");
    jout_str(j, "ip", run->address ? address_text(run->address, text) : NULL);
    jout_str(j, "mac", run->address ? NET_GUEST_MAC : NULL);
    put_rate(j, "bandwidth_download", spec->download_rate);
    put_rate(j, "bandwidth_upload", spec->upload_rate);
    jout_close(j, '}');
}

static void put_ports(struct jout *j, const struct spec *spec)
{
    char text[ADDRESS_TEXT_SIZE];

    if (spec->n_ports == 0)
        return;
    jout_open(j, "ports", '[');
    for (size_t i = 0; i < spec->n_ports; i++) {
        const struct port_map *p = &spec->ports[i];

        jout_open(j, NULL, '{');
        jout_str(j, "host_ip", address_text(p->host_ip, text));
        jout_int(j, "host_port", p->host_port);
        jout_int(j, "guest_port", p->guest_port);
        jout_str(j, "protocol", p->is_udp ? "udp" : "tcp");
        jout_close(j, '}');
    }
    jout_close(j, ']');
}

/* The present phase counts up to the answer: clients bill by it. */
static void put_phases(struct jout *j, const struct vm_run *run)
{
    int64_t now = wall_us();

    jout_open(j, "phase_durations_ms", '{');
    for (int s = 0; s < N_VM_STATES; s++) {
        int64_t ms = run->phase_ms[s];

        if (s == (int)run->state && now > run->since_us)
            ms += (now - run->since_us) / 1000;
        if (ms || s == (int)run->state)
            jout_int(j, vm_state_phase((enum vm_state)s), ms);
    }
    jout_close(j, '}');
    jout_str(j, "current_phase", vm_state_phase(run->state));
    put_time(j, "current_phase_since", run->since_us);
}

static void put_tags(struct jout *j, const struct spec *spec)
{
    if (spec->n_tags == 0)
        return;
    jout_open(j, "tags", '{');
    for (size_t i = 0; i < spec->n_tags; i++)
        jout_str(j, spec->tags[i].key, spec->tags[i].value);
    jout_close(j, '}');
}

/* Which members are null and which are left out when empty is the contract's (2.13). */
void instance_view(struct jout *j, const char *key, const struct instance *row)
{
    const struct spec *spec = row->spec;
    const struct vm_run *run = &row->run;

    jout_open(j, key, '{');
    jout_str(j, "id", row->id);
    jout_str(j, "name", spec->name);
    jout_str(j, "image", spec->image);
    jout_str(j, "platform", "linux/amd64");
    jout_str(j, "state", vm_state_name(run->state));
    jout_null(j, "state_error");
    put_time(j, "created_at", spec->created_us);
    put_time(j, "started_at", run->started_us);
    put_time(j, "stopped_at", run->stopped_us);
    jout_null(j, "expires_at");
    jout_str(j, "hypervisor", spec->hypervisor);
    jout_int(j, "vcpus", spec->vcpus);
    put_size(j, "size", spec->memory_bytes);
    put_size(j, "hotplug_size", spec->hotplug_bytes);
    put_size(j, "overlay_size", spec->overlay_bytes);
    if (spec->env)
        jout_raw(j, "env", spec->env);
    put_tags(j, spec);
    put_network(j, spec, run);
    put_ports(j, spec);
    if (run->exit_known)
        jout_int(j, "exit_code", run->exit_code);
    else
        jout_null(j, "exit_code");
    if (run->exit_message)
        jout_str(j, "exit_message", run->exit_message);
    jout_bool(j, "has_snapshot", run->state == VM_STANDBY);
    put_phases(j, run);
    jout_close(j, '}');
}
