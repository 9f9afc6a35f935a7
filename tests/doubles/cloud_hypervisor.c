/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A double of Cloud Hypervisor, as its source describes it: one thread that serves one
 * request at a time, so that one that takes long keeps all others waiting, a ping too;
 * its events go to a file; to be paused twice is an error. HYPEMAN_DOUBLE_VERSION is the
 * version that it plays (53.0.0). GET /double and PUT /double/reboot the real one does
 * not have: how often it was told what, and a guest that restarts. Faults: fault.h, with
 * requests as "PUT /api/v1/vm.snapshot".
 *
 * It cannot show: what a guest's kernel does, that devices work, page faults, the time
 * that a real one takes, Landlock and seccomp, and what KVM refuses.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "cloud_hypervisor_vm.h"
#include "fault.h"
#include "server.h"

enum { PAYLOAD_MAX = 4 << 20, RESUMES_IN_RESTORE = 52, MISSING_IS_404 = 53 };

static struct vm vm = {.vsock_fd = -1, .uffd_socket = -1, .minor = 53};
static struct machine machine = {.vm = &vm, .tap_fd = -1};
static struct server server;
static struct timespec began;
static FILE *events;
static const char *version_text = "53.0.0";

static void event(const char *source, const char *name)
{
    struct timespec now;

    if (!events)
        return;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)fprintf(events,
                  "{\n  \"timestamp\": {\n    \"secs\": %lld,\n    \"nanos\": %ld\n  },\n"
                  "  \"source\": \"%s\",\n  \"event\": \"%s\",\n  \"properties\": null\n}\n\n",
                  (long long)(now.tv_sec - began.tv_sec),
                  now.tv_nsec,
                  source,
                  name);
    (void)fflush(events);
}

/* --- answers --- */

static void refuse(struct answer *a, int status, const char *what, const char *why)
{
    struct jout j;

    a->status = status;
    buf_reset(&a->body);
    j = (struct jout)JOUT(&a->body);
    jout_open(&j, NULL, '[');
    if (what)
        jout_str(&j, NULL, "Error from API");
    if (what)
        jout_str(&j, NULL, what);
    jout_str(&j, NULL, why);
    jout_close(&j, ']');
}

static void fault(struct answer *a, const char *why)
{
    refuse(a, 500, "The VM could not do it", why);
}

static void not_created(struct answer *a)
{
    refuse(a, vm.minor >= MISSING_IS_404 ? 404 : 500, "The VM is missing", "VM is not created");
}

/* --- the API --- */

static void tell_ping(const json_t *body, struct answer *a)
{
    (void)body;
    a->status = 200;
    buf_printf(&a->body,
               "{\"build_version\":\"v%s\",\"version\":\"%s\",\"pid\":%d,\"features\":[\"kvm\"]}",
               version_text,
               version_text,
               (int)getpid());
}

static void tell_info(const json_t *body, struct answer *a)
{
    static const char *const states[] = {"Created", "Running", "Paused"};
    char *config;

    (void)body;
    if (!machine.config) {
        not_created(a);
        return;
    }
    config = json_dumps(machine.config, JSON_COMPACT);
    a->status = 200;
    buf_printf(&a->body,
               "{\"config\":%s,\"state\":\"%s\",\"memory_actual_size\":%zu}",
               config,
               states[vm.phase],
               vm.memory_size);
    free(config);
}

static void tell_counts(const json_t *body, struct answer *a)
{
    (void)body;
    a->status = 200;
    buf_printf(&a->body,
               "{\"requests\":%d,\"boots\":%d,\"loads\":%d,\"pauses\":%d,\"resumes\":%d,"
               "\"saves\":%d,\"has_tap\":%s}",
               vm.counts.requests,
               vm.counts.boots,
               vm.counts.loads,
               vm.counts.pauses,
               vm.counts.resumes,
               vm.counts.saves,
               machine.tap_fd >= 0 ? "true" : "false");
}

static void create(const json_t *body, struct answer *a)
{
    if (machine.config)
        refuse(a, 500, "The VM could not be created", "VM is already created");
    else
        machine.config = json_deep_copy(body);
}

/* --- what changes while it runs --- */

static bool is_running(struct answer *a)
{
    if (vm.phase != VM_RUNNING)
        refuse(a, 500, "The VM could not be changed", "VM is not running");
    return vm.phase == VM_RUNNING;
}

static void resize(const json_t *body, struct answer *a)
{
    const json_t *cpus = json_object_get(machine.config, "cpus");
    json_int_t wanted = json_integer_value(json_object_get(body, "desired_vcpus"));

    if (!is_running(a))
        return;
    if (wanted > json_integer_value(json_object_get(cpus, "max_vcpus")))
        refuse(a, 500, "The VM could not be resized", "Desired vCPU count exceeds the maximum");
    else if (json_object_get(body, "desired_balloon") &&
             !json_object_get(machine.config, "balloon"))
        refuse(a, 500, "The VM could not be resized", "Virtio-balloon is not configured");
}

static void resize_zone(const json_t *body, struct answer *a)
{
    const json_t *zones = json_object_get(json_object_get(machine.config, "memory"), "zones");
    json_t *zone = json_array_get(zones, 0);
    json_int_t wanted = json_integer_value(json_object_get(body, "desired_ram"));
    json_int_t size = json_integer_value(json_object_get(zone, "size"));
    json_int_t room = json_integer_value(json_object_get(zone, "hotplug_size"));

    if (!is_running(a))
        return;
    if (wanted < size || wanted > size + room)
        refuse(a, 500, "The memory zone could not be resized", "Failed to resize the memory zone");
    else
        machine.added = (size_t)(wanted - size); /* its guest takes all of it, and at once */
}

static json_t *list_of(const char *kind)
{
    json_t *list = json_object_get(machine.config, kind);

    if (!list)
        json_object_set_new(machine.config, kind, list = json_array());
    return list;
}

static void add_device(const char *kind, const json_t *body, struct answer *a)
{
    if (!machine.config) {
        not_created(a);
        return;
    }
    json_array_append_new(list_of(kind), json_deep_copy(body));
    if (vm.phase == VM_RUNNING) {
        a->status = 200;
        buf_printf(&a->body,
                   "{\"id\":\"%s\",\"bdf\":\"0000:00:09.0\"}",
                   json_string_value(json_object_get(body, "id")));
    }
}

static void add_net(const json_t *body, struct answer *a)
{
    json_t *card = json_deep_copy(body);

    machine.tap_fd = server.given_fd;
    server.given_fd = -1;
    json_object_set_new(card, "fds", json_pack("[i]", machine.tap_fd));
    add_device("net", card, a);
    json_decref(card);
}

static void add_disk(const json_t *body, struct answer *a)
{
    const char *path = json_string_value(json_object_get(body, "path"));

    if (access(path ? path : "", R_OK) < 0)
        refuse(a, 500, "The disk could not be added to the VM", "Failed to open disk path");
    else
        add_device("disks", body, a);
}

static void remove_device(const json_t *body, struct answer *a)
{
    static const char *const kinds[] = {"disks", "net"};
    const char *id = json_string_value(json_object_get(body, "id"));
    json_t *device;
    size_t at;

    for (size_t i = 0; id && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        json_array_foreach(list_of(kinds[i]), at, device)
        {
            const char *name = json_string_value(json_object_get(device, "id"));

            if (name && strcmp(name, id) == 0) {
                json_array_remove(list_of(kinds[i]), at);
                return;
            }
        }
    }
    refuse(a, 404, "The device could not be removed from the VM", "Missing identifier");
}

static void tell_counters(const json_t *body, struct answer *a)
{
    (void)body;
    a->status = 200;
    buf_puts(&a->body,
             "{\"overlay\":{\"read_latency_min\":18446744073709551615,\"read_bytes\":4096,\"write_"
             "bytes\":8192,\"read_ops\":1,\"write_ops\":2},"
             "\"rootfs\":{\"read_bytes\":4096,\"write_bytes\":0,\"read_ops\":1,\"write_ops\":0},"
             "\"net0\":{\"rx_bytes\":100,\"rx_frames\":1,\"tx_bytes\":200,\"tx_frames\":2}}");
}

static void boot(const json_t *body, struct answer *a)
{
    struct buf why = BUF(4096);

    (void)body;
    event("vm", "booting");
    if (!machine.config)
        not_created(a);
    else if (machine_boot(&machine, &why) < 0)
        refuse(a, 500, "The VM could not boot", buf_str(&why));
    else
        event("vm", "booted");
    buf_free(&why);
}

static void pause_vm(const json_t *body, struct answer *a)
{
    (void)body;
    event("vm", "pausing");
    if (vm.phase != VM_RUNNING) {
        refuse(a,
               500,
               "The VM could not be paused",
               "Invalid transition: InvalidStateTransition(Paused, Paused)");
        return;
    }
    vm_pause(&vm);
    event("vm", "paused");
}

static void resume_vm(const json_t *body, struct answer *a)
{
    (void)body;
    event("vm", "resuming");
    if (vm.phase != VM_PAUSED) {
        refuse(a,
               500,
               "The VM could not resume",
               "Invalid transition: InvalidStateTransition(Running, Running)");
        return;
    }
    vm_resume(&vm);
    event("vm", "resumed");
}

static void save(const json_t *body, struct answer *a)
{
    const char *url = json_string_value(json_object_get(body, "destination_url"));
    const char *dir = machine_directory(url ? url : "");
    struct buf why = BUF(4096);

    event("vm", "snapshotting");
    if (vm.phase != VM_PAUSED)
        refuse(a, 500, "The VM could not be snapshotted", "Trying to snapshot while VM is running");
    else if (!dir)
        refuse(a, 500, "The VM could not be snapshotted", "Destination is not a directory");
    else {
        event("vm", "snapshotted"); /* before a byte of it is written */
        if (machine_save(&machine, dir, &why) < 0)
            refuse(a, 500, "The VM could not be snapshotted", buf_str(&why));
        else
            vm.counts.saves++;
        guest_disconnect(server.guest);
    }
    buf_free(&why);
}

static void restore(const json_t *body, struct answer *a)
{
    const char *url = json_string_value(json_object_get(body, "source_url"));
    const char *dir = machine_directory(url ? url : "");
    size_t n_cards = json_array_size(json_object_get(body, "net_fds"));
    struct buf why = BUF(4096);

    event("vm", "restoring");
    if (n_cards != (server.given_fd >= 0)) {
        refuse(a, 400, "The VM could not be restored", "The number of files is another");
        return;
    }
    machine.tap_fd = server.given_fd;
    server.given_fd = -1;
    if (machine.config)
        refuse(a, 500, "The VM could not be restored", "VM is already created");
    else if (!dir)
        refuse(a, 500, "The VM could not be restored", "Destination is not a directory");
    else if (machine_restore(&machine, dir, &why) < 0)
        refuse(a, 500, "The VM could not be restored", buf_str(&why));
    else {
        event("vm", "restored");
        if (vm.minor >= RESUMES_IN_RESTORE && json_is_true(json_object_get(body, "resume")))
            resume_vm(NULL, a);
    }
    buf_free(&why);
}

static void power_button(const json_t *body, struct answer *a)
{
    (void)body;
    a->then_exit = true; /* a guest with a button driver powers off */
    (void)!write(STDOUT_FILENO, "the button was pressed\n", 23);
}

static void shut_down(const json_t *body, struct answer *a)
{
    (void)body;
    a->then_exit = true;
}

static void reboot(const json_t *body, struct answer *a)
{
    (void)body, (void)a;
    event("vm", "rebooting");
    guest_disconnect(server.guest);
    event("vm", "rebooted");
}

static const struct call {
    const char *request;
    void (*run)(const json_t *body, struct answer *a);
} calls[] = {
    {"GET /api/v1/vmm.ping", tell_ping},
    {"PUT /api/v1/vmm.shutdown", shut_down},
    {"GET /api/v1/vm.info", tell_info},
    {"PUT /api/v1/vm.create", create},
    {"PUT /api/v1/vm.add-net", add_net},
    {"PUT /api/v1/vm.boot", boot},
    {"PUT /api/v1/vm.pause", pause_vm},
    {"PUT /api/v1/vm.resume", resume_vm},
    {"PUT /api/v1/vm.snapshot", save},
    {"PUT /api/v1/vm.restore", restore},
    {"PUT /api/v1/vm.power-button", power_button},
    {"PUT /api/v1/vm.resize", resize},
    {"PUT /api/v1/vm.resize-zone", resize_zone},
    {"PUT /api/v1/vm.add-disk", add_disk},
    {"PUT /api/v1/vm.remove-device", remove_device},
    {"GET /api/v1/vm.counters", tell_counters},
    {"GET /double", tell_counts},
    {"PUT /double/reboot", reboot},
};

static void carry_out(const char *request, json_t *body, struct answer *a)
{
    a->status = 204;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        if (strcmp(calls[i].request, request) == 0) {
            calls[i].run(body, a);
            return;
        }
    }
    refuse(a, 404, NULL, "Unknown route");
}

/* Whoever ends it: a guest that powers off, the API, nobody else is told by events. */
static void say_goodbye(void)
{
    event("vm", "shutdown");
    event("vmm", "shutdown");
}

static int number_after(const char *argument)
{
    int fd;

    if (!argument || sscanf(argument, "fd=%d", &fd) != 1) {
        (void)fprintf(stderr, "Error parsing the command line: %s\n", argument ? argument : "");
        exit(DOUBLE_EXIT_ERROR);
    }
    return fd;
}

/* The listening socket. */
static int take_arguments(int argc, char **argv)
{
    int fd = -1;

    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--version") == 0) {
            (void)printf("cloud-hypervisor v%s\n", version_text);
            exit(0);
        }
        if (strcmp(argv[i], "--api-socket") == 0)
            fd = number_after(argv[i + 1]);
        else if (strcmp(argv[i], "--event-monitor") == 0)
            events = fdopen(number_after(argv[i + 1]), "a");
        else if (strcmp(argv[i], "--seccomp") != 0)
            (void)number_after(argv[i]);
    }
    if (fd < 0)
        (void)number_after(NULL);
    return fd;
}

int main(int argc, char **argv)
{
    const char *wanted = getenv("HYPEMAN_DOUBLE_VERSION");
    int listen_fd;

    if (wanted)
        version_text = wanted;
    (void)sscanf(version_text, "%u", &vm.minor);
    listen_fd = take_arguments(argc, argv);
    (void)clock_gettime(CLOCK_MONOTONIC, &began);
    vm.config = json_object();
    event("vmm", "starting");
    (void)atexit(say_goodbye);
    server = (struct server){.name = "Cloud Hypervisor API",
                             .vm = &vm,
                             .guest = guest_new(&vm),
                             .payload_max = PAYLOAD_MAX,
                             .carry_out = carry_out,
                             .fault = fault};
    server_run(&server, listen_fd);
}
