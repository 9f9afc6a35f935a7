/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/proc.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/parse.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

enum {
    FIRST_PASSED_FD = 3,
    MAX_PASSED_FDS = 24,
    SAFE_FD = FIRST_PASSED_FD + MAX_PASSED_FDS, /* above every number we dup2() onto */
    TRACER_POLL_MS = 1,                         /* a tracer's letting go wakes no pidfd */
};

int proc_pidfd(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

pid_t proc_pid(int pidfd, struct err *e)
{
    auto_buf struct buf text = BUF(4096);
    char path[64];
    char *field;
    uint64_t pid;

    (void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
    if (file_read(AT_FDCWD, path, &text, e) < 0)
        return -1;
    field = text.data ? strstr(text.data, "\nPid:\t") : NULL;
    if (!field)
        return err_set(e, ERR_INTERNAL, "%s names no process", path);
    field += strlen("\nPid:\t");
    field[strcspn(field, "\n")] = '\0';
    if (!parse_u64(field, 1, INT32_MAX, &pid))
        return err_set(e, ERR_INTERNAL, "the process is gone");
    return (pid_t)pid;
}

/* Fields of /proc/PID/stat by their numbers in proc(5). Only the second, comm, may hold blanks and
 * ')', so they are counted from the last ')'. */
enum { STAT_UTIME = 14, STAT_STIME = 15, STAT_START = 22, STAT_VSIZE = 23, STAT_RSS = 24, N_STAT };

static bool parse_stat(char *text, uint64_t out[N_STAT])
{
    char *field = strrchr(text, ')');
    char *rest = field ? field + 1 : NULL;

    for (int i = 3; i < N_STAT; i++) {
        if (!rest)
            return false;
        rest += strspn(rest, " ");
        field = rest;
        rest = strpbrk(field, " \n");
        if (rest)
            *rest++ = '\0';
        /* Some are negative or no numbers: none of those that we name. */
        if (!parse_u64(field, 0, UINT64_MAX, &out[i]))
            out[i] = 0;
    }
    return true;
}

static int read_stat(pid_t pid, uint64_t out[N_STAT], struct err *e)
{
    auto_close int fd = -1;
    char path[64];
    char text[1024];
    ssize_t n;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, "open %s", path);
    n = read(fd, text, sizeof(text) - 1);
    if (n < 0)
        return err_errno(e, "read %s", path);
    text[n] = '\0';
    if (!parse_stat(text, out))
        return err_set(e, ERR_INTERNAL, "%s is not in the expected form", path);
    return 0;
}

static int read_start_ticks(pid_t pid, uint64_t *out, struct err *e)
{
    uint64_t stat[N_STAT];

    if (read_stat(pid, stat, e) < 0)
        return -1;
    *out = stat[STAT_START];
    return 0;
}

int proc_usage(const struct proc_id *id, struct proc_usage *out, struct err *e)
{
    uint64_t stat[N_STAT];

    if (read_stat(id->pid, stat, e) < 0)
        return -1;
    if (stat[STAT_START] != id->start_ticks)
        return err_set(e, ERR_NOT_FOUND, "process %d is gone", (int)id->pid);
    *out = (struct proc_usage){
        .cpu_ms = (stat[STAT_UTIME] + stat[STAT_STIME]) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK),
        .virtual_bytes = stat[STAT_VSIZE],
        .resident_bytes = stat[STAT_RSS] * (uint64_t)sysconf(_SC_PAGESIZE),
    };
    return 0;
}

/* What the child needs, all of it prepared before the fork. */
struct child {
    const struct proc_spec *spec;
    int std_fds[3];
    int report_fd; /* gets errno when exec was not reached; CLOEXEC otherwise */
};

/*
 * Runs in the child, which borrows the parent's memory until it calls exec: only
 * async-signal-safe calls, no allocation, no logging, and nothing is written but
 * its own frame.
 */
static void exec_child(const struct child *child)
{
    const struct proc_spec *spec = child->spec;
    int moved[MAX_PASSED_FDS];
    int std_fds[3];
    int report_fd = child->report_fd;
    sigset_t none;
    int error;

    sigemptyset(&none);
    for (int sig = 1; sig < NSIG; sig++)
        (void)signal(sig, SIG_DFL);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)setsid();
    if (spec->cwd_fd >= 0 && fchdir(spec->cwd_fd) < 0)
        goto fail;

    /* First out of the way, then into place, so that no source is overwritten. */
    for (size_t i = 0; i < spec->n_pass_fds; i++) {
        moved[i] = fcntl(spec->pass_fds[i], F_DUPFD_CLOEXEC, SAFE_FD);
        if (moved[i] < 0)
            goto fail;
    }
    for (int i = 0; i < 3; i++) {
        std_fds[i] = fcntl(child->std_fds[i], F_DUPFD_CLOEXEC, SAFE_FD);
        if (std_fds[i] < 0)
            goto fail;
    }
    report_fd = fcntl(child->report_fd, F_DUPFD_CLOEXEC, SAFE_FD);
    if (report_fd < 0) {
        report_fd = child->report_fd;
        goto fail;
    }
    for (int i = 0; i < 3; i++) {
        if (dup2(std_fds[i], i) < 0)
            goto fail;
    }
    for (size_t i = 0; i < spec->n_pass_fds; i++) {
        if (dup2(moved[i], FIRST_PASSED_FD + (int)i) < 0)
            goto fail;
    }
    if (syscall(SYS_close_range, FIRST_PASSED_FD + spec->n_pass_fds, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
        goto fail;
    execv(spec->argv->v[0], spec->argv->v);
fail:
    error = errno;
    (void)!write(report_fd, &error, sizeof(error));
    _exit(127);
}

/*
 * vfork: the cost does not grow with our memory (a fork of 2 GiB takes 35 ms).
 * Signals are blocked around it, so no handler of ours runs in the child.
 */
static pid_t __attribute__((noinline)) fork_child(const struct child *child)
{
    sigset_t all;
    sigset_t saved;
    pid_t pid;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    pid = vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork): see above */
    if (pid == 0)
        exec_child(child);
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    return pid;
}

/* Whether exec was reached: the pipe closes silently, or carries the child's errno. */
static int await_exec(int report_fd)
{
    int child_error = 0;
    ssize_t n;

    do
        n = read(report_fd, &child_error, sizeof(child_error));
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof(child_error) ? child_error : 0;
}

int proc_spawn(const struct proc_spec *spec, struct proc_id *id_out, struct err *e)
{
    auto_close int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    auto_close int report_read = -1;
    auto_close int report_write = -1;
    auto_close int pidfd = -1;
    struct child child = {.spec = spec};
    struct proc_id id = {0};
    int pipe_fds[2];
    int child_error;

    assert(spec->n_pass_fds <= MAX_PASSED_FDS);
    if (null_fd < 0)
        return err_errno(e, "open /dev/null");
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return err_errno(e, "pipe");
    report_read = pipe_fds[0];
    report_write = pipe_fds[1];
    child.report_fd = report_write;
    child.std_fds[0] = spec->stdin_fd >= 0 ? spec->stdin_fd : null_fd;
    child.std_fds[1] = spec->stdout_fd >= 0 ? spec->stdout_fd : null_fd;
    child.std_fds[2] = spec->stderr_fd >= 0 ? spec->stderr_fd : null_fd;

    id.pid = fork_child(&child);
    if (id.pid < 0)
        return err_errno(e, "fork");
    pidfd = proc_pidfd(id.pid); /* not reaped yet, so the pid still names our child */
    close(take_fd(&report_write));
    child_error = await_exec(report_read);
    if (child_error) {
        (void)waitpid(id.pid, NULL, 0);
        errno = child_error;
        return err_errno(e, "run %s", spec->argv->v[0]);
    }
    if (pidfd < 0 || read_start_ticks(id.pid, &id.start_ticks, e) < 0) {
        (void)kill(id.pid, SIGKILL);
        (void)waitpid(id.pid, NULL, 0);
        return pidfd < 0 ? err_set(e, ERR_INTERNAL, "pidfd_open failed") : -1;
    }
    *id_out = id;
    return take_fd(&pidfd);
}

int proc_identify(pid_t pid, struct proc_id *out, struct err *e)
{
    struct proc_id id = {.pid = pid};

    if (read_start_ticks(pid, &id.start_ticks, e) < 0)
        return -1;
    *out = id;
    return 0;
}

int proc_adopt(const struct proc_id *id, struct err *e)
{
    auto_close int pidfd = proc_pidfd(id->pid);
    struct proc_id now;

    if (pidfd < 0 && errno == ESRCH)
        return err_set(e, ERR_NOT_FOUND, "process %d is gone", (int)id->pid);
    if (pidfd < 0)
        return err_errno(e, "open process %d", (int)id->pid);

    /* Checked after the pidfd pinned the process: in the other order a pid could be reused. */
    if (proc_identify(id->pid, &now, e) < 0)
        return -1;
    if (now.start_ticks != id->start_ticks)
        return err_set(e, ERR_NOT_FOUND, "process %d is gone", (int)id->pid);
    return take_fd(&pidfd);
}

int proc_signal(int pidfd, int sig, struct err *e)
{
    if (syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0 && errno != ESRCH)
        return err_errno(e, "send signal %d", sig);
    return 0;
}

bool proc_reap(int pidfd, struct proc_exit *out)
{
    siginfo_t info = {0};

    *out = (struct proc_exit){0};
    if (waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0)
        return true; /* not our child */
    if (info.si_pid == 0)
        return false;
    *out = (struct proc_exit){
        .known = true,
        .code = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status,
    };
    return true;
}

int proc_wait(const struct op *op, int pidfd, struct proc_exit *out, struct err *e)
{
    if (op_wait(op, pidfd, POLLIN, e) < 0)
        return -1;
    while (!proc_reap(pidfd, out)) {
        if (op_sleep(op, TRACER_POLL_MS, e) < 0)
            return -1;
    }
    return 0;
}

int proc_kill(const struct op *op, int pidfd, struct err *e)
{
    struct proc_exit end;

    return proc_signal(pidfd, SIGKILL, e) < 0 ? -1 : proc_wait(op, pidfd, &end, e);
}

/* Takes the program's output until it closes its end. */
static int collect_output(const struct op *op, int fd, struct buf *out, struct err *e)
{
    char chunk[4096];

    for (;;) {
        ssize_t n;

        if (op_wait(op, fd, POLLIN, e) < 0)
            return -1;
        n = read(fd, chunk, sizeof(chunk));
        if (n == 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return err_errno(e, "read the program's output");
        if (n > 0 && out->len + (size_t)n <= out->max)
            buf_append(out, chunk, (size_t)n);
    }
}

static const char *last_line(struct buf *out)
{
    char *end;

    while (out->len > 0 && (out->data[out->len - 1] == '\n' || out->data[out->len - 1] == ' '))
        out->data[--out->len] = '\0';
    end = out->data ? strrchr(out->data, '\n') : NULL;
    return end ? end + 1 : buf_str(out);
}

int proc_run(const struct op *op, const struct proc_spec *spec, struct buf *out, struct err *e)
{
    auto_close int read_fd = -1;
    auto_close int write_fd = -1;
    auto_close int pidfd = -1;
    struct proc_spec with_output = *spec;
    struct op last_moment = {.cancel_fd = -1};
    struct err ignored = {0};
    struct proc_id id;
    struct proc_exit end;
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_errno(e, "pipe");
    read_fd = fds[0];
    write_fd = fds[1];
    if (spec->stdout_fd < 0)
        with_output.stdout_fd = write_fd;
    with_output.stderr_fd = write_fd;
    pidfd = proc_spawn(&with_output, &id, e);
    if (pidfd < 0)
        return -1;
    close(take_fd(&write_fd));
    if (collect_output(op, read_fd, out, e) < 0 || proc_wait(op, pidfd, &end, e) < 0) {
        last_moment.deadline_ms = clock_ms() + 10000;
        (void)proc_kill(&last_moment, pidfd, &ignored);
        return err_wrap(e, "run %s", spec->argv->v[0]);
    }
    if (end.code != 0)
        return err_set(e,
                       ERR_INTERNAL,
                       "%s ended with status %d: %s",
                       spec->argv->v[0],
                       end.code,
                       last_line(out));
    return 0;
}
