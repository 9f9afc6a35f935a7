/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "trace/trace.h"
#include "vmm/qmp.h"
#include "vmm/qmp_line.h"
#include "vmm/sock.h"
#include "vmm/start.h"

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

/* What it is given, by number; the network's comes after. */
enum { API, EVENTS, AGENT, RAM };

struct start {
    struct vmm_start base;
    const struct qemu_machine *machine;
    enum qemu_purpose purpose;
};

#define auto_start __attribute__((cleanup(start_undo)))

static void start_undo(struct start *s)
{
    vmm_start_undo(&s->base);
}

static int make_sockets(struct vmm_start *s, struct err *e)
{
    static const char *const names[] = {VMM_API_SOCKET, VMM_EVENTS_SOCKET, VMM_AGENT_SOCKET};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        s->given[API + i] = sock_listen(s->boot->dir_fd, names[i], e);
        if (s->given[API + i] < 0)
            return -1;
    }
    return 0;
}

static int make_ram(struct vmm_start *s, struct err *e)
{
    s->given[RAM] = memfd_create("hypeman-ram", MFD_CLOEXEC);
    if (s->given[RAM] < 0 || ftruncate(s->given[RAM], (off_t)s->boot->memory_bytes) < 0)
        return err_errno(e, "make the guest's memory");
    return 0;
}

/* QEMU before 8.2 insists on opening it for writing, although it maps it private. */
static int open_ram(struct vmm_start *s, struct err *e)
{
    s->given[RAM] = openat(s->boot->dir_fd, VMM_SNAPSHOT_MEMORY, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (s->given[RAM] < 0)
        return err_errno(e, "open %s", VMM_SNAPSHOT_MEMORY);
    return vmm_start_check_memory(s->boot, e);
}

/* The serial log is QEMU's to write; it is made here for its mode. */
static int open_logs(struct vmm_start *s, struct err *e)
{
    auto_close int serial_fd = vmm_start_file(s, VMM_SERIAL_LOG, 0, e);

    return serial_fd < 0 ? -1 : vmm_start_log(s, 0, e);
}

static int spawn(struct start *s, struct err *e)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    const struct vmm_boot *boot = s->base.boot;
    const int *given = s->base.given;
    const int fds[] = {given[API], given[EVENTS], given[AGENT], given[RAM], boot->tap_fd};

    static_assert(sizeof(fds) / sizeof(fds[0]) == QEMU_END_FD - QEMU_API_FD,
                  "an fd without number");
    spec.pass_fds = fds;
    spec.n_pass_fds = (boot->tap_fd >= 0 ? QEMU_END_FD : QEMU_TAP_FD) - QEMU_API_FD;
    spec.stdout_fd = s->base.log_fd;
    qemu_argv(&argv, s->machine, boot, s->purpose);
    return vmm_start_spawn(&s->base, &spec, e);
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
        openat(s->base.boot->dir_fd, VMM_SNAPSHOT_STATE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
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

    if (make_sockets(&s->base, e) < 0 || open_logs(&s->base, e) < 0)
        return -1;
    return s->purpose == QEMU_BOOT ? make_ram(&s->base, e) : open_ram(&s->base, e);
}

/* The first answered command, not the greeting, is the sign that the machine was made. */
static int start_process(const struct op *op, struct start *s, struct qmp *q, struct err *e)
{
    auto_span span = op_span(op, "hypervisor.start_process");

    if (spawn(s, e) < 0 || qmp_open(op, s->base.boot->dir_fd, VMM_API_SOCKET, q, e) < 0)
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

static int start_qemu(const struct op *op, const struct qemu_machine *machine,
                      const struct vmm_boot *boot, enum qemu_purpose purpose,
                      struct vmm_process *out, struct err *e)
{
    auto_start struct start s = {vmm_start_of("QEMU", boot), machine, purpose};

    if (prepare(op, &s, e) < 0)
        return -1;
    if (bring_up(op, &s, e) < 0)
        return s.base.process.pidfd >= 0 ? vmm_start_explain(&s.base, e) : -1;
    *out = vmm_start_hand_over(&s.base);
    return 0;
}

static int microvm_boot(const struct op *op, const struct vmm_boot *boot, struct vmm_process *out,
                        struct err *e)
{
    return start_qemu(op, &qemu_machine_microvm, boot, QEMU_BOOT, out, e);
}

static int q35_boot(const struct op *op, const struct vmm_boot *boot, struct vmm_process *out,
                    struct err *e)
{
    return start_qemu(op, &qemu_machine_q35, boot, QEMU_BOOT, out, e);
}

static int load_qemu(const struct op *op, const struct qemu_machine *machine,
                     const struct vmm_load *load, struct vmm_process *out, bool *running_out,
                     struct err *e)
{
    enum qemu_purpose purpose = load->resume ? QEMU_LOAD : QEMU_LOAD_PAUSED;

    if (start_qemu(op, machine, &load->boot, purpose, out, e) < 0)
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
