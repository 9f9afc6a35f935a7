/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/state.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "net/address.h"

static const struct {
    const char *name;
    const char *phase;
    bool has_process;
} states[] = {
    [VM_STOPPED] = {"Stopped", "stopped", false},
    [VM_CREATED] = {"Created", "created", true},
    [VM_INITIALIZING] = {"Initializing", "initializing", true},
    [VM_RUNNING] = {"Running", "running", true},
    [VM_PAUSED] = {"Paused", "paused", true},
    [VM_SHUTDOWN] = {"Shutdown", "shutdown", true},
    [VM_STANDBY] = {"Standby", "standby", false},
    [VM_UNKNOWN] = {"Unknown", "unknown", true},
};
static_assert(sizeof(states) / sizeof(states[0]) == N_VM_STATES, "states[] misses a vm_state");

const char *vm_source_name(enum vm_source s)
{
    static const char *const names[] = {
        [VM_BY_REQUEST] = "request",
        [VM_BY_EXIT] = "exit",
        [VM_BY_EVENT] = "event",
        [VM_BY_PROBE] = "probe",
    };

    return names[s];
}

const char *vm_state_name(enum vm_state s)
{
    return states[s].name;
}

const char *vm_state_phase(enum vm_state s)
{
    return states[s].phase;
}

bool vm_state_has_process(enum vm_state s)
{
    return states[s].has_process;
}

bool vm_state_parse(const char *name, enum vm_state *out)
{
    for (int s = 0; s < N_VM_STATES; s++) {
        if (strcmp(states[s].name, name) == 0) {
            *out = (enum vm_state)s;
            return true;
        }
    }
    return false;
}

void vm_run_enter(struct vm_run *run, enum vm_state state, enum vm_source source, int64_t at_us)
{
    run->source = source;
    if (state == run->state)
        return;
    if (state == VM_UNKNOWN)
        run->before = run->state;
    if (at_us > run->since_us) /* a wall clock may step back; time spent is never negative */
        run->phase_ms[run->state] += (at_us - run->since_us) / 1000;
    run->state = state;
    run->since_us = at_us;
}

void vm_run_clear_exit(struct vm_run *run)
{
    free(run->exit_message);
    run->exit_message = NULL;
    run->exit_known = false;
    run->exit_code = 0;
}

void vm_run_set_end(struct vm_run *run, const char *message)
{
    char *text = message && *message ? mem_strdup(message) : NULL;

    vm_run_clear_exit(run);
    run->exit_message = text;
}

void vm_run_set_exit(struct vm_run *run, int code, const char *message)
{
    vm_run_set_end(run, message);
    run->exit_known = true;
    run->exit_code = code;
}

struct vm_run vm_run_copy(const struct vm_run *run)
{
    struct vm_run copy = *run;

    copy.exit_message = run->exit_message ? mem_strdup(run->exit_message) : NULL;
    return copy;
}

void vm_run_free(struct vm_run *run)
{
    free(run->exit_message);
    *run = (struct vm_run){0};
}

void vm_run_write(struct buf *out, const struct vm_run *run)
{
    struct jout j = JOUT(out);
    char address[ADDRESS_TEXT_SIZE];

    jout_open(&j, NULL, '{');
    jout_str(&j, "state", vm_state_name(run->state == VM_UNKNOWN ? run->before : run->state));
    jout_int(&j, "since_us", run->since_us);
    jout_int(&j, "incarnation", (int64_t)run->incarnation);
    jout_int(&j, "boot", (int64_t)run->boot);
    jout_int(&j, "pid", run->proc.pid);
    jout_int(&j, "start_ticks", (int64_t)run->proc.start_ticks);
    jout_str(&j, "boot_id", run->boot_id);
    if (run->disk_stamp)
        jout_int(&j, "disk_stamp", run->disk_stamp);
    if (run->address)
        jout_str(&j, "address", address_text(run->address, address));
    jout_int(&j, "started_us", run->started_us);
    jout_int(&j, "stopped_us", run->stopped_us);
    if (run->restarts)
        jout_int(&j, "restarts", run->restarts);
    if (run->exit_known)
        jout_int(&j, "exit_code", run->exit_code);
    if (run->exit_message)
        jout_str(&j, "exit_message", run->exit_message);
    jout_open(&j, "phase_ms", '{');
    for (int s = 0; s < N_VM_STATES; s++) {
        if (run->phase_ms[s])
            jout_int(&j, states[s].phase, run->phase_ms[s]);
    }
    jout_close(&j, '}');
    jout_close(&j, '}');
}

static int64_t integer(const json_t *doc, const char *key)
{
    return json_integer_value(json_object_get(doc, key));
}

int vm_run_read(const char *json, struct vm_run *out, struct err *e)
{
    json_t *doc = parse_json(json, strlen(json), e);
    struct vm_run run = {0};
    const char *text;
    const json_t *phases;

    if (!doc)
        return -1;
    text = json_string_value(json_object_get(doc, "state"));
    if (!text || !vm_state_parse(text, &run.state)) {
        json_decref(doc);
        return err_set(e, ERR_INTERNAL, "the record holds no state that is known");
    }
    run.since_us = integer(doc, "since_us");
    run.incarnation = (uint64_t)integer(doc, "incarnation");
    run.boot = (uint64_t)integer(doc, "boot");
    run.proc.pid = (pid_t)integer(doc, "pid");
    run.proc.start_ticks = (uint64_t)integer(doc, "start_ticks");
    run.disk_stamp = integer(doc, "disk_stamp");
    run.started_us = integer(doc, "started_us");
    run.stopped_us = integer(doc, "stopped_us");
    run.restarts = (uint32_t)integer(doc, "restarts");
    text = json_string_value(json_object_get(doc, "boot_id"));
    if (text && strlen(text) < sizeof(run.boot_id))
        memcpy(run.boot_id, text, strlen(text));
    text = json_string_value(json_object_get(doc, "address"));
    if (text)
        (void)address_parse(text, &run.address);
    vm_run_set_end(&run, json_string_value(json_object_get(doc, "exit_message")));
    run.exit_known = json_object_get(doc, "exit_code") != NULL;
    run.exit_code = (int)integer(doc, "exit_code");
    phases = json_object_get(doc, "phase_ms");
    for (int s = 0; s < N_VM_STATES; s++)
        run.phase_ms[s] = integer(phases, states[s].phase);
    json_decref(doc);
    *out = run;
    return 0;
}

int vm_boot_id(char out[BOOT_ID_SIZE], struct err *e)
{
    struct buf text = BUF(64);

    if (file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", &text, e) < 0) {
        buf_free(&text);
        return -1;
    }
    memset(out, 0, BOOT_ID_SIZE);
    memcpy(out, buf_str(&text), text.len < BOOT_ID_SIZE ? text.len : BOOT_ID_SIZE - 1);
    out[strcspn(out, "\n")] = '\0';
    buf_free(&text);
    return 0;
}
