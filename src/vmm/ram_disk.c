/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/ram_disk.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/cleanup.h"

#define NAME "ram"

static int detached_file(uint64_t bytes)
{
    auto_close int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
    auto_close int mount = -1;
    char size[24];

    (void)snprintf(size, sizeof(size), "%" PRIu64, bytes);
    if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "size", size, 0) < 0 ||
        fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    mount = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSUID);
    return mount < 0 ? -1 : openat(mount, NAME, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
}

int ram_disk_file(uint64_t bytes, struct err *e)
{
    auto_close int fd = detached_file(bytes);

    if (fd < 0) {
        err_errno(e, "make a tmpfs for the guest's memory");
        e->code = ERR_UNSUPPORTED;
        return -1;
    }
    if (ftruncate(fd, (off_t)bytes) < 0)
        return err_errno(e, "make the guest's memory");
    return take_fd(&fd);
}

/* Nothing that is mounted has a file there that anybody would hand us. */
bool ram_disk_is(int fd)
{
    char link[32];
    char path[sizeof("/" NAME) + 1];
    ssize_t n;

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path));
    return n == (ssize_t)strlen("/" NAME) && memcmp(path, "/" NAME, (size_t)n) == 0;
}
