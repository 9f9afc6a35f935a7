/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/firecracker.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "base/argv.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "trace/trace.h"
#include "vmm/socket_wait.h"
#include "vmm/start.h"

enum { OLDEST_MINOR = 12, BODY_MAX = 8192, ANSWER_MAX = 64 * 1024 };

static int available(const struct vmm_host *host, struct err *why)
{
    if (host->firecracker[0] == '\0')
        return err_set(why, ERR_UNSUPPORTED, "there is no firecracker that runs");
    if (!firecracker_has(host, OLDEST_MINOR))
        return err_set(why,
                       ERR_UNSUPPORTED,
                       "Firecracker %s is too old: 1.%d is the first that will do",
                       host->firecracker_version,
                       OLDEST_MINOR);
    if (host->accel != VMM_KVM)
        return err_set(why, ERR_UNSUPPORTED, "Firecracker needs KVM: %.200s", host->accel_reason);
    return 0;
}

static void identity(const struct vmm_host *host, struct buf *out)
{
    buf_printf(out,
               "Firecracker %s; snapshot format %s; %s",
               host->firecracker_version,
               host->firecracker_snapshot,
               host->cpu);
}

/* --- the API --- */

int firecracker_call(const struct op *op, struct http_client *c, const char *request,
                     const char *body, struct buf *answer, struct err *e)
{
    auto_buf struct buf own = BUF(ANSWER_MAX);
    struct buf *to = answer ? answer : &own;
    json_auto_t *fault = NULL;
    struct err ignored = {0};
    const char *text;
    int status = http_call(op, c, request, body, to, e);

    if (status < 0) {
        if (e->code == ERR_INTERNAL)
            e->code = ERR_NOT_FOUND;
        return -1;
    }
    if (status == 200 || status == 204)
        return 0;
    fault = parse_json(buf_str(to), to->len, &ignored);
    text = json_string_value(json_object_get(fault, "fault_message"));
    return err_set(e,
                   ERR_INTERNAL,
                   "Firecracker answered %s with %d: %.320s",
                   request,
                   status,
                   text ? text : "no reason given");
}

/* --- starting --- */

#define auto_start __attribute__((cleanup(vmm_start_undo)))

enum { SERIAL };

/*
 * Firecracker writes its log from the start of the file: what an earlier run left
 * would show through. Before 1.13 it wants the metrics' file to be there.
 */
static int prepare(const struct op *op, struct vmm_start *s, struct err *e)
{
    auto_span span = op_span(op, "prepare_process");

    (void)firecracker_end_tracking(s->boot->dir_fd); /* of the process before */
    s->given[SERIAL] = vmm_start_file(s, VMM_SERIAL_LOG, 0, e);
    if (s->given[SERIAL] < 0)
        return -1;
    if (s->boot->host->firecracker_metrics) {
        auto_close int metrics_fd = vmm_start_file(s, VMM_METRICS, O_TRUNC, e);

        if (metrics_fd < 0)
            return -1;
    }
    return vmm_start_log(s, O_TRUNC, e);
}

static int spawn(struct vmm_start *s, struct err *e)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);

    argv_push(&argv, s->boot->host->firecracker);
    argv_push(&argv, "--api-sock");
    argv_push(&argv, VMM_API_SOCKET);
    argv_push(&argv, "--log-path");
    argv_push(&argv, VMM_VMM_LOG);
    argv_push(&argv, "--level");
    argv_push(&argv, "Warning"); /* below it every request is a line */
    if (s->boot->host->firecracker_metrics) {
        argv_push(&argv, "--metrics-path");
        argv_push(&argv, VMM_METRICS);
    }
    spec.stdout_fd = s->given[SERIAL];
    return vmm_start_spawn(s, &spec, e);
}

static int connect_api(const struct op *op, struct vmm_start *s, struct err *e)
{
    auto_span span = op_span(op, "await_socket");
    struct last_words_source words = vmm_start_words(s);
    struct socket_wait wait = {.dir_fd = s->boot->dir_fd,
                               .name = VMM_API_SOCKET,
                               .how = s->boot->host->socket_readiness,
                               .vmm = &words};

    if (socket_wait(op, &wait, e) < 0)
        return -1;
    s->api = vmm_api_client(s->boot->dir_fd);
    return 0;
}

static int say(const struct op *op, struct vmm_start *s, const char *request, const char *body,
               struct err *e)
{
    return firecracker_call(op, s->api, request, body, NULL, e) < 0 ? vmm_start_explain(s, e) : 0;
}

/* The order of the drives is the guest's vda, vdb, vdc. */
static const struct {
    const char *request, *id, *file;
    bool is_read_only, is_limited;
} drives[] = {
    {"PUT /drives/rootfs", "rootfs", VMM_IMAGE, true, true},
    {"PUT /drives/overlay", "overlay", VMM_OVERLAY, false, true},
    {"PUT /drives/config", "config", VMM_CONFIG_DISK, false, false},
};

static int say_drives(const struct op *op, struct vmm_start *s, struct err *e)
{
    static const struct vmm_rates unlimited;

    for (size_t i = 0; i < sizeof(drives) / sizeof(drives[0]); i++) {
        auto_buf struct buf body = BUF(BODY_MAX);

        firecracker_drive(&body,
                          drives[i].id,
                          drives[i].file,
                          drives[i].is_read_only,
                          drives[i].is_limited ? &s->boot->rates : &unlimited);
        if (say(op, s, drives[i].request, buf_str(&body), e) < 0)
            return -1;
    }
    return 0;
}

static int say_body(const struct op *op, struct vmm_start *s, const char *request,
                    void (*write)(struct buf *out, const struct vmm_boot *boot), struct err *e)
{
    auto_buf struct buf body = BUF(BODY_MAX);

    write(&body, s->boot);
    return say(op, s, request, buf_str(&body), e);
}

static int configure(const struct op *op, struct vmm_start *s, struct err *e)
{
    auto_span span = op_span(op, "configure_vm");

    if (say_body(op, s, "PUT /machine-config", firecracker_machine, e) < 0 ||
        say_body(op, s, "PUT /boot-source", firecracker_kernel, e) < 0 || say_drives(op, s, e) < 0)
        return -1;
    if (s->boot->tap_name &&
        say_body(op, s, "PUT /network-interfaces/" FIRECRACKER_NIC, firecracker_nic, e) < 0)
        return -1;
    if (s->boot->balloon && say(op, s, "PUT /balloon", FIRECRACKER_BALLOON, e) < 0)
        return -1;
    if (say(op, s, "PUT /vsock", FIRECRACKER_VSOCK, e) < 0)
        return -1;
    return say(op, s, "PUT /entropy", "{}", e);
}

static int boot_guest(const struct op *op, struct vmm_start *s, struct err *e)
{
    return configure(op, s, e) < 0
               ? -1
               : say(op, s, "PUT /actions", "{\"action_type\":\"InstanceStart\"}", e);
}

static int start_process(const struct op *op, struct vmm_start *s, const struct vmm_load *load,
                         struct err *e)
{
    auto_span span = op_span(op, "hypervisor.start_process");

    if (spawn(s, e) < 0)
        return -1;
    if (load && load->started)
        load->started(load->arg, &s->process);
    return connect_api(op, s, e);
}

static struct vmm_start nothing_yet(const struct vmm_boot *boot)
{
    struct vmm_start s = vmm_start_of("Firecracker", boot);

    s.meaning = firecracker_exit_meaning;
    return s;
}

static int boot(const struct op *op, const struct vmm_boot *what, struct vmm_process *out,
                struct err *e)
{
    auto_start struct vmm_start s = nothing_yet(what);

    if (prepare(op, &s, e) < 0 || start_process(op, &s, NULL, e) < 0 || boot_guest(op, &s, e) < 0)
        return -1;
    *out = vmm_start_hand_over(&s);
    return 0;
}

static int load_guest(const struct op *op, struct vmm_start *s, const struct vmm_load *what,
                      struct err *e)
{
    auto_buf struct buf body = BUF(BODY_MAX);
    auto_span span = {0};

    if (what->resume && what->about_to_run && what->about_to_run(what->arg, e) < 0)
        return -1;
    span = op_span(op, "restore_from_snapshot");
    firecracker_load_body(&body, what);
    return say(op, s, "PUT /snapshot/load", buf_str(&body), e);
}

/* A load that fails costs the process, and nothing else: it only read what it was given. */
static int load(const struct op *op, const struct vmm_load *what, struct vmm_process *out,
                bool *running_out, struct err *e)
{
    auto_start struct vmm_start s = nothing_yet(&what->boot);

    if (prepare(op, &s, e) < 0 || start_process(op, &s, what, e) < 0 ||
        load_guest(op, &s, what, e) < 0)
        return -1;
    if (what->boot.host->firecracker_differences && !what->memory_socket &&
        firecracker_begin_tracking(what->boot.dir_fd, e) < 0)
        return -1;
    if (what->resume)
        log_info("%s: VM was resumed during snapshot load", what->boot.name);
    *out = vmm_start_hand_over(&s);
    *running_out = what->resume;
    return 0;
}

/* --- a running one --- */

static int command(const struct op *op, const struct vmm_handle *vm, const char *request,
                   const char *body, struct err *e)
{
    struct http_client *c = vmm_api_client(vm->dir_fd);
    int rc = firecracker_call(op, c, request, body, NULL, e);

    http_client_free(c);
    return rc;
}

static int pause_guest(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    return command(op, vm, "PATCH /vm", "{\"state\":\"Paused\"}", e);
}

static int resume_guest(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    return command(op, vm, "PATCH /vm", "{\"state\":\"Resumed\"}", e);
}

static int set_balloon(const struct op *op, const struct vmm_handle *vm, uint64_t bytes,
                       struct err *e)
{
    auto_buf struct buf body = BUF(BODY_MAX);

    buf_printf(&body, "{\"amount_mib\":%" PRIu64 "}", bytes >> 20);
    return command(op, vm, "PATCH /balloon", buf_str(&body), e);
}

/* For a guest whose agent does not answer; one that has no keyboard driver ignores it. */
static int power_button(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    return command(op, vm, "PUT /actions", "{\"action_type\":\"SendCtrlAltDel\"}", e);
}

static const struct {
    int code;
    const char *meaning;
} exits[] = {
    {1, "an error; a guest that faulted three times ends so too"},
    {2, "an error that it did not expect"},
    {148, "it made a system call that its filter forbids"},
    {149, "SIGBUS: the memory file was cut short, or the disk or huge pages ran out"},
    {150, "SIGSEGV"},
    {151, "a file passed its size limit"},
    {152, "its configuration is wrong"},
    {153, "its arguments are wrong"},
    {154, "it passed its limit of processor time"},
    {156, "SIGHUP"},
    {157, "SIGILL"},
};

const char *firecracker_exit_meaning(int code)
{
    for (size_t i = 0; i < sizeof(exits) / sizeof(exits[0]); i++) {
        if (exits[i].code == code)
            return exits[i].meaning;
    }
    return NULL;
}

const struct vmm_driver firecracker_driver = {
    .name = "firecracker",
    .binary = "firecracker",
    .resumes_in_load = true,
    .opens_tap = true,
    .agent_by_vsock = true,
    .available = available,
    .identity = identity,
    .boot = boot,
    .pause = pause_guest,
    .resume = resume_guest,
    .save = firecracker_save,
    .load = load,
    .set_balloon = set_balloon,
    .power_button = power_button,
    .exit_meaning = firecracker_exit_meaning,
    .monitor = &firecracker_monitor_driver,
};
