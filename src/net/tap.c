/* SPDX-License-Identifier: Apache-2.0 */
#include "net/tap.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/if_tun.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "net/plan.h"

enum { FRAME_MAX = 70 * 1024 };

int tap_open(char name_out[IFNAMSIZ], struct err *e)
{
    auto_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, .ifr_name = NET_TAPS "%d"};

    if (fd < 0)
        return err_errno(e, "open /dev/net/tun");
    if (ioctl(fd, TUNSETIFF, &r) < 0)
        return err_errno(e, "make a TAP");
    memcpy(name_out, r.ifr_name, IFNAMSIZ);
    return take_fd(&fd);
}

void tap_drain(int fd)
{
    static char discarded[FRAME_MAX]; /* nobody looks at it, so all threads may share it */

    while (read(fd, discarded, sizeof(discarded)) > 0)
        ;
}

static int copy_of(int pidfd, int number)
{
    int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);

    if (fd >= 0)
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

static bool is_tap(int fd, const char *name)
{
    struct ifreq r = {0};

    return ioctl(fd, TUNGETIFF, &r) == 0 && strcmp(r.ifr_name, name) == 0;
}

static bool is_tun_file(DIR *dir, const char *entry)
{
    char target[64];
    ssize_t n = readlinkat(dirfd(dir), entry, target, sizeof(target) - 1);

    target[n > 0 ? n : 0] = '\0';
    return strcmp(target, "/dev/net/tun") == 0;
}

int tap_of_process(int pidfd, int pid, const char *name, struct err *e)
{
    char path[64];
    const struct dirent *entry;
    uint64_t number;
    int fd = -1;
    DIR *dir;

    (void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    dir = opendir(path);
    while (fd < 0 && dir && (entry = readdir(dir)) != NULL) {
        if (!parse_u64(entry->d_name, 0, INT32_MAX, &number) || !is_tun_file(dir, entry->d_name))
            continue;
        fd = copy_of(pidfd, (int)number);
        if (fd >= 0 && !is_tap(fd, name)) {
            close(fd);
            fd = -1;
        }
    }
    if (dir)
        closedir(dir);
    return fd >= 0 ? fd : err_set(e, ERR_NOT_FOUND, "process %d shares no file of %s", pid, name);
}
