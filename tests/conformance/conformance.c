/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the rest of the daemon relies on from every VMM, tried on one: the argument
 * names it. A double shows what we say to a VMM and what we make of its answers;
 * that a guest really runs, sleeps and goes on is shown by the real ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "change.h"
#include "http/client.h"
#include "net/tap.h"
#include "rig.h"
#include "vmm/host.h"
#include "vmm/sock.h"

enum { SKIPPED = 77 };

/* --- running --- */

static void a_guest_boots_and_is_paused_and_goes_on(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    boot(&r);
    assert_int_equal(status_of(&r), VMM_STATUS_RUNNING);
    pause_vm(&r);
    assert_int_equal(status_of(&r), VMM_STATUS_PAUSED);
    pause_vm(&r);
    resume_vm(&r);
    resume_vm(&r);
    assert_int_equal(status_of(&r), VMM_STATUS_RUNNING);
    assert_true(has_open(&r, VMM_OVERLAY));
    rig_end(&r);
}

static void a_second_run_appends_to_the_serial_log(void **state)
{
    struct op op = within(10000);
    struct err e = {0};
    struct stat first;
    struct stat second;
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    boot(&r);
    assert_int_equal(fstatat(r.dir_fd, VMM_SERIAL_LOG, &first, 0), 0);
    assert_int_equal(vmm_stop(&op, &r.vm, 0, NULL, &e), 0);
    close(take_fd(&r.process.pidfd));
    write_text(r.dir_fd, VMM_SERIAL_LOG, "the first run\n");
    boot(&r);
    await_text(r.dir_fd, VMM_SERIAL_LOG, "the first run\nup");
    assert_int_equal(fstatat(r.dir_fd, VMM_SERIAL_LOG, &second, 0), 0);
    assert_int_equal(first.st_ino, second.st_ino);
    rig_end(&r);
}

static void a_deep_data_directory_works(void **state)
{
    char below[220];
    struct rig r;

    (void)state;
    memset(below, 'd', sizeof(below));
    below[0] = '/';
    below[201] = '\0';
    rig_init(&r, below);
    boot(&r);
    assert_int_equal(status_of(&r), VMM_STATUS_RUNNING);
    (void)sleep_vm(&r, -1);
    rig_end(&r);
}

static void a_guest_that_resets_ends_its_vm(void **state)
{
    struct op op = within(20000);
    struct err e = {0};
    struct vmm_boot b;
    struct rig r;
    struct proc_exit end;

    (void)state;
    if (lacks(subject.is_firecracker, "a keyboard controller"))
        return;
    rig_init(&r, NULL);
    use_kernel("tiny-reset");
    b = boot_of(&r);
    boot_with(&r, &b);
    assert_int_equal(op_wait(&op, r.process.pidfd, POLLIN, &e), 0);
    assert_true(proc_reap(r.process.pidfd, &end));
    assert_int_equal(end.code, 0);
    close(take_fd(&r.process.pidfd));
    rig_end(&r);
}

/* --- a start that fails --- */

static void a_start_that_fails_says_why_and_leaves_nothing(void **state)
{
    struct vmm_host bad = subject.host;
    struct vmm_boot b;
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    b = boot_of(&r);
    b.host = &bad;
    (void)snprintf(bad.kernel, sizeof(bad.kernel), "/nowhere/vmlinux");
    expect_no_boot(&r, &b, "ernel");
    bad = subject.host;
    (void)snprintf(bad.qemu, sizeof(bad.qemu), "/nowhere/vmm");
    (void)snprintf(bad.firecracker, sizeof(bad.firecracker), "/nowhere/vmm");
    (void)snprintf(bad.cloud_hypervisor, sizeof(bad.cloud_hypervisor), "/nowhere/vmm");
    expect_no_boot(&r, &b, "run /nowhere/vmm: No such file");
    (void)snprintf(bad.qemu, sizeof(bad.qemu), "/bin/true");
    (void)snprintf(bad.firecracker, sizeof(bad.firecracker), "/bin/true");
    (void)snprintf(bad.cloud_hypervisor, sizeof(bad.cloud_hypervisor), "/bin/true");
    expect_no_boot(&r, &b, "ended with status 0");
    bad = subject.host;
    use_kernel("tiny");
    assert_int_equal(unlinkat(r.dir_fd, VMM_OVERLAY, 0), 0);
    expect_no_boot(&r, &b, "o such file");
    rig_end(&r);
}

static void a_cancelled_start_leaves_nothing(void **state)
{
    auto_close int cancelled = eventfd(1, EFD_CLOEXEC);
    struct op op = within(10000);
    struct err e = {0};
    struct vmm_boot b;
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    b = boot_of(&r);
    op.cancel_fd = cancelled;
    assert_int_equal(vmm_boot(&op, subject.driver, &b, &r.process, &e), -1);
    assert_int_equal(e.code, ERR_CANCELLED);
    rig_end(&r);
}

/* --- asleep --- */

static void a_running_guest_is_not_saved(void **state)
{
    struct op op = within(20000);
    struct err e = {0};
    struct vmm_save save = {0};
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    boot(&r);
    assert_int_equal(mkdirat(r.dir_fd, "new", 0700), 0);
    save.snapshot_dir_fd = dir_open(r.dir_fd, "new", &e);
    assert_int_equal(vmm_save(&op, &r.vm, &save, &e), -1);
    print_message("%s\n", e.msg);
    close(save.snapshot_dir_fd);
    assert_int_equal(status_of(&r), VMM_STATUS_RUNNING);
    rig_end(&r);
}

static void a_snapshot_goes_on_where_it_was_taken(void **state)
{
    struct stat st;
    struct rig source;
    struct rig fork;
    struct rig again;
    uint32_t first;
    uint32_t second;

    (void)state;
    rig_init(&source, NULL);
    boot(&source);
    first = sleep_once_beyond(&source, -1, 0);
    assert_int_equal(fstatat(source.dir_fd, VMM_SNAPSHOT_MEMORY, &st, 0), 0);
    assert_int_equal(st.st_size, MEMORY);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(fstatat(source.dir_fd, VMM_SNAPSHOT_STATE, &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0600);

    clone_rig(&source, &fork, false);
    load(&fork, true);
    assert_int_equal(status_of(&fork), VMM_STATUS_RUNNING);
    second = sleep_once_beyond(&fork, -1, first);
    assert_true(second - first < first + 100000000); /* it went on, and did not begin again */
    clone_rig(&fork, &again, false);
    rig_end_one(&fork);
    load(&again, true); /* what a clone has saved is a snapshot like any other */
    assert_true(sleep_once_beyond(&again, -1, second) - second < second + 100000000);
    rig_end_one(&again);

    clone_rig(&source, &fork, false);
    load(&fork, false);
    assert_int_equal(status_of(&fork), VMM_STATUS_PAUSED);
    assert_int_equal(sleep_vm(&fork, -1), first); /* not one step was made */
    resume_vm(&fork);
    assert_int_equal(status_of(&fork), VMM_STATUS_RUNNING);
    rig_end_one(&fork);
    rig_end(&source);
}

struct loader {
    pthread_t thread;
    struct rig r;
    struct vmm_load what;
    bool runs;
    int rc;
    struct err e;
};

static void *load_beside(void *arg)
{
    struct loader *l = arg;

    l->rc = try_load(&l->r, &l->what, &l->runs, &l->e);
    return NULL;
}

/* The right to mount, for what is started from here on. */
static bool set_mount_right(bool has)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &head, data) < 0)
        return false;
    data[0].effective &= ~(1U << CAP_SYS_ADMIN);
    if (has)
        data[0].effective |= data[0].permitted & (1U << CAP_SYS_ADMIN);
    return syscall(SYS_capset, &head, data) == 0;
}

/* Which it writes into its snapshot itself. */
static void a_guest_whose_ram_has_no_file_system_sleeps_and_is_forked(void **state)
{
    uint32_t before;
    struct rig source;
    struct rig fork;

    (void)state;
    rig_init(&source, NULL);
    assert_true(set_mount_right(false));
    boot(&source);
    before = sleep_vm(&source, -1);
    assert_true(set_mount_right(true));
    clone_rig(&source, &fork, false);
    load(&fork, true);
    (void)sleep_once_beyond(&fork, -1, subject.is_double ? before - 1 : before);
    rig_end_one(&fork);
    rig_end(&source);
}

static void forks_load_at_once_while_the_source_runs(void **state)
{
    struct loader forks[2] = {0};
    struct rig source;
    uint64_t hash;

    (void)state;
    rig_init(&source, NULL);
    boot(&source);
    (void)sleep_vm(&source, -1);
    hash = hash_of(source.dir_fd, VMM_SNAPSHOT_MEMORY);
    resume_vm(&source);
    for (int i = 0; i < 2; i++) {
        clone_rig(&source, &forks[i].r, false);
        forks[i].what = load_of(&forks[i].r, true);
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&forks[i].thread, NULL, load_beside, &forks[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(forks[i].thread, NULL);
        if (forks[i].rc < 0)
            fail_msg("%s", forks[i].e.msg);
        assert_true(forks[i].runs);
        assert_true(has_open(&forks[i].r, VMM_OVERLAY));
        assert_false(has_open(&source, VMM_SNAPSHOT_STATE));
    }
    assert_true(has_open(&source, VMM_OVERLAY));
    assert_int_equal(status_of(&source), VMM_STATUS_RUNNING);
    (void)sleep_vm(&forks[0].r, -1); /* a fork's own standby */
    assert_int_equal(hash_of(forks[1].r.dir_fd, VMM_SNAPSHOT_MEMORY), hash);
    rig_end_one(&forks[0].r);
    rig_end_one(&forks[1].r);
    assert_int_equal(hash_of(source.dir_fd, VMM_SNAPSHOT_MEMORY), hash);
    rig_end(&source);
}

/* A source that sleeps, and its fork, which runs and whose writes are tracked. */
struct family {
    struct rig source;
    struct rig fork;
    uint32_t first; /* what the source counted to */
    uint64_t hash;  /* of the source's memory */
};

static void family_begin(struct family *f, bool is_asked_for, const struct vmm_host *host)
{
    struct vmm_load what;
    struct err e = {0};
    struct vmm_boot b;
    bool runs;

    rig_init(&f->source, NULL);
    b = boot_of(&f->source);
    b.track_dirty = is_asked_for;
    boot_with(&f->source, &b);
    await_text(f->source.dir_fd, VMM_SERIAL_LOG, "up");
    f->first = sleep_vm(&f->source, -1);
    f->hash = hash_of(f->source.dir_fd, VMM_SNAPSHOT_MEMORY);

    clone_rig(&f->source, &f->fork, false);
    what = load_of(&f->fork, true);
    what.boot.track_dirty = is_asked_for;
    what.boot.host = host;
    if (try_load(&f->fork, &what, &runs, &e) < 0)
        fail_msg("%s", e.msg);
}

/* The fork sleeps, whole: the kernel is in what its difference did not hold. */
static void family_end(struct family *f, uint32_t second)
{
    struct rig again;

    assert_int_equal(hash_of(f->source.dir_fd, VMM_SNAPSHOT_MEMORY), f->hash);
    clone_rig(&f->fork, &again, false);
    load(&again, true);
    (void)sleep_once_beyond(&again, -1, second);
    rig_end_one(&again);
    rig_end_one(&f->fork);
    rig_end(&f->source);
}

static void a_difference_makes_a_whole_memory_and_leaves_the_base_alone(void **state)
{
    auto_close int base_fd = -1;
    struct family f;

    (void)state;
    if (lacks(subject.is_firecracker, "tracking of writes"))
        return;
    family_begin(&f, true, &subject.host);
    base_fd = openat(f.source.dir_fd, VMM_SNAPSHOT_MEMORY, O_RDONLY | O_CLOEXEC);
    family_end(&f, sleep_once_beyond(&f.fork, base_fd, f.first));
}

/* By setting, of whatever was loaded; the memory that it maps has lost its name by then. */
static void a_vm_that_was_loaded_is_saved_as_a_difference_to_what_it_maps(void **state)
{
    struct vmm_host host = subject.host;
    struct err e = {0};
    struct family f;
    uint32_t second;

    (void)state;
    if (lacks(subject.is_firecracker, "tracking of writes"))
        return;
    host.firecracker_differences = true;
    family_begin(&f, false, &host);
    assert_int_equal(tree_remove(f.fork.dir_fd, VMM_SNAPSHOT_DIR, &e), 0);
    assert_int_equal(faccessat(f.fork.dir_fd, "writes-tracked", F_OK, 0), 0);
    second = sleep_vm(&f.fork, -1);
    assert_int_equal(faccessat(f.fork.dir_fd, "writes-tracked", F_OK, 0), -1);
    assert_true(second >= f.first);
    family_end(&f, second);
}

/* --- a load that fails --- */

static void expect_no_load(struct rig *r, const struct vmm_load *what)
{
    uint64_t hash = hash_of(r->dir_fd, VMM_SNAPSHOT_MEMORY);
    struct err e = {0};
    struct stat st;
    bool runs;

    assert_int_equal(try_load(r, what, &runs, &e), -1);
    print_message("%s\n", e.msg);
    assert_true(strlen(e.msg) > 30);
    assert_int_equal(e.code == ERR_INTERNAL || e.code == ERR_BAD_STATE, true);
    assert_int_equal(fstatat(r->dir_fd, VMM_API_SOCKET, &st, 0), -1);
    assert_int_equal(fstatat(r->dir_fd, VMM_VSOCK_SOCKET, &st, 0), -1);
    assert_int_equal(hash_of(r->dir_fd, VMM_SNAPSHOT_MEMORY), hash);
}

static void a_load_that_fails_says_why_and_keeps_the_snapshot(void **state)
{
    struct vmm_load what;
    struct rig source;
    struct rig fork;
    auto_close int memory_fd = -1;

    (void)state;
    rig_init(&source, NULL);
    boot(&source);
    (void)sleep_vm(&source, -1);

    clone_rig(&source, &fork, true);
    memory_fd = openat(fork.dir_fd, VMM_SNAPSHOT_MEMORY, O_RDWR | O_CLOEXEC);
    assert_int_equal(ftruncate(memory_fd, MEMORY / 2), 0);
    what = load_of(&fork, true);
    expect_no_load(&fork, &what);
    rig_end_one(&fork);

    clone_rig(&source, &fork, true);
    write_text(fork.dir_fd, VMM_SNAPSHOT_STATE, "not a state that anybody wrote");
    what = load_of(&fork, true);
    expect_no_load(&fork, &what);
    rig_end_one(&fork);

    clone_rig(&source, &fork, true);
    assert_int_equal(unlinkat(fork.dir_fd, VMM_OVERLAY, 0), 0);
    what = load_of(&fork, true);
    expect_no_load(&fork, &what);
    rig_end_one(&fork);
    rig_end(&source);
}

/* --- devices --- */

/* A TAP that somebody has: -1 where none can be made. */
static void a_fork_has_a_tap_of_its_own_and_one_that_is_in_use_is_refused(void **state)
{
    auto_close int tap_fd = hold_tap("hmconf9");
    struct err e = {0};
    struct vmm_boot b;
    struct vmm_load what;
    struct rig source;
    struct rig fork;
    bool runs;

    (void)state;
    if (lacks(subject.is_firecracker, "taps by name") ||
        lacks(tap_fd >= 0, "the right to make a tap"))
        return;
    rig_init(&source, NULL);
    b = boot_of(&source);
    b.tap_name = "hmconf0";
    boot_with(&source, &b);
    (void)sleep_vm(&source, -1);

    clone_rig(&source, &fork, false);
    what = load_of(&fork, true);
    what.boot.tap_name = "hmconf9";
    expect_no_load(&fork, &what);
    what.boot.tap_name = "hmconf1";
    if (try_load(&fork, &what, &runs, &e) < 0)
        fail_msg("%s", e.msg);
    rig_end_one(&fork);
    rig_end(&source);
}

static void leave(int fd, const char *name)
{
    struct op op = within(5000);
    struct err e = {0};
    int rc = tap_leave(fd, &e);

    close(fd);
    if (rc < 0 || tap_await_free(&op, name, &e) < 0)
        fail_msg("%s", e.msg);
}

static int take_back(const struct rig *r, const char *name)
{
    struct err e = {0};
    int fd = tap_of_process(r->process.pidfd, name, &e);

    if (fd < 0)
        fail_msg("%s", e.msg);
    tap_bind_to_file(fd);
    return fd;
}

static void a_tap_is_left_to_it_and_taken_back_and_serves_the_next(void **state)
{
    struct err e = {0};
    char tap[IFNAMSIZ];
    int fd = subject.is_firecracker ? tap_open(tap, &e) : -1;
    struct vmm_boot b;
    struct vmm_load what;
    struct rig source;
    struct rig fork;
    bool runs;

    (void)state;
    if (lacks(fd >= 0, "taps by name, or the right to make one"))
        return;
    rig_init(&source, NULL);
    b = boot_of(&source);
    b.tap_name = tap;
    leave(fd, tap);
    boot_with(&source, &b);
    fd = take_back(&source, tap);
    (void)sleep_vm(&source, -1);
    clone_rig(&source, &fork, false);
    rig_end_one(&source);
    assert_int_not_equal(if_nametoindex(tap), 0);

    what = load_of(&fork, true);
    what.boot.tap_name = tap;
    leave(fd, tap);
    if (try_load(&fork, &what, &runs, &e) < 0)
        fail_msg("%s", e.msg);
    close(take_back(&fork, tap));
    rig_end(&fork);
    assert_int_equal(if_nametoindex(tap), 0);
}

static void a_tap_comes_with_the_request_and_every_fork_brings_its_own(void **state)
{
    auto_close int first = hold_tap("hmconf2");
    auto_close int second = hold_tap("hmconf3");
    struct err e = {0};
    struct vmm_boot b;
    struct vmm_load what;
    struct rig source;
    struct rig fork;
    bool runs;

    (void)state;
    if (lacks(subject.is_cloud_hypervisor, "taps by fd") ||
        lacks(first >= 0 && second >= 0, "the right to make a tap"))
        return;
    rig_init(&source, NULL);
    b = boot_of(&source);
    b.tap_fd = first;
    boot_with(&source, &b);
    (void)sleep_vm(&source, -1);

    clone_rig(&source, &fork, false);
    what = load_of(&fork, true);
    what.boot.tap_fd = second;
    if (try_load(&fork, &what, &runs, &e) < 0)
        fail_msg("%s", e.msg);
    assert_true(runs);
    rig_end_one(&fork);
    rig_end(&source);
}

static void limits_balloon_and_metrics_are_taken(void **state)
{
    struct vmm_host host = subject.host;
    struct vmm_boot b;
    struct stat st;
    struct rig r;

    (void)state;
    if (lacks(subject.is_firecracker || subject.is_cloud_hypervisor, "limits"))
        return;
    rig_init(&r, NULL);
    host.firecracker_metrics = true;
    b = boot_of(&r);
    use_kernel("tiny");
    memcpy(host.kernel, subject.host.kernel, sizeof(host.kernel));
    b.host = &host;
    b.balloon = true;
    b.rates = (struct vmm_rates){1 << 20, 100, 1 << 20, 1 << 20};
    boot_with(&r, &b);
    assert_int_equal(status_of(&r), VMM_STATUS_RUNNING);
    if (subject.is_firecracker)
        assert_int_equal(fstatat(r.dir_fd, VMM_METRICS, &st, 0), 0);
    rig_end(&r);
}

/* A page server: gets the regions, and one fd with which to fill them. */
struct handler {
    pthread_t thread;
    int listen_fd;
    int stop_fd;
    const unsigned char *pages; /* of the snapshot */
    char regions[1024];
    int fd;
};

/* One region, which begins at the start of the memory file. */
static void serve_pages(const struct handler *h, uint64_t base)
{
    struct pollfd fds[] = {{.fd = h->stop_fd, .events = POLLIN}, {.fd = h->fd, .events = POLLIN}};
    struct uffd_msg msg;

    while (poll(fds, 2, -1) > 0 && !fds[0].revents) {
        struct uffdio_copy copy = {.len = 4096};

        if (read(h->fd, &msg, sizeof(msg)) != (ssize_t)sizeof(msg) ||
            msg.event != UFFD_EVENT_PAGEFAULT)
            continue;
        copy.dst = msg.arg.pagefault.address & ~UINT64_C(4095);
        copy.src = (uintptr_t)(h->pages + (copy.dst - base));
        (void)ioctl(h->fd, UFFDIO_COPY, &copy);
    }
}

static void *handle_faults(void *arg)
{
    struct handler *h = arg;
    auto_close int fd = accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = h->regions, .iov_len = sizeof(h->regions) - 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control)};
    json_auto_t *regions = NULL;
    struct err e = {0};

    if (recvmsg(fd, &msg, MSG_CMSG_CLOEXEC) <= 0 || !CMSG_FIRSTHDR(&msg))
        return NULL;
    memcpy(&h->fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(h->fd));
    regions = parse_json(h->regions, strlen(h->regions), &e);
    if (!subject.is_double)
        serve_pages(h,
                    (uint64_t)json_integer_value(
                        json_object_get(json_array_get(regions, 0), "base_host_virt_addr")));
    return NULL;
}

static void start_handler(struct handler *h, const struct rig *r)
{
    auto_close int memory_fd = openat(r->dir_fd, VMM_SNAPSHOT_MEMORY, O_RDONLY | O_CLOEXEC);
    struct err e = {0};
    void *pages = mmap(NULL, MEMORY, PROT_READ, MAP_PRIVATE, memory_fd, 0);

    assert_true(pages != MAP_FAILED);
    *h = (struct handler){.fd = -1, .pages = pages, .stop_fd = eventfd(0, EFD_CLOEXEC)};
    h->listen_fd = sock_listen(r->dir_fd, "pages.sock", &e);
    assert_int_equal(pthread_create(&h->thread, NULL, handle_faults, h), 0);
}

static void end_handler(struct handler *h)
{
    uint64_t one = 1;

    assert_int_equal(write(h->stop_fd, &one, sizeof(one)), sizeof(one));
    pthread_join(h->thread, NULL);
    close(h->fd);
    close(h->stop_fd);
    close(h->listen_fd);
    munmap((void *)(uintptr_t)h->pages, MEMORY);
}

static void memory_may_be_served_on_demand(void **state)
{
    struct handler h;
    struct vmm_load what;
    struct err e = {0};
    struct rig source;
    struct rig fork;
    uint32_t first;
    char size[32];
    bool runs;

    (void)state;
    if (lacks(subject.is_firecracker, "userfaultfd") ||
        lacks(subject.is_double || access("/dev/userfaultfd", R_OK | W_OK) == 0,
              "/dev/userfaultfd"))
        return;
    rig_init(&source, NULL);
    boot(&source);
    first = sleep_vm(&source, -1);
    clone_rig(&source, &fork, false);
    start_handler(&h, &fork);
    what = load_of(&fork, true);
    what.memory_socket = "pages.sock";
    if (try_load(&fork, &what, &runs, &e) < 0)
        fail_msg("%s", e.msg);
    assert_true(runs);
    if (!subject.is_double) /* whose memory came without pages */
        (void)sleep_once_beyond(&fork, -1, first);
    rig_end_one(&fork);
    end_handler(&h);
    (void)snprintf(size, sizeof(size), "\"size\":%d", MEMORY);
    if (!strstr(h.regions, size))
        fail_msg("%s", h.regions);
    rig_end(&source);
}

/* --- one that misbehaves --- */

static void the_death_of_the_vmm_ends_a_wait_at_once(void **state)
{
    struct op op = within(60000);
    struct err e = {0};
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    boot(&r);
    assert_int_equal(proc_signal(r.process.pidfd, SIGKILL, &e), 0);
    assert_int_equal(vmm_pause(&op, &r.vm, &e), -1);
    assert_int_not_equal(e.code, ERR_TIMEOUT);
    rig_end(&r);
}

static void a_vmm_that_stands_still_meets_the_deadline(void **state)
{
    struct op op = within(20000);
    struct err e = {0};
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    boot(&r);
    assert_int_equal(proc_signal(r.process.pidfd, SIGSTOP, &e), 0);
    op = within(100);
    assert_int_equal(vmm_pause(&op, &r.vm, &e), -1);
    assert_int_equal(e.code, ERR_TIMEOUT);
    rig_end(&r);
}

/* What the double is told to do at a load, and how that then fails. */
static const struct {
    const char *fault;
    enum err_code code;
    const char *text; /* NULL: the request's name */
} misdeeds[] = {
    {"deaf 0", ERR_TIMEOUT, "deadline passed"},
    {"half 0", ERR_INTERNAL, "ended with status 1"},
    {"die 149", ERR_INTERNAL, "ended with status 149"},
    {"garbage 0", ERR_INTERNAL, NULL},
    {"refuse 0", ERR_INTERNAL, "The double was told to refuse this."},
};

static void misbehave(const struct rig *source, const char *faults, enum err_code code,
                      const char *text)
{
    struct op op = within(code == ERR_TIMEOUT ? 300 : 20000);
    struct vmm_load what;
    struct err e = {0};
    struct rig fork;
    bool runs;

    clone_rig(source, &fork, false);
    write_text(fork.dir_fd, "faults", faults);
    what = load_of(&fork, true);
    assert_int_equal(vmm_load(&op, subject.driver, &what, &fork.process, &runs, &e), -1);
    print_message("%s\n", e.msg);
    assert_int_equal(e.code, code);
    if (!strstr(e.msg, text))
        fail_msg("%s", e.msg);
    assert_true(linkat(fork.dir_fd, VMM_SNAPSHOT_MEMORY, fork.dir_fd, "again", 0) == 0);
    rig_end_one(&fork);
}

static void a_double_that_misbehaves_at_a_load_costs_that_process_only(void **state)
{
    struct rig source;

    (void)state;
    if (lacks(subject.is_double, "a way to make it misbehave"))
        return;
    rig_init(&source, NULL);
    boot(&source);
    (void)sleep_vm(&source, -1);
    for (size_t i = 0; i < sizeof(misdeeds) / sizeof(misdeeds[0]); i++) {
        char faults[80];

        (void)snprintf(faults, sizeof(faults), "%s %s\n", misdeeds[i].fault, subject.load_request);
        misbehave(&source,
                  faults,
                  misdeeds[i].code,
                  misdeeds[i].text ? misdeeds[i].text : strrchr(subject.load_request, '/'));
    }
    if (subject.is_firecracker) {
        misbehave(&source, "die 149 PUT /snapshot/load\n", ERR_INTERNAL, "SIGBUS: the memory file");
        misbehave(&source, "slow-bind 60000\n", ERR_TIMEOUT, "did not listen on api.sock");
    }
    rig_end(&source);
}

static int count_of(const struct rig *r, const char *what)
{
    auto_buf struct buf answer = BUF(4096);
    struct op op = within(20000);
    struct err e = {0};
    char path[64];
    struct http_client *c;
    json_auto_t *counts = NULL;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", r->dir_fd, VMM_API_SOCKET);
    c = http_client_new(path);
    assert_int_equal(http_call(&op, c, "GET /double", NULL, &answer, &e), 200);
    http_client_free(c);
    counts = parse_json(buf_str(&answer), answer.len, &e);
    return (int)json_integer_value(json_object_get(counts, what));
}

static void a_drip_and_a_slow_bind_are_waited_for_and_a_load_is_one_request(void **state)
{
    struct rig source;
    struct rig fork;

    (void)state;
    if (lacks(subject.is_double, "a way to make it misbehave"))
        return;
    rig_init(&source, NULL);
    write_text(source.dir_fd,
               "faults",
               "slow-bind 100\ndrip 1 PUT /machine-config\ndrip 1 PUT /api/v1/vm.create\n");
    boot(&source);
    (void)sleep_vm(&source, -1);
    clone_rig(&source, &fork, false);
    load(&fork, true);
    assert_int_equal(count_of(&fork, "requests"), subject.load_requests);
    assert_int_equal(count_of(&fork, "loads"), 1);
    assert_int_equal(count_of(&fork, "resumes"), 1);
    rig_end_one(&fork);
    rig_end(&source);
}

/* --- who is tried --- */

static const struct candidate {
    const char *name, *driver, *version;
} candidates[] = {
    {"double-1.16", "firecracker", "1.16.1"},
    {"double-1.12", "firecracker", "1.12.1"},
    {"firecracker", "firecracker", NULL},
    {"double-53", "cloud-hypervisor", "53.0.0"},
    {"double-48", "cloud-hypervisor", "48.0.0"},
    {"cloud-hypervisor", "cloud-hypervisor", NULL},
    {"qemu-microvm", "qemu-microvm", NULL},
    {"qemu", "qemu", NULL},
};

static const struct candidate *find_candidate(const char *name)
{
    for (size_t i = 0; i < sizeof(candidates) / sizeof(candidates[0]); i++) {
        if (strcmp(candidates[i].name, name) == 0)
            return &candidates[i];
    }
    return NULL;
}

static int choose(const struct candidate *c)
{
    struct vmm_host_settings settings = {
        .firecracker = getenv("HYPEMAN_TEST_FIRECRACKER"),
        .cloud_hypervisor = getenv("HYPEMAN_TEST_CLOUD_HYPERVISOR"),
    };
    struct op op = within(20000);
    struct err e = {0};

    subject.driver = vmm_find(c->driver);
    subject.is_firecracker = strcmp(c->driver, "firecracker") == 0;
    subject.is_cloud_hypervisor = strcmp(c->driver, "cloud-hypervisor") == 0;
    subject.is_double = c->version != NULL;
    subject.load_request =
        subject.is_cloud_hypervisor ? "PUT /api/v1/vm.restore" : "PUT /snapshot/load";
    subject.load_requests = c->version && strcmp(c->version, "48.0.0") == 0 ? 2 : 1;
    settings.accel = subject.is_firecracker || subject.is_cloud_hypervisor ? ACCEL_KVM : ACCEL_TCG;
    if (subject.is_double) {
        setenv("HYPEMAN_DOUBLE_VERSION", c->version, 1);
        settings.firecracker = DOUBLES "/firecracker";
        settings.cloud_hypervisor = DOUBLES "/cloud-hypervisor";
    }
    if (vmm_host_probe(&op, &settings, &subject.host, &e) < 0 ||
        subject.driver->available(&subject.host, &e) < 0) {
        print_message("skipped: %s: %s\n", c->name, e.msg);
        return SKIPPED;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        checked_test(a_guest_boots_and_is_paused_and_goes_on),
        checked_test(a_second_run_appends_to_the_serial_log),
        checked_test(a_deep_data_directory_works),
        checked_test(a_guest_that_resets_ends_its_vm),
        checked_test(a_start_that_fails_says_why_and_leaves_nothing),
        checked_test(a_cancelled_start_leaves_nothing),
        checked_test(a_running_guest_is_not_saved),
        checked_test(a_snapshot_goes_on_where_it_was_taken),
        checked_test(a_guest_whose_ram_has_no_file_system_sleeps_and_is_forked),
        checked_test(forks_load_at_once_while_the_source_runs),
        checked_test(a_difference_makes_a_whole_memory_and_leaves_the_base_alone),
        checked_test(a_vm_that_was_loaded_is_saved_as_a_difference_to_what_it_maps),
        checked_test(a_load_that_fails_says_why_and_keeps_the_snapshot),
        checked_test(a_fork_has_a_tap_of_its_own_and_one_that_is_in_use_is_refused),
        checked_test(a_tap_is_left_to_it_and_taken_back_and_serves_the_next),
        checked_test(a_tap_comes_with_the_request_and_every_fork_brings_its_own),
        checked_test(limits_balloon_and_metrics_are_taken),
        checked_test(cpus_and_memory_come_and_go_while_it_runs),
        checked_test(a_vm_with_room_for_more_sleeps_and_is_forked),
        checked_test(memory_that_was_added_is_not_saved_in_silence),
        checked_test(the_balloon_is_set_while_it_runs),
        checked_test(a_disk_comes_and_goes_while_it_runs),
        checked_test(a_card_comes_and_goes_while_it_runs),
        checked_test(what_its_devices_did_is_counted),
        checked_test(memory_may_be_served_on_demand),
        checked_test(the_death_of_the_vmm_ends_a_wait_at_once),
        checked_test(a_vmm_that_stands_still_meets_the_deadline),
        checked_test(a_double_that_misbehaves_at_a_load_costs_that_process_only),
        checked_test(a_drip_and_a_slow_bind_are_waited_for_and_a_load_is_one_request),
    };
    const struct candidate *c = argc > 1 ? find_candidate(argv[1]) : NULL;

    if (!c)
        return 2;
    (void)unshare(CLONE_NEWNET); /* for its taps; without the right to, that case is left out */
    return choose(c) ? SKIPPED : cmocka_run_group_tests(tests, NULL, NULL);
}
