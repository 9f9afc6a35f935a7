/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An init that is nothing but the bare transport's other end: for "exec" and "cp" to
 * be held against. After a request { u8 what, u64 count } it echoes each byte as it
 * comes ('e'), swallows all and says one byte ('s'), or sends as many ('g').
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "agent/channel.h"
#include "agent/modules.h"
#include "agent/rootfs.h"
#include "agent/sys.h"

static char bytes[32 * 1024];

static void get(int fd, void *to, size_t len)
{
    for (char *at = to; len > 0;) {
        ssize_t n = read(fd, at, len);

        if (n <= 0) {
            pause_ms(1); /* nobody is connected */
            continue;
        }
        at += n;
        len -= (size_t)n;
    }
}

static void put(int fd, const char *at, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, at, len);

        if (n > 0) {
            at += n;
            len -= (size_t)n;
        }
    }
}

static void serve(int fd, char what, uint64_t count)
{
    while (count > 0) {
        size_t n = count < sizeof(bytes) ? (size_t)count : sizeof(bytes);

        if (what == 'e')
            n = 1;
        if (what != 'g')
            get(fd, bytes, n);
        if (what != 's')
            put(fd, bytes, n);
        count -= n;
    }
    if (what == 's')
        put(fd, "", 1);
}

int main(void)
{
    struct err e = {0};
    int fd;

    if (mount_kernel_filesystems(&e) < 0 || modules_load(&e) < 0)
        say("%s", e.msg);
    fd = channel_wait_for_port();
    (void)fcntl(fd, F_SETFL, 0);
    memset(bytes, 'x', sizeof(bytes));
    while (fd >= 0) {
        unsigned char request[9];
        uint64_t count;

        get(fd, request, sizeof(request));
        memcpy(&count, request + 1, sizeof(count));
        serve(fd, (char)request[0], count);
    }
    (void)reboot(RB_AUTOBOOT);
    return 1;
}
