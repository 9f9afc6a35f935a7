/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

struct subject subject;

bool lacks(bool has, const char *what)
{
    if (!has)
        print_message("not here: %s\n", what);
    return !has;
}

int hold_tap(const char *name)
{
    auto_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};

    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    return fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0 ? take_fd(&fd) : -1;
}

struct op within(int64_t ms)
{
    return (struct op){.deadline_ms = clock_ms() + ms, .cancel_fd = -1};
}

void make_file(int dir_fd, const char *name, off_t size)
{
    auto_close int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0640);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
}

void write_text(int dir_fd, const char *name, const char *text)
{
    auto_close int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

void await_text(int dir_fd, const char *name, const char *text)
{
    struct op op = within(20000);
    struct err e = {0};

    for (;;) {
        auto_buf struct buf b = BUF(1 << 20);

        assert_int_equal(file_read(dir_fd, name, &b, &e), 0);
        if (strstr(buf_str(&b), text))
            return;
        assert_int_equal(op_sleep(&op, 5, &e), 0);
    }
}

void use_kernel(const char *name)
{
    (void)snprintf(subject.host.kernel, sizeof(subject.host.kernel), "%s/%s", TINY_GUESTS, name);
}

static void make_disks(const struct rig *r)
{
    make_file(r->dir_fd, VMM_IMAGE, 1 << 20);
    make_file(r->dir_fd, VMM_OVERLAY, 1 << 20);
    make_file(r->dir_fd, VMM_CONFIG_DISK, 1 << 20);
}

void rig_init(struct rig *r, const char *below)
{
    *r = (struct rig){.path = "/tmp/hypeman-conf-XXXXXX", .process.pidfd = -1};
    assert_non_null(mkdtemp(r->path));
    if (below) {
        strncat(r->path, below, sizeof(r->path) - strlen(r->path) - 1);
        assert_int_equal(mkdir(r->path, 0700), 0);
    }
    r->dir_fd = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(r->dir_fd >= 0);
    make_disks(r);
    use_kernel("tiny");
}

void rig_end_one(struct rig *r)
{
    struct op op = within(10000);
    struct err e = {0};
    char *end;

    if (r->process.pidfd >= 0)
        assert_int_equal(vmm_stop(&op, &r->vm, 0, NULL, &e), 0);
    cleanup_close(&r->process.pidfd);
    close(r->dir_fd);
    end = strchr(r->path + strlen("/tmp/"), '/');
    if (end)
        *end = '\0';
    assert_int_equal(tree_remove(AT_FDCWD, r->path, &e), 0);
    socket_wait_forget();
}

void rig_end(struct rig *r)
{
    rig_end_one(r);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

struct vmm_boot boot_of(const struct rig *r)
{
    return (struct vmm_boot){.host = &subject.host,
                             .name = "tiny",
                             .dir_fd = r->dir_fd,
                             .vcpus = 1,
                             .memory_bytes = MEMORY,
                             .tap_fd = -1};
}

static void hold(struct rig *r)
{
    r->vm = (struct vmm_handle){
        .driver = subject.driver, .name = "tiny", .dir_fd = r->dir_fd, .pidfd = r->process.pidfd};
}

void boot_with(struct rig *r, const struct vmm_boot *b)
{
    struct op op = within(20000);
    struct err e = {0};

    if (vmm_boot(&op, subject.driver, b, &r->process, &e) < 0)
        fail_msg("%s", e.msg);
    hold(r);
}

void boot(struct rig *r)
{
    struct vmm_boot b = boot_of(r);

    boot_with(r, &b);
    await_text(r->dir_fd, VMM_SERIAL_LOG, "up");
}

void expect_no_boot(struct rig *r, const struct vmm_boot *b, const char *text)
{
    struct op op = within(10000);
    struct err e = {0};
    struct stat st;

    assert_int_equal(vmm_boot(&op, subject.driver, b, &r->process, &e), -1);
    print_message("%s\n", e.msg);
    if (!strstr(e.msg, text))
        fail_msg("%s", e.msg);
    assert_int_equal(fstatat(r->dir_fd, VMM_API_SOCKET, &st, 0), -1);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

/* --- the monitor --- */

struct inquiry {
    struct loop *loop;
    struct vmm_monitor *monitor;
    struct timer late;
    enum vmm_status status;
    bool answered;
};

static void too_late(struct timer *t)
{
    loop_stop(container_of(t, struct inquiry, late)->loop);
}

static void on_event(void *owner, const struct vmm_event *event)
{
    struct inquiry *q = owner;
    struct err e = {0};

    if (event->kind == VMM_EVENT_READY) {
        assert_int_equal(vmm_monitor_probe(q->monitor, &e), 0);
    } else if (event->kind == VMM_EVENT_STATUS) {
        q->status = event->status;
        q->answered = true;
        loop_stop(q->loop);
    }
}

enum vmm_status status_of(const struct rig *r)
{
    struct inquiry q = {.late.fn = too_late};
    struct err e = {0};

    q.loop = loop_new(&e);
    assert_non_null(q.loop);
    q.monitor = vmm_monitor_open(subject.driver, q.loop, r->dir_fd, on_event, &q, &e);
    if (!q.monitor)
        fail_msg("%s", e.msg);
    loop_timer_start(q.loop, &q.late, 10000);
    assert_int_equal(loop_run(q.loop, &e), 0);
    loop_timer_stop(q.loop, &q.late);
    vmm_monitor_close(q.monitor);
    loop_free(q.loop);
    assert_true(q.answered);
    return q.status;
}

/* --- asleep and awake --- */

void pause_vm(struct rig *r)
{
    struct op op = within(20000);
    struct err e = {0};

    if (vmm_pause(&op, &r->vm, &e) < 0)
        fail_msg("%s", e.msg);
}

void resume_vm(struct rig *r)
{
    struct op op = within(20000);
    struct err e = {0};

    if (vmm_resume(&op, &r->vm, &e) < 0)
        fail_msg("%s", e.msg);
}

static uint32_t read_count(int dir_fd)
{
    auto_close int fd = openat(dir_fd, VMM_SNAPSHOT_MEMORY, O_RDONLY | O_CLOEXEC);
    uint32_t count = 0;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &count, sizeof(count), COUNT_AT), sizeof(count));
    return count;
}

uint32_t sleep_vm(struct rig *r, int base_memory_fd)
{
    struct op op = within(60000);
    struct err e = {0};
    struct vmm_save save = {.is_difference = base_memory_fd >= 0, .base_memory_fd = base_memory_fd};

    pause_vm(r);
    assert_int_equal(mkdirat(r->dir_fd, "snapshot.new", 0750), 0);
    save.snapshot_dir_fd = dir_open(r->dir_fd, "snapshot.new", &e);
    if (vmm_save(&op, &r->vm, &save, &e) < 0)
        fail_msg("%s", e.msg);
    close(save.snapshot_dir_fd);
    assert_int_equal(tree_remove(r->dir_fd, VMM_SNAPSHOT_DIR, &e), 0);
    assert_int_equal(renameat(r->dir_fd, "snapshot.new", r->dir_fd, VMM_SNAPSHOT_DIR), 0);
    return read_count(r->dir_fd);
}

uint32_t sleep_once_beyond(struct rig *r, int base_memory_fd, uint32_t count)
{
    struct op op = within(60000);
    struct err e = {0};
    uint32_t now = sleep_vm(r, base_memory_fd);

    while (now <= count) { /* a guest that got no processor yet */
        auto_close int own_fd = openat(r->dir_fd, VMM_SNAPSHOT_MEMORY, O_RDONLY | O_CLOEXEC);

        resume_vm(r);
        assert_int_equal(op_sleep(&op, 20, &e), 0);
        now = sleep_vm(r, base_memory_fd < 0 ? -1 : own_fd);
    }
    return now;
}

static void copy_file(int from_fd, int to_fd, const char *name)
{
    auto_close int from = openat(from_fd, name, O_RDONLY | O_CLOEXEC);
    auto_close int to = openat(to_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    struct stat st;

    assert_int_equal(fstat(from, &st), 0);
    for (off_t left = st.st_size; left > 0;) {
        ssize_t n = copy_file_range(from, NULL, to, NULL, (size_t)left, 0);

        assert_true(n > 0);
        left -= n;
    }
}

void clone_rig(const struct rig *from, struct rig *to, bool copies)
{
    static const char *const files[] = {VMM_SNAPSHOT_STATE, VMM_SNAPSHOT_MEMORY};

    rig_init(to, NULL);
    assert_int_equal(mkdirat(to->dir_fd, VMM_SNAPSHOT_DIR, 0700), 0);
    for (size_t i = 0; i < 2; i++) {
        if (copies)
            copy_file(from->dir_fd, to->dir_fd, files[i]);
        else
            assert_int_equal(linkat(from->dir_fd, files[i], to->dir_fd, files[i], 0), 0);
    }
}

struct vmm_load load_of(const struct rig *r, bool resume)
{
    return (struct vmm_load){.boot = boot_of(r), .resume = resume};
}

int try_load(struct rig *r, const struct vmm_load *what, bool *runs, struct err *e)
{
    struct op op = within(20000);

    if (vmm_load(&op, subject.driver, what, &r->process, runs, e) < 0)
        return -1;
    hold(r);
    return 0;
}

void load(struct rig *r, bool resume)
{
    struct vmm_load what = load_of(r, resume);
    struct err e = {0};
    bool runs = !resume;

    if (try_load(r, &what, &runs, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(runs, resume);
}

uint64_t hash_of(int dir_fd, const char *name)
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

bool has_open(const struct rig *r, const char *name)
{
    struct stat wanted;
    struct stat st;
    char path[64];
    const struct dirent *entry;
    bool found = false;
    DIR *dir;

    (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)r->process.id.pid);
    dir = opendir(path);
    assert_non_null(dir);
    assert_int_equal(fstatat(r->dir_fd, name, &wanted, 0), 0);
    while (!found && (entry = readdir(dir)))
        found = fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && st.st_ino == wanted.st_ino &&
                st.st_dev == wanted.st_dev;
    closedir(dir);
    return found;
}
