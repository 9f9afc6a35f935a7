/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loaded into a daemon with LD_PRELOAD: stands between it (and its SQLite) and the
 * C library, sees every call that changes the data directory and every command to a
 * QEMU, and lets the test end, refuse or stall any of them. The daemon knows nothing
 * of it; its children are not under it.
 *
 * A step is a line "CALL PATH": the path relative to the data directory, in which
 * SOURCE is the instance that the test named and NEW any other, also while its
 * directory is still called .new-ID: which steps of a fork come before it gets its
 * name is a matter of chance. fsync() and fdatasync() are both "sync"; commands to a
 * QEMU are "qmp NAME".
 *
 *   HYPEMAN_FAULTS       the control file (control.h)
 *   HYPEMAN_FAULTS_LOG   where the steps of a recording go, a line each
 *   HYPEMAN_FAULTS_DATA  the data directory
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "control.h"

enum { ID_LENGTH = 24 };

static struct fault_control *control;
static char data_dir[PATH_MAX];
static int log_fd = -1;
static pid_t daemon_pid;

/* What a call asks of the disk. */
enum need { NO_ROOM, ROOM };

static __attribute__((constructor)) void begin(void)
{
    const char *file = getenv("HYPEMAN_FAULTS");
    const char *log = getenv("HYPEMAN_FAULTS_LOG");
    const char *data = getenv("HYPEMAN_FAULTS_DATA");
    int fd;

    unsetenv("LD_PRELOAD");
    if (!file || !log || !data)
        return;
    (void)snprintf(data_dir, sizeof(data_dir), "%s", data);
    log_fd =
        (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC);
    if (fd < 0 || log_fd < 0)
        abort();
    control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED)
        abort();
    close(fd);
    daemon_pid = getpid();
}

/* --- names --- */

static bool is_id(const char *p, size_t n)
{
    if (n != ID_LENGTH)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!(p[i] >= 'a' && p[i] <= 'z') && !(p[i] >= '0' && p[i] <= '9'))
            return false;
    }
    return true;
}

/* Appends a path's components, ids as what they are to the test. */
static void put_path(char *out, size_t size, const char *path)
{
    while (*path) {
        size_t n = strcspn(path, "/");
        size_t skip = strncmp(path, ".new-", 5) == 0 ? 5 : 0;
        size_t len = strlen(out);

        if (is_id(path + skip, n - skip))
            (void)snprintf(out + len,
                           size - len,
                           "%s",
                           memcmp(control->subject, path + skip, ID_LENGTH) == 0 ? "SOURCE"
                                                                                 : "NEW");
        else
            (void)snprintf(out + len, size - len, "%.*s", (int)n, path);
        path += n;
        if (*path) {
            len = strlen(out);
            (void)snprintf(out + len, size - len, "/");
            path++;
        }
    }
}

/* The absolute path behind an fd, its last one if it has none any more; false when it never had. */
static bool path_of_fd(int fd, char out[PATH_MAX])
{
    static const char deleted[] = " (deleted)";
    const size_t tail = sizeof(deleted) - 1;
    char link[64];
    ssize_t n;

    if (fd == AT_FDCWD)
        return false;
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, out, PATH_MAX - 1);
    if (n <= 0)
        return false;
    out[n] = '\0';
    if ((size_t)n > tail && strcmp(out + n - tail, deleted) == 0)
        out[(size_t)n - tail] = '\0';
    return out[0] == '/';
}

/* The path below the data directory, or NULL. A name may begin with /proc/self/fd/N. */
static const char *below_data(int dir_fd, const char *name, char out[PATH_MAX])
{
    static const char by_fd[] = "/proc/self/fd/";
    size_t len = strlen(data_dir);
    const char *rest = name;

    if (name && strncmp(name, by_fd, sizeof(by_fd) - 1) == 0) {
        dir_fd = (int)strtol(name + sizeof(by_fd) - 1, NULL, 10);
        rest = strchr(name + sizeof(by_fd) - 1, '/');
        rest = rest ? rest + 1 : NULL;
    }
    if (rest && rest[0] == '/')
        (void)snprintf(out, PATH_MAX, "%s", rest);
    else if (!path_of_fd(dir_fd, out))
        return NULL;
    else if (rest) {
        size_t n = strlen(out);

        (void)snprintf(out + n, PATH_MAX - n, "/%s", rest);
    }
    return strncmp(out, data_dir, len) == 0 && out[len] == '/' ? out + len + 1 : NULL;
}

/* --- steps --- */

static void note(const char *label)
{
    char line[FAULT_LABEL + 2];
    int n = snprintf(line, sizeof(line), "%s\n", label);

    (void)syscall(SYS_write, log_fd, line, (size_t)n);
}

static int strike(struct fault_plan *p)
{
    static const struct timespec moment = {.tv_nsec = 2000000};

    atomic_store(&p->hit, 1);
    if (p->action == FAULT_KILL) {
        (void)kill(daemon_pid, SIGKILL);
        for (;;)
            (void)pause();
    }
    if (p->action == FAULT_FULL) {
        atomic_store(&control->full, 1);
        return ENOSPC;
    }
    if (p->action == FAULT_COUNT) {
        atomic_store(&p[-1].seen, 0);
        return 0;
    }
    while (!atomic_load(&control->released))
        (void)nanosleep(&moment, NULL);
    return 0;
}

/* 0: let it happen; else the errno that it fails with. */
static int step(const char *label, enum need need)
{
    if (atomic_load(&control->recording))
        note(label);
    for (int i = 0; i < FAULT_PLANS; i++) {
        struct fault_plan *p = &control->plans[i];

        if (atomic_load(&p->action) != FAULT_NONE && strcmp(p->label, label) == 0 &&
            atomic_fetch_add(&p->seen, 1) + 1 == p->at)
            return strike(p);
    }
    return need == ROOM && atomic_load(&control->full) ? ENOSPC : 0;
}

static bool is_watched(void)
{
    return control && getpid() == daemon_pid;
}

static int step_path(const char *call, int dir_fd, const char *name, enum need need)
{
    char path[PATH_MAX];
    char label[FAULT_LABEL];
    const char *below;
    int saved = errno;
    int rc = 0;

    if (!is_watched())
        return 0;
    below = below_data(dir_fd, name, path);
    if (below) {
        (void)snprintf(label, sizeof(label), "%s ", call);
        put_path(label, sizeof(label), below);
        rc = step(label, need);
    }
    errno = saved;
    return rc;
}

static int step_fd(const char *call, int fd, enum need need)
{
    return step_path(call, fd, NULL, need);
}

/* --- what is intercepted; the C library's parameters have reserved names --- */
/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) */

#define REAL(name)                                                                                 \
    static __typeof__(name) *real;                                                                 \
    if (!real)                                                                                     \
        real = dlsym(RTLD_NEXT, #name);

#define REFUSE_OR(refusal, call)                                                                   \
    do {                                                                                           \
        int why_ = (refusal);                                                                      \
        if (why_) {                                                                                \
            errno = why_;                                                                          \
            return -1;                                                                             \
        }                                                                                          \
        return call;                                                                               \
    } while (0)

/* What is written over needs no room. */
static enum need need_at(int fd, off64_t end)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && end <= st.st_blocks * 512 ? NO_ROOM : ROOM;
}

ssize_t write(int fd, const void *data, size_t n)
{
    REAL(write)
    REFUSE_OR(step_fd("write", fd, ROOM), real(fd, data, n));
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    REAL(pwrite64)
    REFUSE_OR(step_fd("pwrite", fd, need_at(fd, at + (off64_t)n)), real(fd, data, n, at));
}

int fsync(int fd)
{
    REAL(fsync)
    REFUSE_OR(step_fd("sync", fd, NO_ROOM), real(fd));
}

int fdatasync(int fd)
{
    REAL(fdatasync)
    REFUSE_OR(step_fd("sync", fd, NO_ROOM), real(fd));
}

int ftruncate64(int fd, off64_t size)
{
    REAL(ftruncate64)
    REFUSE_OR(step_fd("ftruncate", fd, NO_ROOM), real(fd, size));
}

int fallocate64(int fd, int mode, off64_t at, off64_t n)
{
    REAL(fallocate64)
    REFUSE_OR(step_fd("fallocate", fd, ROOM), real(fd, mode, at, n));
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t n, unsigned flags)
{
    REAL(copy_file_range)
    REFUSE_OR(step_fd("copy_file_range", to, ROOM), real(from, at, to, to_at, n, flags));
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    REAL(renameat)
    REFUSE_OR(step_path("renameat", to_fd, to, ROOM), real(from_fd, from, to_fd, to));
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    REAL(renameat2)
    REFUSE_OR(step_path("renameat", to_fd, to, ROOM), real(from_fd, from, to_fd, to, flags));
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    REAL(linkat)
    REFUSE_OR(step_path("linkat", to_fd, to, ROOM), real(from_fd, from, to_fd, to, flags));
}

int mkdirat(int fd, const char *name, mode_t mode)
{
    REAL(mkdirat)
    REFUSE_OR(step_path("mkdirat", fd, name, ROOM), real(fd, name, mode));
}

/* Removing is never refused for want of room. */
int unlinkat(int fd, const char *name, int flags)
{
    REAL(unlinkat)
    (void)step_path("unlinkat", fd, name, NO_ROOM);
    return real(fd, name, flags);
}

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
    const struct sockaddr_un *local = (const struct sockaddr_un *)(const void *)address;

    REAL(bind)
    REFUSE_OR(address->sa_family == AF_UNIX ? step_path("bind", AT_FDCWD, local->sun_path, ROOM)
                                            : 0,
              real(fd, address, size));
}

static int step_open(int fd, const char *name, int flags)
{
    return flags & O_CREAT ? step_path("create", fd, name, ROOM) : 0;
}

int openat64(int fd, const char *name, int flags, ...)
{
    mode_t mode = 0;

    REAL(openat64)
    if (flags & O_CREAT) {
        va_list more;

        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    REFUSE_OR(step_open(fd, name, flags), real(fd, name, flags, mode));
}

int open64(const char *name, int flags, ...)
{
    mode_t mode = 0;

    REAL(open64)
    if (flags & O_CREAT) {
        va_list more;

        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    REFUSE_OR(step_open(AT_FDCWD, name, flags), real(name, flags, mode));
}

int ioctl(int fd, unsigned long request, ...)
{
    void *argument;
    va_list more;

    REAL(ioctl)
    va_start(more, request);
    argument = va_arg(more, void *);
    va_end(more);
    REFUSE_OR(request == FICLONE ? step_fd("clone", fd, ROOM) : 0, real(fd, request, argument));
}

/* The commands of a job to its QEMU; the loop's own monitor uses send(). */
ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
    static const char key[] = "\"execute\":\"";
    char label[FAULT_LABEL];
    const char *name = NULL;

    REAL(sendmsg)
    if (is_watched() && msg->msg_iovlen == 1)
        name = memmem(msg->msg_iov->iov_base, msg->msg_iov->iov_len, key, sizeof(key) - 1);
    if (name) {
        name += sizeof(key) - 1;
        (void)snprintf(label, sizeof(label), "qmp %.*s", (int)strcspn(name, "\""), name);
        (void)step(label, NO_ROOM);
    }
    return real(fd, msg, flags);
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
