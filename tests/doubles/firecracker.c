/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A double of Firecracker, as its own documentation and source describe it: one
 * thread that serves one request at a time, so that one that takes long keeps all
 * others waiting; what it does not know it refuses. HYPEMAN_DOUBLE_VERSION is the
 * version that it plays (1.16.1). GET /double, which the real one does not have,
 * tells how often it was loaded, paused and resumed. Faults: fault.h.
 *
 * It cannot show: what a guest's kernel does, that devices work, page faults, the
 * time that a real one takes, and what KVM refuses.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/json.h"
#include "fault.h"
#include "server.h"

enum {
    PAYLOAD_MAX = 51200,
};

static struct vm vm = {.vsock_fd = -1, .uffd_socket = -1, .minor = 16};
static struct guest *guest;
static struct server server;
static const char *version_text = "1.16.1";

static void fault(struct answer *a, const char *why)
{
    struct jout j;

    a->status = 400;
    buf_reset(&a->body);
    j = (struct jout)JOUT(&a->body);
    jout_open(&j, NULL, '{');
    jout_str(&j, "fault_message", why);
    jout_close(&j, '}');
}

/* --- the API --- */

static void tell_state(const json_t *body, struct answer *a)
{
    static const char *const names[] = {"Not started", "Running", "Paused"};

    (void)body;
    a->status = 200;
    buf_printf(&a->body,
               "{\"id\":\"anonymous-instance\",\"state\":\"%s\",\"vmm_version\":\"%s\","
               "\"app_name\":\"Firecracker\"}",
               names[vm.phase],
               version_text);
}

static void tell_version(const json_t *body, struct answer *a)
{
    (void)body;
    a->status = 200;
    buf_printf(&a->body, "{\"firecracker_version\":\"%s\"}", version_text);
}

static void tell_counts(const json_t *body, struct answer *a)
{
    (void)body;
    a->status = 200;
    buf_printf(&a->body,
               "{\"requests\":%d,\"boots\":%d,\"loads\":%d,\"pauses\":%d,\"resumes\":%d,"
               "\"saves\":%d,\"resume_requests\":%d}",
               vm.counts.requests,
               vm.counts.boots,
               vm.counts.loads,
               vm.counts.pauses,
               vm.counts.resumes,
               vm.counts.saves,
               vm.counts.resume_requests);
}

static void tell_config(const json_t *body, struct answer *a)
{
    char *text = json_dumps(vm.config, 0);

    (void)body;
    a->status = 200;
    buf_puts(&a->body, text);
    free(text);
}

static void accept_it(const json_t *body, struct answer *a)
{
    (void)body, (void)a;
}

static void act(const json_t *body, struct answer *a)
{
    const char *type = json_string_value(json_object_get(body, "action_type"));
    bool starts = type && strcmp(type, "InstanceStart") == 0;

    if (!type ||
        (!starts && strcmp(type, "SendCtrlAltDel") != 0 && strcmp(type, "FlushMetrics") != 0))
        fault(a, "An error occurred when deserializing the json body of a request: action_type.");
    else if (starts && vm.phase != VM_NOT_STARTED)
        fault(a, "The requested operation is not supported after starting the microVM.");
    else if (!starts && vm.phase == VM_NOT_STARTED)
        fault(a, "The requested operation is not supported before starting the microVM.");
    else if (starts) {
        struct buf why = BUF(1024);

        if (vm_start(&vm, &why) < 0)
            fault(a, buf_str(&why));
        buf_free(&why);
    } else if (strcmp(type, "SendCtrlAltDel") == 0) { /* a guest with a keyboard driver resets */
        (void)!write(STDOUT_FILENO, "Ctrl-Alt-Del\n", 13);
        a->then_exit = true;
    }
}

static void change_state(const json_t *body, struct answer *a)
{
    const char *state = json_string_value(json_object_get(body, "state"));

    if (state && strcmp(state, "Paused") == 0)
        vm_pause(&vm);
    else if (state && strcmp(state, "Resumed") == 0) {
        vm.counts.resume_requests++;
        vm_resume(&vm);
    } else
        fault(a, "An error occurred when deserializing the json body of a request: state.");
}

static void save(const json_t *body, struct answer *a)
{
    struct buf why = BUF(1024);

    if (vm_save(&vm, body, &why) < 0)
        fault(a, buf_str(&why));
    else
        guest_disconnect(guest);
    buf_free(&why);
}

static void load(const json_t *body, struct answer *a)
{
    struct buf why = BUF(1024);
    struct buf text = BUF(1200);

    if (vm.configured)
        fault(a,
              "Load snapshot error: Loading a microVM snapshot not allowed after configuring "
              "boot-specific resources.");
    else if (vm_load(&vm, body, &why) < 0) {
        buf_printf(&text, "Load snapshot error: Failed to restore from snapshot: %s", why.data);
        fault(a, buf_str(&text));
        a->then_exit = true;
    }
    buf_free(&why);
    buf_free(&text);
}

/* --- which requests there are --- */

enum when { ALWAYS, BEFORE_START, AFTER_START };

static const struct call {
    const char *request; /* one that ends in '/' takes an id */
    enum when when;
    unsigned since; /* 1.since */
    void (*run)(const json_t *body, struct answer *a);
    const char *kept_as; /* in the configuration; NULL: not */
    const char *fields;  /* "name" or "name>=minor", with blanks around each */
} calls[] = {
    {"GET /", ALWAYS, 0, tell_state, NULL, ""},
    {"GET /version", ALWAYS, 0, tell_version, NULL, ""},
    {"GET /vm/config", ALWAYS, 0, tell_config, NULL, ""},
    {"GET /double", ALWAYS, 0, tell_counts, NULL, ""},
    {"PUT /machine-config",
     BEFORE_START,
     0,
     accept_it,
     "machine-config",
     " vcpu_count mem_size_mib smt track_dirty_pages huge_pages cpu_template "},
    {"PUT /boot-source",
     BEFORE_START,
     0,
     accept_it,
     "boot-source",
     " kernel_image_path initrd_path boot_args "},
    {"PUT /drives/",
     BEFORE_START,
     0,
     accept_it,
     "drives",
     " drive_id is_root_device path_on_host is_read_only cache_type io_engine rate_limiter "
     "partuuid socket "},
    {"PUT /network-interfaces/",
     BEFORE_START,
     0,
     accept_it,
     "nics",
     " iface_id host_dev_name guest_mac mtu>=15 rx_rate_limiter tx_rate_limiter "},
    {"PUT /vsock", BEFORE_START, 0, accept_it, "vsock", " guest_cid uds_path vsock_id "},
    {"PUT /balloon",
     BEFORE_START,
     0,
     accept_it,
     "balloon",
     " amount_mib deflate_on_oom stats_polling_interval_s free_page_reporting>=14 "
     "free_page_hinting>=14 "},
    {"PUT /entropy", BEFORE_START, 0, accept_it, "entropy", " rate_limiter "},
    {"PUT /serial", BEFORE_START, 14, accept_it, NULL, " serial_out_path rate_limiter>=15 "},
    {"PUT /logger",
     BEFORE_START,
     0,
     accept_it,
     NULL,
     " log_path level show_level show_log_origin module "},
    {"PUT /metrics", BEFORE_START, 0, accept_it, NULL, " metrics_path "},
    {"PUT /actions", ALWAYS, 0, act, NULL, " action_type "},
    {"PATCH /vm", AFTER_START, 0, change_state, NULL, " state "},
    {"PATCH /drives/", AFTER_START, 0, accept_it, NULL, " drive_id path_on_host rate_limiter "},
    {"PATCH /balloon", AFTER_START, 0, accept_it, NULL, " amount_mib "},
    {"PUT /snapshot/create",
     AFTER_START,
     0,
     save,
     NULL,
     " snapshot_path mem_file_path snapshot_type version "},
    {"PUT /snapshot/load",
     BEFORE_START,
     0,
     load,
     NULL,
     " snapshot_path mem_backend mem_file_path enable_diff_snapshots track_dirty_pages>=13 "
     "resume_vm network_overrides vsock_override>=16 clock_realtime>=16 "},
};

static const struct call *find_call(const char *request, const char **id_out)
{
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        size_t n = strlen(calls[i].request);
        bool takes_id = calls[i].request[n - 1] == '/' && n > strlen("GET /");

        if (calls[i].since > vm.minor)
            continue;
        *id_out = request + n;
        if (takes_id ? strncmp(request, calls[i].request, n) == 0 && **id_out
                     : strcmp(request, calls[i].request) == 0)
            return &calls[i];
    }
    return NULL;
}

static bool knows_field(const struct call *c, const char *name)
{
    size_t n = strlen(name);

    for (const char *at = c->fields; (at = strchr(at, ' ')) && at[1]; at++) {
        unsigned since = 0;

        if (strncmp(at + 1, name, n) != 0 || (at[1 + n] != ' ' && at[1 + n] != '>'))
            continue;
        (void)sscanf(at + 1 + n, ">=%u", &since);
        return vm.minor >= since;
    }
    return false;
}

static bool check_fields(const struct call *c, const json_t *body, struct answer *a)
{
    const char *name;
    json_t *value;
    char why[256];

    json_object_foreach((json_t *)(uintptr_t)body, name, value)
    {
        if (knows_field(c, name))
            continue;
        (void)snprintf(why,
                       sizeof(why),
                       "An error occurred when deserializing the json body of a request: unknown "
                       "field `%.60s`.",
                       name);
        fault(a, why);
        return false;
    }
    return true;
}

/* What is configured makes a later load impossible; logger, metrics and serial do not count. */
static void keep(const struct call *c, const char *id, json_t *body)
{
    json_t *group = json_object_get(vm.config, c->kept_as);

    vm.configured = true;
    if (!*id || c->request[strlen(c->request) - 1] != '/') {
        json_object_set(vm.config, c->kept_as, body);
        return;
    }
    if (!group) {
        group = json_object();
        json_object_set_new(vm.config, c->kept_as, group);
    }
    json_object_set(group, id, body);
}

static void carry_out(const char *request, json_t *body, struct answer *a)
{
    const char *id = "";
    const struct call *c = find_call(request, &id);
    char why[256];

    a->status = 204;
    if (!c) {
        (void)snprintf(why, sizeof(why), "Invalid request method and/or path: %.100s.", request);
        fault(a, why);
    } else if (c->when == BEFORE_START && vm.phase != VM_NOT_STARTED)
        fault(a, "The requested operation is not supported after starting the microVM.");
    else if (c->when == AFTER_START && vm.phase == VM_NOT_STARTED)
        fault(a, "The requested operation is not supported before starting the microVM.");
    else if (check_fields(c, body, a)) {
        c->run(body, a);
        if (c->kept_as)
            keep(c, id, body);
    }
}

static int listen_on(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int ms;

    if (fault_is("slow-bind", "", &ms))
        fault_pause_ms(ms);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 128) < 0) {
        (void)fprintf(stderr,
                      "Error: Failed to open the API socket at: %s. Check that it is not already "
                      "used.\n",
                      path);
        exit(DOUBLE_EXIT_ERROR);
    }
    return fd;
}

static void touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

    if (fd < 0)
        exit(DOUBLE_EXIT_ARGUMENTS);
    close(fd);
}

/* The path of the API socket. */
static const char *take_arguments(int argc, char **argv)
{
    const char *socket_path = "/run/firecracker.socket";

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--version") == 0) {
            (void)printf("Firecracker v%s\n\n", version_text);
            exit(0);
        }
        if (strcmp(argv[i], "--snapshot-version") == 0) {
            (void)printf("v%s\n", vm_format(&vm));
            exit(0);
        }
        if (i + 1 == argc) {
            (void)fprintf(stderr, "Arguments parsing error: %s\n", argv[i]);
            exit(DOUBLE_EXIT_ARGUMENTS);
        }
        if (strcmp(argv[i], "--api-sock") == 0)
            socket_path = argv[i + 1];
        else if (strcmp(argv[i], "--log-path") == 0 || strcmp(argv[i], "--metrics-path") == 0)
            touch(argv[i + 1]);
        i++;
    }
    return socket_path;
}

int main(int argc, char **argv)
{
    const char *wanted = getenv("HYPEMAN_DOUBLE_VERSION");

    if (wanted)
        version_text = wanted;
    (void)sscanf(version_text, "1.%u", &vm.minor);
    vm.config = json_object();
    guest = guest_new(&vm);
    server = (struct server){.name = "Firecracker API",
                             .vm = &vm,
                             .guest = guest,
                             .payload_max = PAYLOAD_MAX,
                             .carry_out = carry_out,
                             .fault = fault};
    server_run(&server, listen_on(take_arguments(argc, argv)));
}
