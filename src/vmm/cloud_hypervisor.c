/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cloud_hypervisor.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/argv.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "trace/trace.h"
#include "vmm/ram_disk.h"
#include "vmm/sock.h"
#include "vmm/start.h"

enum {
    OLDEST = 48,
    RESUMES_IN_LOAD = 52,
    LANDLOCK_ABI = 3, /* what it insists on */
    BODY_MAX = 16 * 1024,
    INFO_MAX = 256 * 1024,
};

static int available(const struct vmm_host *host, struct err *why)
{
    if (host->cloud_hypervisor[0] == '\0')
        return err_set(why, ERR_UNSUPPORTED, "there is no cloud-hypervisor that runs");
    if (cloud_hypervisor_version(host) < OLDEST)
        return err_set(why,
                       ERR_UNSUPPORTED,
                       "Cloud Hypervisor %s is too old: %d is the first that will do",
                       host->cloud_hypervisor_version,
                       OLDEST);
    if (host->accel != VMM_KVM)
        return err_set(
            why, ERR_UNSUPPORTED, "Cloud Hypervisor needs KVM: %.200s", host->accel_reason);
    return 0;
}

static void identity(const struct vmm_host *host, struct buf *out)
{
    buf_printf(out, "Cloud Hypervisor %s; %s", host->cloud_hypervisor_version, host->cpu);
}

bool cloud_hypervisor_can_landlock(void)
{
    return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) >=
           LANDLOCK_ABI;
}

/* --- starting --- */

/* What it is given: the first three by number, then what its standard output is. */
enum { API, EVENTS, RAM, SERIAL };

struct start {
    struct vmm_start base;
    enum cloud_hypervisor_memory memory;
};

#define auto_start __attribute__((cleanup(start_undo)))

static void start_undo(struct start *s)
{
    vmm_start_undo(&s->base);
}

static struct start nothing_yet(const struct vmm_boot *boot)
{
    return (struct start){.base = vmm_start_of("Cloud Hypervisor", boot)};
}

static int open_files(struct vmm_start *s, struct err *e)
{
    s->given[SERIAL] = vmm_start_file(s, VMM_SERIAL_LOG, 0, e);
    if (s->given[SERIAL] < 0 || vmm_start_log(s, 0, e) < 0)
        return -1;
    s->given[EVENTS] = vmm_start_file(s, VMM_EVENTS_LOG, O_TRUNC, e);
    if (s->given[EVENTS] < 0)
        return -1;
    s->given[API] = sock_listen(s->boot->dir_fd, VMM_API_SOCKET, e);
    return s->given[API] < 0 ? -1 : 0;
}

static int spawn(struct vmm_start *s, struct err *e)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);

    static_assert(CLOUD_HYPERVISOR_RAM_FD - CLOUD_HYPERVISOR_API_FD == RAM - API,
                  "an fd without number");
    spec.pass_fds = s->given;
    spec.n_pass_fds = s->given[RAM] >= 0 ? 3 : 2;
    argv_push(&argv, s->boot->host->cloud_hypervisor);
    argv_push(&argv, "--api-socket");
    argv_pushf(&argv, "fd=%d", CLOUD_HYPERVISOR_API_FD);
    argv_push(&argv, "--event-monitor");
    argv_pushf(&argv, "fd=%d", CLOUD_HYPERVISOR_EVENTS_FD);
    argv_push(&argv, "--seccomp");
    argv_push(&argv, "true");
    spec.stdout_fd = s->given[SERIAL];
    return vmm_start_spawn(s, &spec, e);
}

static int bring_up(const struct op *op, struct start *s, const struct vmm_load *load,
                    struct err *e)
{
    auto_span span = op_span(op, "hypervisor.start_process");

    if (tree_remove(s->base.boot->dir_fd, VMM_SAVE_DIR, e) < 0 || open_files(&s->base, e) < 0 ||
        spawn(&s->base, e) < 0)
        return -1;
    if (load && load->started)
        load->started(load->arg, &s->base.process);
    return 0;
}

static int say(const struct op *op, struct start *s, const char *request, const char *body,
               struct err *e)
{
    if (!s->base.api)
        s->base.api = vmm_api_client(s->base.boot->dir_fd);
    return cloud_hypervisor_call(op, s->base.api, request, body, NULL, e) < 0
               ? vmm_start_explain(&s->base, e)
               : 0;
}

static int say_with_tap(const struct op *op, struct start *s, const char *request, const char *body,
                        struct err *e)
{
    return cloud_hypervisor_call_with(
               op, s->base.boot->dir_fd, s->base.boot->tap_fd, request, body, e) < 0
               ? vmm_start_explain(&s->base, e)
               : 0;
}

static int configure(const struct op *op, struct start *s, struct err *e)
{
    auto_span span = op_span(op, "configure_vm");
    auto_buf struct buf config = BUF(BODY_MAX);
    auto_buf struct buf nic = BUF(BODY_MAX);

    cloud_hypervisor_config(&config, s->base.boot, s->memory, cloud_hypervisor_can_landlock());
    if (say(op, s, "PUT vm.create", buf_str(&config), e) < 0)
        return -1;
    if (s->base.boot->tap_fd < 0)
        return 0;
    cloud_hypervisor_nic(&nic, s->base.boot);
    return say_with_tap(op, s, "PUT vm.add-net", buf_str(&nic), e);
}

/* Where we may not make what it leaves out of its snapshots, it has its own. */
static int make_memory(struct start *s, struct err *e)
{
    s->base.given[RAM] = ram_disk_file(s->base.boot->memory_bytes, e);
    if (s->base.given[RAM] >= 0)
        return 0;
    s->memory = RAM_OF_ITS_OWN;
    if (e->code != ERR_UNSUPPORTED)
        return -1;
    err_clear(e);
    return 0;
}

static int boot(const struct op *op, const struct vmm_boot *what, struct vmm_process *out,
                struct err *e)
{
    auto_start struct start s = nothing_yet(what);

    if (make_memory(&s, e) < 0 || bring_up(op, &s, NULL, e) < 0 || configure(op, &s, e) < 0 ||
        say(op, &s, "PUT vm.boot", NULL, e) < 0)
        return -1;
    *out = vmm_start_hand_over(&s.base);
    return 0;
}

/* --- loading --- */

/* The directory that it reads: the state by another name, and the configuration. */
static int make_source(const struct op *op, const struct vmm_boot *boot, struct err *e)
{
    auto_span span = op_span(op, "prepare_process");
    auto_buf struct buf config = BUF(BODY_MAX);
    auto_close int dir_fd = -1;
    auto_close int fd = -1;

    if (tree_remove(boot->dir_fd, VMM_LOAD_DIR, e) < 0)
        return -1;
    if (mkdirat(boot->dir_fd, VMM_LOAD_DIR, 0700) < 0 ||
        linkat(boot->dir_fd, VMM_SNAPSHOT_STATE, boot->dir_fd, VMM_LOAD_DIR "/state.json", 0) < 0)
        return err_errno(e, "link %s", VMM_SNAPSHOT_STATE);
    fd = openat(
        boot->dir_fd, VMM_LOAD_DIR "/config.json", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(e, "write the VM's configuration");
    cloud_hypervisor_config(&config, boot, RAM_OF_SNAPSHOT, cloud_hypervisor_can_landlock());
    return file_write_all(fd, config.data, config.len, e);
}

static int let_run(const struct op *op, struct start *s, const struct vmm_load *what, struct err *e)
{
    auto_span span = op_span(op, "resume_vm");

    return what->resume && cloud_hypervisor_version(what->boot.host) < RESUMES_IN_LOAD
               ? say(op, s, "PUT vm.resume", NULL, e)
               : 0;
}

static int load_guest(const struct op *op, struct start *s, const struct vmm_load *what,
                      struct err *e)
{
    auto_buf struct buf body = BUF(BODY_MAX);
    auto_span span = {0};

    if (what->resume && what->about_to_run && what->about_to_run(what->arg, e) < 0)
        return -1;
    span = op_span(op, "restore_from_snapshot");
    cloud_hypervisor_restore(&body, what);
    return what->boot.tap_fd >= 0 ? say_with_tap(op, s, "PUT vm.restore", buf_str(&body), e)
                                  : say(op, s, "PUT vm.restore", buf_str(&body), e);
}

static int load(const struct op *op, const struct vmm_load *what, struct vmm_process *out,
                bool *running_out, struct err *e)
{
    auto_start struct start s = nothing_yet(&what->boot);
    struct err ignored = {0};
    int rc = -1;

    if (what->memory_socket)
        return err_set(e, ERR_UNSUPPORTED, "Cloud Hypervisor takes no memory from a socket");
    /* While it starts, and while that it is to run is written down. */
    if (vmm_start_check_memory(&what->boot, e) == 0 && bring_up(op, &s, what, e) == 0 &&
        make_source(op, &what->boot, e) == 0 && load_guest(op, &s, what, e) == 0)
        rc = let_run(op, &s, what, e);
    if (rc < 0) { /* else it goes with the snapshot, when nobody waits */
        (void)tree_remove(what->boot.dir_fd, VMM_LOAD_DIR, &ignored);
        return -1;
    }
    *out = vmm_start_hand_over(&s.base);
    *running_out = what->resume;
    return 0;
}

/* --- a running one --- */

/* It refuses to be made what it is. */
static bool is_already(const struct op *op, const struct vmm_handle *vm, enum vmm_status wanted)
{
    auto_buf struct buf info = BUF(INFO_MAX);
    struct err ignored = {0};

    return cloud_hypervisor_command(op, vm, "GET vm.info", NULL, &info, &ignored) == 0 &&
           cloud_hypervisor_status(buf_str(&info), info.len) == wanted;
}

static int become(const struct op *op, const struct vmm_handle *vm, const char *request,
                  enum vmm_status wanted, struct err *e)
{
    if (cloud_hypervisor_command(op, vm, request, NULL, NULL, e) == 0)
        return 0;
    if (e->code != ERR_INTERNAL || !is_already(op, vm, wanted))
        return -1;
    err_clear(e);
    return 0;
}

static int pause_guest(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    return become(op, vm, "PUT vm.pause", VMM_STATUS_PAUSED, e);
}

static int resume_guest(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    return become(op, vm, "PUT vm.resume", VMM_STATUS_RUNNING, e);
}

/* For a guest whose agent does not answer; one that has no button driver ignores it. */
static int power_button(const struct op *op, const struct vmm_handle *vm, struct err *e)
{
    return cloud_hypervisor_command(op, vm, "PUT vm.power-button", NULL, NULL, e);
}

const struct vmm_driver cloud_hypervisor_driver = {
    .name = "cloud-hypervisor",
    .binary = "cloud-hypervisor",
    .resumes_in_load = true,
    .agent_by_vsock = true,
    .available = available,
    .identity = identity,
    .boot = boot,
    .pause = pause_guest,
    .resume = resume_guest,
    .save = cloud_hypervisor_save,
    .hold_memory = cloud_hypervisor_hold_memory,
    .load = load,
    .resize = cloud_hypervisor_resize,
    .set_balloon = cloud_hypervisor_set_balloon,
    .add_disk = cloud_hypervisor_add_disk,
    .add_card = cloud_hypervisor_add_card,
    .remove_device = cloud_hypervisor_remove_device,
    .count = cloud_hypervisor_count,
    .power_button = power_button,
    .monitor = &cloud_hypervisor_monitor_driver,
};
