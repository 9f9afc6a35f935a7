/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "trace/trace.h"
#include "vmm/last_words.h"
#include "vmm/qmp.h"
#include "vmm/qmp_line.h"
#include "vmm/sock.h"

enum {
    KILL_MS = 10000,
};

static int microvm_available(const struct vmm_host *host, struct err *why)
{
    if (host->qemu[0] == '\0')
        return err_set(why, ERR_UNSUPPORTED, "there is no qemu-system-x86_64 that runs");
    if (host->microvm_firmware[0] == '\0')
        return err_set(why, ERR_UNSUPPORTED, "QEMU has no qboot.rom");
    return 0;
}

static int q35_available(const struct vmm_host *host, struct err *why)
{
    if (host->qemu[0] == '\0')
        return err_set(why, ERR_UNSUPPORTED, "there is no qemu-system-x86_64 that runs");
    return 0;
}

/* What a start has made so far. Undone unless the process was given away. */
struct start {
    const struct qemu_machine *machine;
    const struct vmm_boot *boot;
    enum qemu_purpose purpose;
    int api_fd, events_fd, agent_fd; /* ours until QEMU has them: else a dead QEMU gives no EOF */
    int ram_fd;
    int log_fd;
    off_t log_from;
    struct vmm_process process;
};

#define auto_start __attribute__((cleanup(start_undo)))

static void close_given(struct start *s)
{
    int *fds[] = {&s->api_fd, &s->events_fd, &s->agent_fd, &s->ram_fd};

    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        cleanup_close(fds[i]);
        *fds[i] = -1;
    }
}

static void start_undo(struct start *s)
{
    struct op last_moment = {.deadline_ms = clock_ms() + KILL_MS, .cancel_fd = -1};
    struct err ignored = {0};

    if (s->process.pidfd >= 0)
        (void)proc_kill(&last_moment, s->process.pidfd, &ignored);
    cleanup_close(&s->process.pidfd);
    cleanup_close(&s->log_fd);
    close_given(s);
}

static int make_sockets(struct start *s, struct err *e)
{
    int dir_fd = s->boot->dir_fd;

    s->api_fd = sock_listen(dir_fd, VMM_API_SOCKET, e);
    if (s->api_fd < 0)
        return -1;
    s->events_fd = sock_listen(dir_fd, VMM_EVENTS_SOCKET, e);
    if (s->events_fd < 0)
        return -1;
    s->agent_fd = sock_listen(dir_fd, VMM_AGENT_SOCKET, e);
    return s->agent_fd < 0 ? -1 : 0;
}

static int make_ram(struct start *s, struct err *e)
{
    s->ram_fd = memfd_create("hypeman-ram", MFD_CLOEXEC);
    if (s->ram_fd < 0 || ftruncate(s->ram_fd, (off_t)s->boot->memory_bytes) < 0)
        return err_errno(e, "make the guest's memory");
    return 0;
}

/* QEMU before 8.2 insists on opening it for writing, although it maps it private. */
static int open_ram(struct start *s, struct err *e)
{
    struct stat st;

    s->ram_fd = openat(s->boot->dir_fd, VMM_SNAPSHOT_MEMORY, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (s->ram_fd < 0 || fstat(s->ram_fd, &st) < 0)
        return err_errno(e, "open %s", VMM_SNAPSHOT_MEMORY);
    if (st.st_size != (off_t)s->boot->memory_bytes)
        return err_set(e,
                       ERR_BAD_STATE,
                       "the snapshot holds %lld bytes of memory, the VM has %llu",
                       (long long)st.st_size,
                       (unsigned long long)s->boot->memory_bytes);
    return 0;
}

static int open_log(int dir_fd, const char *name, struct err *e)
{
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);

    return fd < 0 ? err_errno(e, "open %s", name) : fd;
}

/* The serial log is QEMU's to write; it is made here for its mode. */
static int open_logs(struct start *s, struct err *e)
{
    auto_close int serial_fd = open_log(s->boot->dir_fd, VMM_SERIAL_LOG, e);

    if (serial_fd < 0)
        return -1;
    s->log_fd = open_log(s->boot->dir_fd, VMM_VMM_LOG, e);
    if (s->log_fd < 0)
        return -1;
    s->log_from = lseek(s->log_fd, 0, SEEK_END);
    return 0;
}

static int spawn(struct start *s, struct err *e)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    const int fds[] = {s->api_fd, s->events_fd, s->agent_fd, s->ram_fd, s->boot->tap_fd};

    static_assert(sizeof(fds) / sizeof(fds[0]) == QEMU_END_FD - QEMU_API_FD,
                  "an fd without number");
    spec.pass_fds = fds;
    spec.n_pass_fds = (s->boot->tap_fd >= 0 ? QEMU_END_FD : QEMU_TAP_FD) - QEMU_API_FD;
    spec.cwd_fd = s->boot->dir_fd;
    spec.stdout_fd = s->log_fd;
    spec.stderr_fd = s->log_fd;
    qemu_argv(&argv, s->machine, s->boot, s->purpose);
    s->process.pidfd = proc_spawn(&spec, &s->process.id, e);
    close_given(s);
    return s->process.pidfd < 0 ? -1 : 0;
}

/* Turns "the connection broke" into why: a QEMU that gives up prints it and ends. */
static int explain(struct start *s, struct err *e)
{
    struct last_words_source source = {.program = "QEMU",
                                       .pidfd = &s->process.pidfd,
                                       .log_fd = s->log_fd,
                                       .log_from = s->log_from};

    return e->code == ERR_NOT_FOUND ? last_words_explain(&source, e) : -1;
}

static int expect_status(const struct op *op, struct qmp *q, enum vmm_status wanted, struct err *e)
{
    json_auto_t *status = qmp_call(op, q, "query-status", NULL, e);

    if (!status)
        return -1;
    if (qmp_status(status) != wanted)
        return err_set(
            e, ERR_INTERNAL, "the guest did not start: it is %.40s", qmp_text(status, "status"));
    return 0;
}

/*
 * Completed comes once the guest runs, or is stopped for good. A QEMU that fails to load says
 * "failed" and then ends, which is waited for: the reason is in its log.
 */
static int await_loaded(const struct op *op, struct qmp *q, struct err *e)
{
    for (;;) {
        json_auto_t *migration = qmp_next_event(op, q, e);

        if (!migration)
            return -1;
        if (strcmp(qmp_text(migration, "status"), "completed") == 0)
            return 0;
    }
}

static int load_state(const struct op *op, struct start *s, struct qmp *q, struct err *e)
{
    auto_span span = op_span(op, "restore_from_snapshot");
    auto_close int fd =
        openat(s->boot->dir_fd, VMM_SNAPSHOT_STATE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    json_auto_t *taken = NULL;

    if (fd < 0)
        return err_errno(e, "open %s", VMM_SNAPSHOT_STATE);
    qmp_want(q, "MIGRATION");
    taken = qmp_call_fd(op, q, "getfd", "{\"fdname\":\"state\"}", fd, e);
    if (!taken ||
        qmp_do(op,
               q,
               "migrate-set-capabilities",
               "{\"capabilities\":[{\"capability\":\"events\",\"state\":true}]}",
               e) < 0 ||
        qmp_do(op, q, "migrate-incoming", "{\"uri\":\"fd:state\"}", e) < 0)
        return -1;
    if (await_loaded(op, q, e) < 0)
        return -1;
    return expect_status(
        op, q, s->purpose == QEMU_LOAD_PAUSED ? VMM_STATUS_PAUSED : VMM_STATUS_RUNNING, e);
}

/* What QEMU is given: made by us, and what is to be had at once. */
static int prepare(const struct op *op, struct start *s, struct err *e)
{
    auto_span span = op_span(op, "prepare_process");

    if (make_sockets(s, e) < 0 || open_logs(s, e) < 0)
        return -1;
    return s->purpose == QEMU_BOOT ? make_ram(s, e) : open_ram(s, e);
}

/* The first answered command, not the greeting, is the sign that the machine was made. */
static int start_process(const struct op *op, struct start *s, struct qmp *q, struct err *e)
{
    auto_span span = op_span(op, "hypervisor.start_process");

    if (spawn(s, e) < 0 || qmp_open(op, s->boot->dir_fd, VMM_API_SOCKET, q, e) < 0)
        return -1;
    return s->purpose == QEMU_BOOT ? expect_status(op, q, VMM_STATUS_RUNNING, e) : 0;
}

static int bring_up(const struct op *op, struct start *s, struct err *e)
{
    auto_qmp struct qmp q = QMP_CLOSED;

    if (start_process(op, s, &q, e) < 0)
        return -1;
    return s->purpose == QEMU_BOOT ? 0 : load_state(op, s, &q, e);
}

static int start_qemu(const struct op *op, struct start what, struct vmm_process *out,
                      struct err *e)
{
    auto_start struct start s = what;

    s.api_fd = s.events_fd = s.agent_fd = s.ram_fd = s.log_fd = s.process.pidfd = -1;
    if (prepare(op, &s, e) < 0)
        return -1;
    if (bring_up(op, &s, e) < 0)
        return s.process.pidfd >= 0 ? explain(&s, e) : -1;
    *out = s.process;
    s.process.pidfd = -1;
    return 0;
}

static int microvm_boot(const struct op *op, const struct vmm_boot *boot, struct vmm_process *out,
                        struct err *e)
{
    struct start s = {.machine = &qemu_machine_microvm, .boot = boot, .purpose = QEMU_BOOT};

    return start_qemu(op, s, out, e);
}

static int q35_boot(const struct op *op, const struct vmm_boot *boot, struct vmm_process *out,
                    struct err *e)
{
    struct start s = {.machine = &qemu_machine_q35, .boot = boot, .purpose = QEMU_BOOT};

    return start_qemu(op, s, out, e);
}

static int load_qemu(const struct op *op, const struct qemu_machine *machine,
                     const struct vmm_load *load, struct vmm_process *out, bool *running_out,
                     struct err *e)
{
    struct start s = {.machine = machine,
                      .boot = &load->boot,
                      .purpose = load->resume ? QEMU_LOAD : QEMU_LOAD_PAUSED};

    if (start_qemu(op, s, out, e) < 0)
        return -1;
    *running_out = load->resume;
    return 0;
}

static int microvm_load(const struct op *op, const struct vmm_load *load, struct vmm_process *out,
                        bool *running_out, struct err *e)
{
    return load_qemu(op, &qemu_machine_microvm, load, out, running_out, e);
}

static int q35_load(const struct op *op, const struct vmm_load *load, struct vmm_process *out,
                    bool *running_out, struct err *e)
{
    return load_qemu(op, &qemu_machine_q35, load, out, running_out, e);
}

static void describe(const struct vmm_host *host, const struct qemu_machine *machine,
                     struct buf *out)
{
    buf_printf(out,
               "QEMU %s; %s; %s; cpu %s; firmware %s",
               host->qemu_version,
               machine->options,
               host->accel == VMM_KVM ? "kvm" : "tcg",
               qemu_cpu(host),
               machine->needs_firmware ? host->microvm_firmware : "QEMU's own");
}

static void microvm_identity(const struct vmm_host *host, struct buf *out)
{
    describe(host, &qemu_machine_microvm, out);
}

static void q35_identity(const struct vmm_host *host, struct buf *out)
{
    describe(host, &qemu_machine_q35, out);
}

static int command(const struct op *op, const struct vmm_handle *vm, const char *name,
                   struct err *e)
{
    auto_qmp struct qmp q = QMP_CLOSED;

    if (qmp_open(op, vm->dir_fd, VMM_API_SOCKET, &q, e) < 0)
        return -1;
    return qmp_do(op, &q, name, NULL, e);
}

static int qemu_pause(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    return command(op, vm, "stop", e);
}

static int qemu_resume(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    return command(op, vm, "cont", e);
}

static uint64_t counter(const json_t *stats, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(stats, name));
}

static int qemu_count(const struct op *op, const struct vmm_handle *vm, struct vmm_counters *out,
                      struct err *e)
{
    auto_qmp struct qmp q = QMP_CLOSED;
    json_auto_t *disks = NULL;
    const json_t *disk;
    size_t i;

    if (qmp_open(op, vm->dir_fd, VMM_API_SOCKET, &q, e) < 0)
        return -1;
    disks = qmp_call(op, &q, "query-blockstats", NULL, e);
    if (!disks)
        return -1;
    json_array_foreach(disks, i, disk)
    {
        const json_t *stats = json_object_get(disk, "stats");

        out->disk_read_bytes += counter(stats, "rd_bytes");
        out->disk_written_bytes += counter(stats, "wr_bytes");
        out->disk_reads += counter(stats, "rd_operations");
        out->disk_writes += counter(stats, "wr_operations");
    }
    return 0;
}

/* A microvm has no such button. */
static int q35_power_button(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    return command(op, vm, "system_powerdown", e);
}

const struct vmm_driver qemu_microvm_driver = {
    .name = "qemu-microvm",
    .binary = "qemu-system-x86_64",
    .takes_tap_file = true,
    .makes_network = true,
    .available = microvm_available,
    .identity = microvm_identity,
    .boot = microvm_boot,
    .pause = qemu_pause,
    .resume = qemu_resume,
    .save = qemu_save,
    .hold_memory = qemu_hold_memory,
    .load = microvm_load,
    .count = qemu_count,
    .monitor = &qemu_monitor_driver,
};

const struct vmm_driver qemu_q35_driver = {
    .name = "qemu",
    .binary = "qemu-system-x86_64",
    .takes_tap_file = true,
    .makes_network = true,
    .available = q35_available,
    .identity = q35_identity,
    .boot = q35_boot,
    .pause = qemu_pause,
    .resume = qemu_resume,
    .save = qemu_save,
    .hold_memory = qemu_hold_memory,
    .load = q35_load,
    .count = qemu_count,
    .power_button = q35_power_button,
    .monitor = &qemu_monitor_driver,
};
