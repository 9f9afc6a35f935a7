/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An init that is nothing but the bare transport's other end: for "exec" and "cp" to
 * be held against. After a request { u8 what, u64 count } it echoes each byte as it
 * comes ('e'), swallows all and says one byte ('s'), or sends as many ('g'); as 's' and
 * 'g' but into a file in memory and out of it ('w', 'r'). What
 * an echo is preceded by says the byte (echo.h).
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/channel.h"
#include "agent/modules.h"
#include "agent/rootfs.h"
#include "agent/sys.h"
#include "echo.h"

static char bytes[32 * 1024];
static int relay[2] = {-1, -1}; /* to the other program, and from it */

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

static void start_relay(void)
{
    int to[2];
    int from[2];

    if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
        return;
    relay[0] = to[1];
    relay[1] = from[0];
    if (fork() > 0)
        return;
    for (;;) {
        get(to[0], bytes, 1);
        put(from[1], bytes, 1);
    }
}

static void run_program(void)
{
    static char program[] = "/bin/true";
    char *const argv[] = {program, NULL};
    pid_t pid = fork();

    if (pid == 0) {
        (void)execv(argv[0], argv);
        _exit(1);
    }
    (void)waitpid(pid, NULL, 0);
}

static void before_echo(char byte)
{
    if (byte == ECHO_PROGRAM)
        run_program();
    if (byte != ECHO_RELAYED)
        return;
    put(relay[0], &byte, 1);
    get(relay[1], &byte, 1);
}

/* Swallows, perhaps into a file. */
static void swallow(int fd, int file, uint64_t count)
{
    while (count > 0) {
        size_t n = count < sizeof(bytes) ? (size_t)count : sizeof(bytes);

        get(fd, bytes, n);
        if (file >= 0)
            put(file, bytes, n);
        count -= n;
    }
    put(fd, "", 1);
}

/* Sends, perhaps from a file. */
static void send_all(int fd, int file, uint64_t count)
{
    if (file >= 0)
        (void)lseek(file, 0, SEEK_SET);
    while (count > 0) {
        size_t n = count < sizeof(bytes) ? (size_t)count : sizeof(bytes);

        if (file >= 0)
            get(file, bytes, n);
        put(fd, bytes, n);
        count -= n;
    }
}

static void echo(int fd, uint64_t count)
{
    for (; count > 0; count--) {
        get(fd, bytes, 1);
        before_echo(bytes[0]);
        put(fd, bytes, 1);
    }
}

static void serve(int fd, char what, uint64_t count)
{
    static int file = -1;

    if (what == 'e')
        echo(fd, count);
    if (what == 'w') {
        (void)close(file);
        file = memfd_create("file", MFD_CLOEXEC);
    }
    if (what == 's' || what == 'w')
        swallow(fd, what == 'w' ? file : -1, count);
    if (what == 'g' || what == 'r')
        send_all(fd, what == 'r' ? file : -1, count);
}

int main(void)
{
    struct err e = {0};
    int fd;

    if (mount_kernel_filesystems(&e) < 0 || modules_load(&e) < 0 || rootfs_enter(&e) < 0)
        say("%s", e.msg);
    fd = channel_wait_for_port();
    (void)fcntl(fd, F_SETFL, 0);
    memset(bytes, 'x', sizeof(bytes));
    start_relay();
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
