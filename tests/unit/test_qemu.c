/* SPDX-License-Identifier: Apache-2.0 */
/* The drivers on the real QEMU, translating a guest of a few bytes. Skipped when it is missing. */
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "unit.h"
#include "vmm/host.h"
#include "vmm/qemu.h"
#include "vmm/qmp.h"
#include "vmm/sock.h"

enum { MEMORY = 64 << 20 };

static struct vmm_host host; /* found once */

struct rig {
    char path[64];
    int dir_fd;
    struct vmm_process process;
    struct vmm_handle vm;
};

static struct op within(int64_t ms)
{
    return (struct op){.deadline_ms = clock_ms() + ms, .cancel_fd = -1};
}

static void make_file(int dir_fd, const char *name, off_t size)
{
    auto_close int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0640);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
}

/* One of tests/guests. */
static void use_kernel(const char *name)
{
    (void)snprintf(host.kernel, sizeof(host.kernel), "%s/%s", TINY_GUESTS, name);
}

static void setup_rig(struct rig *r)
{
    *r = (struct rig){.path = "/tmp/hypeman-qemu-XXXXXX", .process.pidfd = -1};
    assert_non_null(mkdtemp(r->path));
    r->dir_fd = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(r->dir_fd >= 0);
    make_file(r->dir_fd, VMM_IMAGE, 1 << 20);
    make_file(r->dir_fd, VMM_OVERLAY, 1 << 20);
    make_file(r->dir_fd, VMM_CONFIG_DISK, 1 << 20);
    use_kernel("tiny-idle");
}

static void end_rig_of_several(struct rig *r)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    if (r->process.pidfd >= 0)
        assert_int_equal(vmm_stop(&op, &r->vm, 0, NULL, &e), 0);
    cleanup_close(&r->process.pidfd);
    close(r->dir_fd);
    assert_int_equal(tree_remove(AT_FDCWD, r->path, &e), 0);
}

static void end_rig(struct rig *r)
{
    end_rig_of_several(r);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
}

static struct vmm_boot boot_of(const struct rig *r)
{
    return (struct vmm_boot){.host = &host,
                             .name = "tiny",
                             .dir_fd = r->dir_fd,
                             .vcpus = 1,
                             .memory_bytes = MEMORY,
                             .tap_fd = -1};
}

static void boot(struct rig *r, const struct vmm_driver *driver)
{
    struct vmm_boot b = boot_of(r);
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    int64_t start = clock_us();

    if (vmm_boot(&op, driver, &b, &r->process, &e) < 0)
        fail_msg("%s", e.msg);
    print_message(
        "%s: spawn to first answer %.1f ms\n", driver->name, (double)(clock_us() - start) / 1000);
    r->vm = (struct vmm_handle){
        .driver = driver, .name = "tiny", .dir_fd = r->dir_fd, .pidfd = r->process.pidfd};
}

static bool is_missing(void)
{
    if (host.qemu[0])
        return false;
    print_message("skipped: there is no qemu-system-x86_64\n");
    return true;
}

/* What a VM does to its loop: the steps below are taken as the events come. */
struct story {
    struct loop *loop;
    struct vmm_monitor *monitor;
    struct rig *rig;
    struct timer late;
    char seen[64];
    char reason[64];
    struct err e;
};

static void too_late(struct timer *t)
{
    loop_stop(container_of(t, struct story, late)->loop);
}

static void on_event(void *owner, const struct vmm_event *event)
{
    struct story *s = owner;
    struct op op = within(PATIENCE_MS);
    size_t n = strlen(s->seen);

    s->seen[n] = (char)('a' + (int)event->kind);
    switch (event->kind) {
    case VMM_EVENT_READY:
        assert_int_equal(vmm_monitor_probe(s->monitor, &s->e), 0);
        break;
    case VMM_EVENT_STATUS:
        s->seen[n] = (char)('0' + (int)event->status);
        if (event->status == VMM_STATUS_RUNNING)
            assert_int_equal(vmm_pause(&op, &s->rig->vm, &s->e), 0);
        else
            assert_int_equal(vmm_resume(&op, &s->rig->vm, &s->e), 0);
        break;
    case VMM_EVENT_PAUSED:
        assert_int_equal(vmm_pause(&op, &s->rig->vm, &s->e), 0); /* again: nothing happens */
        assert_int_equal(vmm_monitor_probe(s->monitor, &s->e), 0);
        break;
    case VMM_EVENT_RESUMED:
        assert_int_equal(proc_signal(s->rig->process.pidfd, SIGTERM, &s->e), 0);
        break;
    case VMM_EVENT_SHUTDOWN:
        (void)snprintf(s->reason, sizeof(s->reason), "%s", event->reason);
        break;
    case VMM_EVENT_LOST:
        loop_stop(s->loop);
        break;
    case VMM_EVENT_REBOOT:
    case VMM_EVENT_PANIC:
        break;
    }
}

static void live_and_die(const struct vmm_driver *driver)
{
    struct rig r;
    struct story s = {.rig = &r, .late.fn = too_late};
    const char want[] = {'a' + VMM_EVENT_READY,
                         '0' + VMM_STATUS_RUNNING,
                         'a' + VMM_EVENT_PAUSED,
                         '0' + VMM_STATUS_PAUSED,
                         'a' + VMM_EVENT_RESUMED,
                         'a' + VMM_EVENT_SHUTDOWN,
                         'a' + VMM_EVENT_LOST,
                         '\0'};
    struct pollfd gone = {.events = POLLIN};
    struct proc_exit end;

    setup_rig(&r);
    boot(&r, driver);
    s.loop = loop_new(&s.e);
    s.monitor = vmm_monitor_open(driver, s.loop, r.dir_fd, on_event, &s, &s.e);
    assert_non_null(s.monitor);
    loop_timer_start(s.loop, &s.late, 10000);
    assert_int_equal(loop_run(s.loop, &s.e), 0);
    loop_timer_stop(s.loop, &s.late);
    vmm_monitor_close(s.monitor);
    loop_free(s.loop);
    assert_string_equal(s.seen, want);
    assert_string_equal(s.reason, "host-signal");

    gone.fd = r.process.pidfd;
    assert_int_equal(poll(&gone, 1, 5000), 1);
    assert_true(proc_reap(r.process.pidfd, &end));
    assert_int_equal(end.code, 0);
    close(take_fd(&r.process.pidfd));
    end_rig(&r);
}

static void a_microvm_lives_and_dies_before_its_monitor(void **state)
{
    (void)state;
    if (!is_missing())
        live_and_die(&qemu_microvm_driver);
}

static void a_q35_lives_and_dies_before_its_monitor(void **state)
{
    (void)state;
    if (!is_missing())
        live_and_die(&qemu_q35_driver);
}

static void await_text(const struct rig *r, const char *name, const char *text)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    for (;;) {
        auto_buf struct buf b = BUF(1 << 16);

        assert_int_equal(file_read(r->dir_fd, name, &b, &e), 0);
        if (strstr(buf_str(&b), text))
            return;
        assert_int_equal(op_sleep(&op, 5, &e), 0);
    }
}

static void the_guest_speaks_on_the_serial_log_and_has_its_sockets(void **state)
{
    static const char *const sockets[] = {VMM_API_SOCKET, VMM_EVENTS_SOCKET, VMM_AGENT_SOCKET};
    struct rig r;
    struct stat st;
    struct err e = {0};
    int agent_fd;

    (void)state;
    if (is_missing())
        return;
    setup_rig(&r);
    boot(&r, &qemu_microvm_driver);
    await_text(&r, VMM_SERIAL_LOG, "up\n");
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(fstatat(r.dir_fd, sockets[i], &st, 0), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    agent_fd = sock_connect(r.dir_fd, VMM_AGENT_SOCKET, &e);
    assert_true(agent_fd >= 0);
    close(agent_fd);
    assert_int_equal(fstatat(r.dir_fd, VMM_VMM_LOG, &st, 0), 0);
    assert_int_equal(st.st_size, 0); /* nothing to complain about */
    end_rig(&r);
}

static void a_paused_vm_is_paused(void **state)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct rig r;

    (void)state;
    if (is_missing())
        return;
    setup_rig(&r);
    boot(&r, &qemu_q35_driver);
    assert_int_equal(vmm_pause(&op, &r.vm, &e), 0);
    assert_int_equal(vmm_pause(&op, &r.vm, &e), 0);
    assert_int_equal(vmm_resume(&op, &r.vm, &e), 0);
    assert_int_equal(vmm_stop(&op, &r.vm, 200, NULL, &e), 0); /* no ACPI in this guest: killed */
    close(take_fd(&r.process.pidfd));
    end_rig(&r);
}

static void a_tap_is_given_by_its_fd(void **state)
{
    auto_close int tap_fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct rig r;
    struct vmm_boot b;

    (void)state;
    if (is_missing())
        return;
    if (tap_fd < 0 || ioctl(tap_fd, TUNSETIFF, &request) < 0) {
        print_message("skipped: no TAP can be made here\n");
        return;
    }
    setup_rig(&r);
    b = boot_of(&r);
    b.tap_fd = tap_fd;
    if (vmm_boot(&op, &qemu_q35_driver, &b, &r.process, &e) < 0)
        fail_msg("%s", e.msg);
    r.vm = (struct vmm_handle){
        .driver = &qemu_q35_driver, .name = "tiny", .dir_fd = r.dir_fd, .pidfd = r.process.pidfd};
    end_rig(&r);
}

static void expect_no_start(struct rig *r, struct vmm_boot *b, const char *text)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct stat st;

    assert_int_equal(vmm_boot(&op, &qemu_microvm_driver, b, &r->process, &e), -1);
    if (!strstr(e.msg, text))
        fail_msg("%s", e.msg);
    assert_int_equal(e.code, ERR_INTERNAL);
    assert_int_equal(fstatat(r->dir_fd, VMM_API_SOCKET, &st, 0), -1);
}

static void a_failed_start_says_why_and_leaves_nothing(void **state)
{
    struct rig r;
    struct vmm_boot b;
    struct vmm_host bad;

    (void)state;
    if (is_missing())
        return;
    setup_rig(&r);
    b = boot_of(&r);
    b.host = &bad;

    bad = host;
    (void)snprintf(bad.kernel, sizeof(bad.kernel), "/nowhere/vmlinux");
    expect_no_start(&r, &b, "start tiny: QEMU ended with status 1: qemu: could not open kernel");
    expect_no_start(&r, &b, "/nowhere/vmlinux");

    bad = host;
    (void)snprintf(bad.qemu, sizeof(bad.qemu), "/nowhere/qemu");
    expect_no_start(&r, &b, "run /nowhere/qemu: No such file");
    (void)snprintf(bad.qemu, sizeof(bad.qemu), "/bin/true");
    expect_no_start(&r, &b, "QEMU ended with status 0");

    bad = host;
    assert_int_equal(unlinkat(r.dir_fd, VMM_OVERLAY, 0), 0);
    expect_no_start(&r, &b, "overlay.raw");
    end_rig(&r);
}

static void a_start_that_takes_too_long_or_is_cancelled_leaves_nothing(void **state)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct rig r;
    struct vmm_boot b;
    struct vmm_host mute;
    auto_close int script_fd = -1;
    const char script[] = "#!/bin/sh\nexec sleep 60\n";

    (void)state;
    if (is_missing())
        return;
    setup_rig(&r);
    script_fd = openat(r.dir_fd, "mute", O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    assert_int_equal(file_write_all(script_fd, script, strlen(script), &e), 0);
    close(take_fd(&script_fd));
    mute = host;
    (void)snprintf(mute.qemu, sizeof(mute.qemu), "%s/mute", r.path);
    b = boot_of(&r);
    b.host = &mute;

    op = within(100);
    assert_int_equal(vmm_boot(&op, &qemu_microvm_driver, &b, &r.process, &e), -1);
    assert_int_equal(e.code, ERR_TIMEOUT);
    err_clear(&e);
    op = within(PATIENCE_MS);
    op.cancel_fd = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(vmm_boot(&op, &qemu_microvm_driver, &b, &r.process, &e), -1);
    assert_int_equal(e.code, ERR_CANCELLED);
    close(op.cancel_fd);
    end_rig(&r);
}

static void a_deep_data_directory_works(void **state)
{
    struct rig r;
    struct rig deep;
    struct err e = {0};
    char name[221];

    (void)state;
    if (is_missing())
        return;
    setup_rig(&r);
    memset(name, 'd', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    deep = r;
    assert_int_equal(mkdirat(r.dir_fd, name, 0750), 0);
    deep.dir_fd = dir_open(r.dir_fd, name, &e);
    make_file(deep.dir_fd, VMM_IMAGE, 1 << 20);
    make_file(deep.dir_fd, VMM_OVERLAY, 1 << 20);
    make_file(deep.dir_fd, VMM_CONFIG_DISK, 1 << 20);
    boot(&deep, &qemu_microvm_driver);
    await_text(&deep, VMM_SERIAL_LOG, "up\n");
    r.process = deep.process;
    r.vm = deep.vm;
    end_rig(&r);
    close(deep.dir_fd);
}

/* Waits in a job's place for an event that never comes. */
struct waiter {
    struct qmp q;
    struct err e;
};

static void *wait_for_nothing(void *arg)
{
    struct waiter *w = arg;
    struct op op = within(PATIENCE_MS);

    qmp_want(&w->q, "NEVER");
    assert_null(qmp_next_event(&op, &w->q, &w->e));
    return NULL;
}

static void the_death_of_qemu_ends_a_wait_at_once(void **state)
{
    struct rig r;
    struct waiter w = {.q = QMP_CLOSED};
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    pthread_t thread;

    (void)state;
    if (is_missing())
        return;
    setup_rig(&r);
    boot(&r, &qemu_microvm_driver);
    assert_int_equal(qmp_open(&op, r.dir_fd, VMM_API_SOCKET, &w.q, &e), 0);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_nothing, &w), 0);
    assert_int_equal(vmm_stop(&op, &r.vm, 0, NULL, &e), 0);
    pthread_join(thread, NULL);
    assert_int_equal(w.e.code, ERR_NOT_FOUND);
    qmp_close(&w.q);
    close(take_fd(&r.process.pidfd));

    /* The sockets of the dead one do not hinder the next start. */
    boot(&r, &qemu_microvm_driver);
    end_rig(&r);
}

/* ---- snapshots, of a guest that counts in memory */

enum { COUNTER_AT = 0x200000 };

static uint32_t read_u32(int dir_fd, const char *name, off_t at)
{
    auto_close int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    uint32_t v = 0;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &v, sizeof(v), at), sizeof(v));
    return v;
}

/* QEMU's own view of the guest's memory, so that ours is held against it. */
static uint32_t counter_of(const struct rig *r)
{
    auto_qmp struct qmp q = QMP_CLOSED;
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    assert_int_equal(qmp_open(&op, r->dir_fd, VMM_API_SOCKET, &q, &e), 0);
    assert_int_equal(
        qmp_do(&op, &q, "pmemsave", "{\"val\":2097152,\"size\":4,\"filename\":\"counter\"}", &e),
        0);
    return read_u32(r->dir_fd, "counter", 0);
}

static void await_count(const struct rig *r, uint32_t more_than)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    while (counter_of(r) <= more_than)
        assert_int_equal(op_sleep(&op, 2, &e), 0);
}

static uint64_t hash_of(int dir_fd, const char *name)
{
    auto_close int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    auto_free unsigned char *piece = mem_zalloc(1 << 20, 1);
    uint64_t hash = 14695981039346656037U;
    ssize_t n;

    assert_true(fd >= 0);
    while ((n = read(fd, piece, 1 << 20)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            hash = (hash ^ piece[i]) * 1099511628211U;
    }
    return hash;
}

/* Into a directory of its own, while the VM counts on. */
static void save_ahead(struct rig *r)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct vmm_save save = {.ahead = true};

    assert_int_equal(mkdirat(r->dir_fd, "snapshot.new", 0750), 0);
    save.snapshot_dir_fd = dir_open(r->dir_fd, "snapshot.new", &e);
    assert_int_equal(vmm_save(&op, &r->vm, &save, &e), 0);
    close(save.snapshot_dir_fd);
    await_count(r, read_u32(r->dir_fd, "snapshot.new/memory", COUNTER_AT));
}

/* Pauses, saves into a new directory or what was saved ahead, publishes it. Returns what the
 * counter stood at. */
static uint32_t sleep_vm(struct rig *r)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct vmm_save save = {0};
    uint32_t count;

    assert_int_equal(vmm_pause(&op, &r->vm, &e), 0);
    count = counter_of(r);
    assert_int_equal(dir_ensure(r->dir_fd, "snapshot.new", 0750, &e), 0);
    save.snapshot_dir_fd = dir_open(r->dir_fd, "snapshot.new", &e);
    if (vmm_save(&op, &r->vm, &save, &e) < 0)
        fail_msg("%s", e.msg);
    close(save.snapshot_dir_fd);
    assert_int_equal(tree_remove(r->dir_fd, VMM_SNAPSHOT_DIR, &e), 0);
    assert_int_equal(renameat(r->dir_fd, "snapshot.new", r->dir_fd, VMM_SNAPSHOT_DIR), 0);
    assert_int_equal(read_u32(r->dir_fd, VMM_SNAPSHOT_MEMORY, COUNTER_AT), count);
    return count;
}

static int try_load(struct rig *r, const struct vmm_driver *driver, bool resume, struct err *e)
{
    struct vmm_load load = {.boot = boot_of(r), .resume = resume};
    struct op op = within(PATIENCE_MS);
    bool running = !resume;

    if (vmm_load(&op, driver, &load, &r->process, &running, e) < 0)
        return -1;
    assert_int_equal(running, resume);
    r->vm = (struct vmm_handle){
        .driver = driver, .name = "tiny", .dir_fd = r->dir_fd, .pidfd = r->process.pidfd};
    return 0;
}

/* A directory of its own that shares the files of another's snapshot. */
static void setup_fork(struct rig *fork, const struct rig *of)
{
    setup_rig(fork);
    assert_int_equal(mkdirat(fork->dir_fd, VMM_SNAPSHOT_DIR, 0750), 0);
    assert_int_equal(linkat(of->dir_fd, VMM_SNAPSHOT_MEMORY, fork->dir_fd, VMM_SNAPSHOT_MEMORY, 0),
                     0);
    assert_int_equal(linkat(of->dir_fd, VMM_SNAPSHOT_STATE, fork->dir_fd, VMM_SNAPSHOT_STATE, 0),
                     0);
}

static void load(struct rig *r, const struct vmm_driver *driver, bool resume)
{
    struct err e = {0};

    if (try_load(r, driver, resume, &e) < 0)
        fail_msg("%s", e.msg);
}

static void forks_go_on_from_one_snapshot(const struct vmm_driver *driver)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct rig source;
    struct rig a;
    struct rig b;
    struct stat st;
    uint32_t first;
    uint32_t second;
    uint64_t hash;

    setup_rig(&source);
    use_kernel("tiny");
    boot(&source, driver);
    await_count(&source, 1000);
    first = sleep_vm(&source);
    hash = hash_of(source.dir_fd, VMM_SNAPSHOT_MEMORY);
    assert_int_equal(fstatat(source.dir_fd, VMM_SNAPSHOT_MEMORY, &st, 0), 0);
    assert_int_equal(st.st_size, MEMORY);
    assert_in_range(st.st_blocks * 512, 4096, MEMORY / 16); /* holes where there is nothing */
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(vmm_resume(&op, &source.vm, &e), 0);

    setup_fork(&a, &source);
    setup_fork(&b, &source);
    load(&a, driver, true);
    load(&b, driver, false);
    await_count(&source, first);
    await_count(&a, first);
    assert_int_equal(counter_of(&b), first);

    /* A clone of a clone: what it inherited and what it wrote since. */
    second = sleep_vm(&a);
    assert_true(second > first);
    assert_int_equal(vmm_stop(&op, &a.vm, 0, NULL, &e), 0);
    close(take_fd(&a.process.pidfd));
    load(&a, driver, false);
    assert_int_equal(counter_of(&a), second);
    assert_int_equal(vmm_resume(&op, &a.vm, &e), 0);
    await_count(&a, second);

    assert_int_equal(counter_of(&b), first);
    assert_int_equal(hash_of(source.dir_fd, VMM_SNAPSHOT_MEMORY), hash);
    end_rig_of_several(&source);
    assert_int_equal(vmm_resume(&op, &b.vm, &e),
                     0); /* its source and the source's files are gone */
    await_count(&b, first);
    assert_int_equal(hash_of(b.dir_fd, VMM_SNAPSHOT_MEMORY), hash);
    end_rig_of_several(&a);
    end_rig(&b);
}

static void microvm_forks_go_on_from_one_snapshot(void **state)
{
    (void)state;
    if (!is_missing())
        forks_go_on_from_one_snapshot(&qemu_microvm_driver);
}

static void q35_forks_go_on_from_one_snapshot(void **state)
{
    (void)state;
    if (!is_missing())
        forks_go_on_from_one_snapshot(&qemu_q35_driver);
}

static void a_save_that_cannot_be_leaves_the_vm_as_it_was(void **state)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct rig r;
    struct vmm_save save = {0};

    (void)state;
    if (is_missing())
        return;
    setup_rig(&r);
    use_kernel("tiny");
    boot(&r, &qemu_microvm_driver);
    assert_int_equal(mkdirat(r.dir_fd, "new", 0750), 0);
    save.snapshot_dir_fd = dir_open(r.dir_fd, "new", &e);
    assert_int_equal(vmm_save(&op, &r.vm, &save, &e), -1); /* it runs */
    assert_int_equal(e.code, ERR_BAD_STATE);
    err_clear(&e);
    assert_int_equal(vmm_pause(&op, &r.vm, &e), 0);
    assert_int_equal(vmm_save(&op, &r.vm, &save, &e), -1); /* not an empty directory */
    assert_non_null(strstr(e.msg, "save tiny: create state"));
    err_clear(&e);
    assert_int_equal(unlinkat(save.snapshot_dir_fd, "state", 0), 0);
    op.cancel_fd = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(vmm_save(&op, &r.vm, &save, &e), -1);
    assert_int_equal(e.code, ERR_CANCELLED);
    err_clear(&e);
    close(op.cancel_fd);
    op.cancel_fd = -1;
    assert_int_equal(vmm_resume(&op, &r.vm, &e), 0);
    await_count(&r, counter_of(&r));

    assert_int_equal(vmm_stop(&op, &r.vm, 0, NULL, &e), 0);
    assert_int_equal(vmm_save(&op, &r.vm, &save, &e), -1); /* there is none any more */
    assert_int_equal(e.code, ERR_INTERNAL);
    close(save.snapshot_dir_fd);
    close(take_fd(&r.process.pidfd));
    end_rig(&r);
}

/* Of memory that is a file of its own, and of memory that lies over a snapshot's. */
static void what_was_saved_ahead_is_brought_up_to_date_by_the_pause(void **state)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct rig r;

    (void)state;
    if (is_missing())
        return;
    setup_rig(&r);
    use_kernel("tiny");
    boot(&r, &qemu_microvm_driver);
    for (int i = 0; i < 2; i++) {
        uint32_t count;

        await_count(&r, 0);
        save_ahead(&r);
        count = sleep_vm(&r);
        assert_int_equal(vmm_stop(&op, &r.vm, 0, NULL, &e), 0);
        close(take_fd(&r.process.pidfd));
        load(&r, &qemu_microvm_driver, true);
        await_count(&r, count);
    }
    assert_int_equal(vmm_stop(&op, &r.vm, 0, NULL, &e), 0);
    close(take_fd(&r.process.pidfd));
    end_rig(&r);
}

static void a_load_that_fails_says_why_and_leaves_nothing(void **state)
{
    struct op op = within(PATIENCE_MS);
    struct err e = {0};
    struct rig r;
    auto_close int fd = -1;

    (void)state;
    if (is_missing())
        return;
    setup_rig(&r);
    assert_int_equal(try_load(&r, &qemu_microvm_driver, true, &e), -1);
    assert_non_null(strstr(e.msg, "load tiny: open snapshot/memory"));
    err_clear(&e);

    boot(&r, &qemu_microvm_driver);
    (void)sleep_vm(&r);
    assert_int_equal(vmm_stop(&op, &r.vm, 0, NULL, &e), 0);
    close(take_fd(&r.process.pidfd));
    assert_int_equal(try_load(&r, &qemu_q35_driver, true, &e), -1); /* another machine's */
    assert_non_null(strstr(e.msg, "QEMU ended with status 1"));
    err_clear(&e);

    fd = openat(r.dir_fd, VMM_SNAPSHOT_STATE, O_WRONLY | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, 1000), 0);
    assert_int_equal(try_load(&r, &qemu_microvm_driver, true, &e), -1);
    print_message("%s\n", e.msg);
    assert_non_null(strstr(e.msg, "load tiny: QEMU ended with status 1"));
    err_clear(&e);
    close(take_fd(&fd));
    fd = openat(r.dir_fd, VMM_SNAPSHOT_MEMORY, O_WRONLY | O_CLOEXEC);
    assert_int_equal(ftruncate(fd, MEMORY / 2), 0);
    assert_int_equal(try_load(&r, &qemu_microvm_driver, true, &e), -1);
    assert_int_equal(e.code, ERR_BAD_STATE);
    end_rig(&r);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        checked_test(a_microvm_lives_and_dies_before_its_monitor),
        checked_test(a_q35_lives_and_dies_before_its_monitor),
        checked_test(the_guest_speaks_on_the_serial_log_and_has_its_sockets),
        checked_test(a_paused_vm_is_paused),
        checked_test(a_tap_is_given_by_its_fd),
        checked_test(a_failed_start_says_why_and_leaves_nothing),
        checked_test(a_start_that_takes_too_long_or_is_cancelled_leaves_nothing),
        checked_test(a_deep_data_directory_works),
        checked_test(the_death_of_qemu_ends_a_wait_at_once),
        checked_test(microvm_forks_go_on_from_one_snapshot),
        checked_test(q35_forks_go_on_from_one_snapshot),
        checked_test(a_save_that_cannot_be_leaves_the_vm_as_it_was),
        checked_test(what_was_saved_ahead_is_brought_up_to_date_by_the_pause),
        checked_test(a_load_that_fails_says_why_and_leaves_nothing),
    };
    struct vmm_host_settings settings = {.accel = ACCEL_TCG};
    struct op op = within(PATIENCE_MS);
    struct err e = {0};

    (void)argc;
    (void)argv;
    if (vmm_host_probe(&op, &settings, &host, &e) < 0)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
