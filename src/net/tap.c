/* SPDX-License-Identifier: Apache-2.0 */
#include "net/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>

#include "base/cleanup.h"
#include "net/plan.h"

enum {
    FRAME_MAX = 70 * 1024,
    DRAIN_MAX = 4096, /* frames; the kernel queues 1,000 of a TAP */
    KIND = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
    NAMES = 100000000, /* as many digits as the name of an upload's interface has room for */
    NAMES_TRIED = 1 << 16,
    FILES_TRIED = 4096, /* of a process; VMMs have some sixty */
};

static int open_named(struct ifreq *r, struct err *e)
{
    auto_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

    r->ifr_flags = KIND;
    if (fd < 0)
        return err_errno(e, "open /dev/net/tun");
    return ioctl(fd, TUNSETIFF, r) < 0 ? err_errno(e, "open the TAP %s", r->ifr_name)
                                       : take_fd(&fd);
}

int tap_open(char name_out[IFNAMSIZ], struct err *e)
{
    static atomic_uint next;
    auto_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct ifreq r = {.ifr_flags = (short)(KIND | IFF_TUN_EXCL)};

    if (fd < 0)
        return err_errno(e, "open /dev/net/tun");
    for (int i = 0; i < NAMES_TRIED; i++) {
        (void)snprintf(
            r.ifr_name, sizeof(r.ifr_name), NET_TAPS "%u", atomic_fetch_add(&next, 1) % NAMES);
        if (ioctl(fd, TUNSETIFF, &r) == 0) {
            memcpy(name_out, r.ifr_name, IFNAMSIZ);
            return take_fd(&fd);
        }
        if (errno != EBUSY)
            break;
    }
    return err_errno(e, "make the TAP %s", r.ifr_name);
}

int tap_leave(int fd, struct err *e)
{
    return ioctl(fd, TUNSETPERSIST, 1) < 0 ? err_errno(e, "leave a TAP to its VMM") : 0;
}

void tap_bind_to_file(int fd)
{
    (void)ioctl(fd, TUNSETPERSIST, 0); /* cannot fail on a TAP's file */
}

int tap_await_free(const struct op *op, const char *name, struct err *e)
{
    auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ethtool_value link = {.cmd = ETHTOOL_GLINK};
    struct ifreq r = {.ifr_data = (char *)&link};

    (void)snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
    for (;;) {
        if (fd < 0 || ioctl(fd, SIOCETHTOOL, &r) < 0)
            return err_errno(e, "look whether the TAP %s is free", name);
        if (!link.data)
            return 0;
        if (op_sleep(op, 1, e) < 0)
            return err_wrap(e, "the TAP %s is not let go of", name);
    }
}

int tap_return(const char *name, struct err *e)
{
    struct ifreq r = {0};
    int fd;

    (void)snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
    fd = open_named(&r, e);
    if (fd >= 0)
        tap_bind_to_file(fd);
    return fd;
}

/* The file may be one that a VMM opened, as it liked, and the host may go on sending. */
void tap_drain(int fd)
{
    static char discarded[FRAME_MAX]; /* nobody looks at it, so all threads may share it */
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return;
    for (int i = 0; i < DRAIN_MAX && read(fd, discarded, sizeof(discarded)) > 0; i++)
        ;
}

static bool is_tap(int fd, const char *name)
{
    struct ifreq r = {0};

    return ioctl(fd, TUNGETIFF, &r) == 0 && strcmp(r.ifr_name, name) == 0;
}

/* Each number is tried: to look them up in /proc takes the kernel ten times as long. */
int tap_of_process(int pidfd, const char *name, struct err *e)
{
    for (int number = 0; number < FILES_TRIED; number++) {
        auto_close int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0); /* CLOEXEC */

        if (fd >= 0 && is_tap(fd, name))
            return take_fd(&fd);
        if (fd < 0 && errno != EBADF)
            return err_errno(e, "look at the process's files");
    }
    return err_set(e, ERR_NOT_FOUND, "the process shares no file of %s", name);
}
