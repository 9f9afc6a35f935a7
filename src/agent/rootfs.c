/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "agent/sys.h"
#include "base/cleanup.h"

enum { DISK_WAIT_MS = 5000 };

static const struct {
    const char *type;
    const char *at;
    unsigned long flags;
    const char *options;
} kernel_mounts[] = {
    {"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
    {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
};

static const struct {
    const char *target;
    const char *link;
} dev_links[] = {
    {"/proc/self/fd", "/dev/fd"},
    {"/proc/self/fd/0", "/dev/stdin"},
    {"/proc/self/fd/1", "/dev/stdout"},
    {"/proc/self/fd/2", "/dev/stderr"},
};

/*
 * Bytes reach the log as they were written: no carriage returns, no flow control, no echo. 0 to 2
 * are taken already: the kernel gave us its own idea of the console.
 */
static void take_console(void)
{
    auto_close int console = open("/dev/console", O_RDWR | O_CLOEXEC | O_NOCTTY);
    auto_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct termios t;

    if (console < 0)
        return;
    if (tcgetattr(console, &t) == 0) {
        cfmakeraw(&t);
        (void)tcsetattr(console, TCSANOW, &t);
    }
    (void)dup2(null, STDIN_FILENO);
    (void)dup2(console, STDOUT_FILENO);
    (void)dup2(console, STDERR_FILENO);
}

int mount_kernel_filesystems(struct err *e)
{
    for (size_t i = 0; i < sizeof(kernel_mounts) / sizeof(kernel_mounts[0]); i++) {
        const char *at = kernel_mounts[i].at;

        (void)mkdir(at, 0755);
        if (mount(kernel_mounts[i].type,
                  at,
                  kernel_mounts[i].type,
                  kernel_mounts[i].flags,
                  kernel_mounts[i].options) < 0)
            return err_errno(e, "mount %s", at);
        if (i == 0)
            take_console();
    }
    for (size_t i = 0; i < sizeof(dev_links) / sizeof(dev_links[0]); i++)
        (void)symlink(dev_links[i].target, dev_links[i].link);
    return 0;
}

const char *image_type(void)
{
    auto_close int fd = -1;
    unsigned char b[2048];

    if (wait_for("/dev/vda", DISK_WAIT_MS))
        fd = open("/dev/vda", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, b, sizeof(b), 0) != sizeof(b))
        return "";
    if (memcmp(b, "hsqs", 4) == 0)
        return "squashfs";
    if (memcmp(b + 1024, "\xe2\xe1\xf5\xe0", 4) == 0)
        return "erofs";
    if (memcmp(b + 1024 + 56, "\x53\xef", 2) == 0)
        return "ext4";
    return "";
}

static int mount_disk(const char *disk, const char *at, const char *type, unsigned long flags,
                      struct err *e)
{
    (void)mkdir(at, 0755);
    if (!wait_for(disk, DISK_WAIT_MS))
        return err_set(e, ERR_INTERNAL, "there is no disk %s", disk);
    if (mount(disk, at, type, flags, NULL) < 0)
        return err_errno(e, "mount %s as %s", disk, type);
    return 0;
}

static int mount_overlay(struct err *e)
{
    const char *type = image_type();

    if (*type == '\0')
        return err_set(e, ERR_INTERNAL, "/dev/vda holds no image: not squashfs, erofs or ext4");
    if (mount_disk("/dev/vda", "/lower", type, MS_RDONLY, e) < 0 ||
        mount_disk("/dev/vdb", "/writable", "ext4", 0, e) < 0)
        return -1;
    (void)mkdir("/writable/upper", 0755);
    (void)mkdir("/writable/work", 0755);
    (void)mkdir("/root", 0755);
    if (mount("overlay",
              "/root",
              "overlay",
              0,
              "lowerdir=/lower,upperdir=/writable/upper,workdir=/writable/work") < 0)
        return err_errno(e, "mount the writable disk over the image");
    return 0;
}

/* The new root is moved over the old one, which stays below, out of reach. */
static int switch_root(struct err *e)
{
    static const char *const moved[] = {"/dev", "/proc", "/sys"};

    if (chdir("/root") < 0)
        return err_errno(e, "enter the new root");
    for (size_t i = 0; i < sizeof(moved) / sizeof(moved[0]); i++) {
        (void)mkdir(moved[i] + 1, 0755);
        if (mount(moved[i], moved[i] + 1, NULL, MS_MOVE, NULL) < 0)
            return err_errno(e, "move %s into the image", moved[i]);
    }
    (void)unlink("/init");
    if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        return err_errno(e, "make the image the root");
    return 0;
}

int rootfs_enter(struct err *e)
{
    auto_close int writable_fd = -1;

    if (mount_overlay(e) < 0)
        return -1;
    writable_fd = open("/writable", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (writable_fd < 0)
        return err_errno(e, "open the writable disk");
    if (switch_root(e) < 0)
        return -1;
    (void)mkdir("/etc", 0755); /* an image of one file has not even that */
    if (mkdir("/tmp", 0700) == 0)
        (void)chmod("/tmp", 01777);
    return take_fd(&writable_fd);
}

void rootfs_close(int writable_fd)
{
    /* The writable disk is mounted where no path leads any more, but "." does. */
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0 || fchdir(writable_fd) < 0 ||
        mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
        sync();
}
