/* SPDX-License-Identifier: Apache-2.0 */
#include "api/view.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/jout.h"
#include "base/parse.h"
#include "net/publish.h"

enum {
    VIEW_MAX = 8 << 20,
    PHASE_DIGITS = 14, /* of milliseconds: three thousand years */
    TIME_CHARS = 27,   /* of time_text() in the years 0 to 9999 */
};

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

/* The present phase counts up to the answer: clients bill by it. Returns where its number stands.
 */
static size_t put_phases(struct jout *j, const struct vm_run *run)
{
    char blank[PHASE_DIGITS + 1];
    size_t at = 0;

    memset(blank, ' ', PHASE_DIGITS);
    blank[PHASE_DIGITS] = '\0';
    jout_open(j, "phase_durations_ms", '{');
    for (int s = 0; s < N_VM_STATES; s++) {
        if (s == (int)run->state) {
            jout_raw(j, vm_state_phase((enum vm_state)s), blank);
            at = j->to->len - PHASE_DIGITS;
        } else if (run->phase_ms[s]) {
            jout_int(j, vm_state_phase((enum vm_state)s), run->phase_ms[s]);
        }
    }
    jout_close(j, '}');
    jout_str(j, "current_phase", vm_state_phase(run->state));
    put_time(j, "current_phase_since", run->since_us);
    return at;
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

/* Whether the VMM answers: additive, for those who want to know how old the answer is. */
static size_t put_observation(struct jout *j, const struct instance *row)
{
    bool has_vmm = vm_state_has_process(row->run.state);
    int answers = has_vmm ? probe_answers(&row->probe) : -1;
    size_t at;

    jout_str(j, "state_source", vm_source_name(row->run.source));
    put_time(j, "observed_at", row->observed_us);
    at = j->to->len - TIME_CHARS - 1;
    if (answers < 0)
        jout_null(j, "responsive");
    else
        jout_bool(j, "responsive", answers > 0);
    put_time(j, "unresponsive_since", answers == 0 ? row->silent_us : 0);
    return at;
}

const char *instance_state_error(const struct instance *row, char *out, size_t size)
{
    char since[TIME_TEXT_SIZE];

    if (row->run.state != VM_UNKNOWN)
        return NULL;
    (void)snprintf(out,
                   size,
                   row->probe.result == PROBE_REFUSED
                       ? "the VMM cannot be asked since %s; its process lives; stop or delete it, "
                         "or wait for it"
                       : "the VMM does not answer since %s; its process lives; stop or delete it, "
                         "or wait for it",
                   time_text(row->silent_us, since));
    return out;
}

static void put_exit(struct jout *j, const struct vm_run *run)
{
    if (run->exit_known)
        jout_int(j, "exit_code", run->exit_code);
    else
        jout_null(j, "exit_code");
    if (run->exit_message)
        jout_str(j, "exit_message", run->exit_message);
}

static void put_sizes(struct jout *j, const struct spec *spec)
{
    jout_int(j, "vcpus", spec->vcpus);
    put_size(j, "size", spec->memory_bytes);
    put_size(j, "hotplug_size", spec->hotplug_bytes);
    put_size(j, "overlay_size", spec->overlay_bytes);
    put_rate(j, "disk_io_bps", spec->disk_rate);
}

/* What was spent in the present state, right-aligned. */
static void put_ms(char *first, const struct vm_run *run, int64_t now_us)
{
    uint64_t ms = (uint64_t)run->phase_ms[run->state];
    char *at = first + PHASE_DIGITS;

    if (now_us > run->since_us)
        ms += (uint64_t)(now_us - run->since_us) / 1000;
    do {
        *--at = (char)('0' + ms % 10);
        ms /= 10;
    } while (ms > 0 && at > first);
    memset(first, ' ', (size_t)(at - first));
}

/* Which members are null and which are left out when empty is the contract's (2.13). */
struct row_text *instance_show(const struct instance *row)
{
    const struct spec *spec = row->spec;
    const struct vm_run *run = &row->run;
    struct buf out = BUF(VIEW_MAX);
    struct jout to = JOUT(&out);
    struct jout *j = &to;
    char error[200];
    struct row_text *text;
    size_t phase_at;
    size_t observed_at;

    jout_open(j, NULL, '{');
    jout_str(j, "id", row->id);
    jout_str(j, "name", spec->name);
    jout_str(j, "image", spec->image);
    jout_str(j, "platform", "linux/amd64");
    jout_str(j, "state", vm_state_name(run->state));
    jout_str(j, "state_error", instance_state_error(row, error, sizeof(error)));
    observed_at = put_observation(j, row);
    put_time(j, "created_at", spec->created_us);
    put_time(j, "started_at", run->started_us);
    put_time(j, "stopped_at", run->stopped_us);
    jout_null(j, "expires_at");
    jout_str(j, "hypervisor", spec->hypervisor);
    put_sizes(j, spec);
    if (spec->env)
        jout_raw(j, "env", spec->env);
    put_tags(j, spec);
    put_network(j, spec, run);
    put_ports(j, spec);
    put_exit(j, run);
    jout_bool(j, "has_snapshot", run->state == VM_STANDBY);
    phase_at = put_phases(j, run);
    jout_close(j, '}');

    assert(buf_ok(&out));
    text = row_text_new(buf_str(&out), out.len);
    text->phase_at = (uint32_t)phase_at;
    text->observed_at = (uint32_t)observed_at;
    buf_free(&out);
    put_ms(text->json + phase_at, run, wall_us());
    return text;
}

void row_text_put_phase(char *copy, const struct instance *row, int64_t now_us)
{
    put_ms(copy + row->text->phase_at, &row->run, now_us);
}

void row_text_put_observed(char *copy, const struct instance *row)
{
    char text[TIME_TEXT_SIZE];

    memcpy(copy + row->text->observed_at, time_text(row->observed_us, text), TIME_CHARS);
}

void instance_view(struct buf *out, const struct instance_table *t, struct instance *row)
{
    const struct row_text *text = instance_text(t, row);
    size_t at = out->len;

    buf_append(out, text->json, text->len);
    if (!buf_ok(out))
        return;
    row_text_put_phase(out->data + at, row, wall_us());
    row_text_put_observed(out->data + at, row);
}
