/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"

enum { TEXT_MAX = 64 * 1024 };

void say(const char *fmt, ...)
{
    auto_buf struct buf line = BUF(2048);
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    buf_printf(&line, "hypeman: %s\n", text);
    (void)!write(STDERR_FILENO, line.data, line.len);
}

bool slurp(const char *path, struct buf *out)
{
    auto_close int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* not waiting for a FIFO */
    char chunk[4096];
    ssize_t n;

    if (fd < 0)
        return false;
    while ((n = read(fd, chunk, sizeof(chunk))) > 0)
        buf_append(out, chunk, (size_t)n);
    return n == 0 && buf_ok(out);
}

static bool write_all(int fd, const char *text)
{
    size_t n = strlen(text);

    return fd >= 0 && write(fd, text, n) == (ssize_t)n;
}

bool write_text(const char *path, const char *text)
{
    auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);

    return write_all(fd, text);
}

static bool create(const char *path, const char *text)
{
    auto_close int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

    return write_all(fd, text);
}

bool replace_text(const char *path, const char *text)
{
    auto_free char *temporary = mem_printf("%s.hypeman", path);
    auto_buf struct buf old = BUF(TEXT_MAX);

    /* Under TCG each of these is milliseconds of the boot: no more than it takes. */
    if ((slurp(path, &old) && strcmp(buf_str(&old), text) == 0) || create(path, text))
        return true;
    (void)unlink(temporary);
    return create(temporary, text) && rename(temporary, path) == 0;
}

int make_dirs(const char *path, struct err *e)
{
    auto_free char *partial = mem_strdup(path); /* not empty */

    for (char *slash = strchr(partial + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(partial, 0755) < 0 && errno != EEXIST)
            return err_errno(e, "make directory %s", partial);
        *slash = '/';
    }
    if (mkdir(partial, 0755) < 0 && errno != EEXIST)
        return err_errno(e, "make directory %s", partial);
    return 0;
}

void give_way(bool on)
{
    const struct sched_param none = {0};

    /* musl's own only says ENOSYS */
    (void)syscall(SYS_sched_setscheduler, 0, on ? SCHED_BATCH : SCHED_OTHER, &none);
}

int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void pause_ms(int ms)
{
    (void)poll(NULL, 0, ms);
}

bool wait_for(const char *path, int64_t timeout_ms)
{
    int64_t until = clock_ms() + timeout_ms;

    while (access(path, F_OK) < 0) {
        if (clock_ms() >= until)
            return false;
        pause_ms(1);
    }
    return true;
}
