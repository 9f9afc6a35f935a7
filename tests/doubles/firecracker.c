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
#include "firecracker_guest.h"
#include "firecracker_vm.h"

enum {
    EXIT_ERROR = 1,
    EXIT_ARGUMENTS = 153,
    MAX_CONNECTIONS = 10,
    PAYLOAD_MAX = 51200,
    HEAD_MAX = 4096,
};

struct connection {
    int fd;
    struct buf in;
};

static struct vm vm = {.vsock_fd = -1, .uffd_socket = -1, .minor = 16};
static struct guest *guest;
static struct connection connections[MAX_CONNECTIONS];
static const char *version_text = "1.16.1";

/* --- answers --- */

struct answer {
    int status; /* 200, 204, 400 */
    struct buf body;
    bool then_exit;
};

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

static void send_text(int fd, const char *text, size_t len, int pause_ms)
{
    size_t step = pause_ms ? 1 : len;

    for (size_t at = 0; at < len; at += step) {
        if (send(fd, text + at, step, MSG_NOSIGNAL) < 0)
            return;
        if (pause_ms)
            fault_pause_ms(pause_ms);
    }
}

static void send_answer(int fd, const char *request, const struct answer *a)
{
    static const char garbage[] = "\x16\x03\x01 nothing that anybody asked for\r\n\r\n";
    struct buf text = BUF(128 * 1024);
    int pause_ms = 0;

    buf_printf(
        &text, "HTTP/1.1 %d \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n", a->status);
    if (a->status != 204)
        buf_printf(&text, "Content-Type: application/json\r\nContent-Length: %zu\r\n", a->body.len);
    buf_printf(&text, "\r\n%s", a->status == 204 ? "" : buf_str(&a->body));
    (void)fault_is("drip", request, &pause_ms);
    if (fault_is("garbage", request, NULL))
        send_text(fd, garbage, sizeof(garbage) - 1, 0);
    else if (fault_is("half", request, NULL)) {
        send_text(fd, text.data, text.len / 2, 0);
        exit(EXIT_ERROR);
    } else
        send_text(fd, text.data, text.len, pause_ms);
    buf_free(&text);
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
    } else if (fault_is("refuse", request, NULL))
        fault(a, "The double was told to refuse this.");
    else if (c->when == BEFORE_START && vm.phase != VM_NOT_STARTED)
        fault(a, "The requested operation is not supported after starting the microVM.");
    else if (c->when == AFTER_START && vm.phase == VM_NOT_STARTED)
        fault(a, "The requested operation is not supported before starting the microVM.");
    else if (check_fields(c, body, a)) {
        c->run(body, a);
        if (c->kept_as)
            keep(c, id, body);
    }
}

static void handle(int fd, const char *request, const char *body_text, size_t len)
{
    struct answer a = {.body = BUF(64 * 1024)};
    json_error_t je;
    json_t *body = len ? json_loadb(body_text, len, 0, &je) : NULL;
    int number = 0;

    if (strcmp(request, "GET /double") != 0)
        vm.counts.requests++;
    if (fault_is("deaf", request, NULL)) {
        for (;;)
            (void)pause();
    }
    if (fault_is("die", request, &number))
        exit(number);
    if (len && !body)
        fault(&a, "An error occurred when deserializing the json body of a request.");
    else
        carry_out(request, body, &a);
    if (fault_is("park", request, &number))
        fault_pause_ms(number);
    send_answer(fd, request, &a);
    if (a.then_exit)
        exit(a.status == 400 ? EXIT_ERROR : 0);
    json_decref(body);
    buf_free(&a.body);
}

/* --- connections --- */

static void hang_up(struct connection *c)
{
    close(c->fd);
    buf_free(&c->in);
    c->fd = -1;
}

/* Serves the request at the front, if it is all there. */
static bool serve_one(struct connection *c)
{
    const char *head_end = c->in.len ? memmem(c->in.data, c->in.len, "\r\n\r\n", 4) : NULL;
    const char *length_line;
    char request[256];
    size_t length = 0;
    size_t head;
    char method[16];
    char path[200];

    if (!head_end)
        return false;
    head = (size_t)(head_end + 4 - c->in.data);
    length_line = strcasestr(c->in.data, "\r\nContent-Length:");
    if (length_line && length_line < head_end)
        length = strtoul(length_line + strlen("\r\nContent-Length:"), NULL, 10);
    if (length > PAYLOAD_MAX || sscanf(c->in.data, "%15s %199s HTTP/1.1", method, path) != 2) {
        hang_up(c);
        return false;
    }
    if (c->in.len < head + length)
        return false;
    (void)snprintf(request, sizeof(request), "%s %s", method, path);
    handle(c->fd, request, c->in.data + head, length);
    buf_consume(&c->in, head + length);
    return true;
}

static void readable(struct connection *c)
{
    char *space = buf_space(&c->in, HEAD_MAX);
    ssize_t n = space ? recv(c->fd, space, HEAD_MAX, MSG_DONTWAIT) : 0;

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        hang_up(c);
        return;
    }
    buf_added(&c->in, (size_t)n);
    while (c->fd >= 0 && serve_one(c))
        ;
}

static void accept_one(int listen_fd)
{
    static const char full[] = "HTTP/1.1 503 \r\nContent-Length: 40\r\n\r\n"
                               "{ \"error\": \"Too many open connections\" }";
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

    for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
        if (connections[i].fd < 0) {
            connections[i] = (struct connection){.fd = fd, .in = BUF(PAYLOAD_MAX + HEAD_MAX)};
            return;
        }
    }
    (void)!send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL);
    close(fd);
}

/* A guest that is paused is not there: its sockets take connections, and nobody answers. */
static void serve(int listen_fd)
{
    for (;;) {
        bool runs = vm.phase == VM_RUNNING;
        struct pollfd fds[MAX_CONNECTIONS + 3];
        nfds_t n = 0;

        if (vm_resets(&vm))
            exit(0);
        for (; n < MAX_CONNECTIONS; n++)
            fds[n] = (struct pollfd){.fd = connections[n].fd, .events = POLLIN};
        fds[n++] = (struct pollfd){.fd = listen_fd, .events = POLLIN};
        fds[n++] = (struct pollfd){.fd = runs ? vm.vsock_fd : -1, .events = POLLIN};
        fds[n++] = (struct pollfd){.fd = runs ? guest_fd(guest) : -1, .events = POLLIN};
        if (poll(fds, n, -1) < 0)
            continue;
        for (nfds_t i = 0; i < MAX_CONNECTIONS; i++) {
            if (fds[i].revents)
                readable(&connections[i]);
        }
        if (fds[MAX_CONNECTIONS].revents)
            accept_one(listen_fd);
        if (fds[MAX_CONNECTIONS + 2].revents && guest_fd(guest) >= 0)
            guest_readable(guest);
        if (fds[MAX_CONNECTIONS + 1].revents && vm.phase == VM_RUNNING)
            guest_accept(guest);
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
        exit(EXIT_ERROR);
    }
    return fd;
}

static void touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

    if (fd < 0)
        exit(EXIT_ARGUMENTS);
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
            exit(EXIT_ARGUMENTS);
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
    for (size_t i = 0; i < MAX_CONNECTIONS; i++)
        connections[i].fd = -1;
    vm.config = json_object();
    guest = guest_new(&vm);
    serve(listen_on(take_arguments(argc, argv)));
}
