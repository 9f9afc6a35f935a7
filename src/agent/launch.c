/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/sys.h"
#include "base/cleanup.h"
#include "base/mem.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum { PASSWD_MAX = 1024 * 1024 };

void launch_free(struct launch *l)
{
    argv_free(&l->command);
    argv_free(&l->env);
    free(l->workdir);
    l->workdir = NULL;
}

int launch_user(struct launch *l, const char *spec, struct err *e)
{
    auto_buf struct buf passwd = BUF(PASSWD_MAX);
    auto_buf struct buf group = BUF(PASSWD_MAX);

    (void)slurp("/etc/passwd", &passwd);
    (void)slurp("/etc/group", &group);
    return user_resolve(spec ? spec : "", buf_str(&passwd), buf_str(&group), &l->user, e);
}

/* The place of the variable, or one past the last. */
static size_t env_find(const struct argv *env, const char *name, size_t n)
{
    size_t i = 0;

    while (i < env->n && (strncmp(env->v[i], name, n) != 0 || env->v[i][n] != '='))
        i++;
    return i;
}

void launch_setenv(struct launch *l, const char *pair)
{
    size_t i = env_find(&l->env, pair, strcspn(pair, "="));

    if (i == l->env.n) {
        argv_push(&l->env, pair);
        return;
    }
    free(l->env.v[i]);
    l->env.v[i] = mem_strdup(pair);
}

void launch_setenv_default(struct launch *l, const char *name, const char *value)
{
    if (value && *value && env_find(&l->env, name, strlen(name)) == l->env.n)
        argv_pushf(&l->env, "%s=%s", name, value);
}

void launch_env(struct launch *l, const struct guest_config *c)
{
    for (size_t i = 0; i < c->env.n; i++)
        argv_push(&l->env, c->env.v[i]);
    launch_setenv_default(l, "PATH", DEFAULT_PATH);
    launch_setenv_default(l, "HOME", l->user.home);
    launch_setenv_default(l, "HOSTNAME", c->hostname);
    launch_setenv_default(l, "HYPEMAN_IP", c->network.outer_address);
}

static _Noreturn void child_fail(int report_fd, const char *what, const char *which)
{
    struct launch_failure f = {.error = errno};

    (void)snprintf(f.what, sizeof(f.what), "%s%s", what, which);
    (void)!write(report_fd, &f, sizeof(f));
    _exit(CODE_NOT_EXECUTABLE);
}

static void limits(void)
{
    /* What systemd and Docker give: low for those who close all they could have, high for who asks.
     */
    const struct rlimit files = {.rlim_cur = 1024, .rlim_max = 524288};

    (void)setrlimit(RLIMIT_NOFILE, &files);
}

/* Tries each directory of PATH. What exists and cannot be run is a better reason than what is not
 * there. */
static void exec_in_path(const struct launch *l, const char *path)
{
    int reason = ENOENT;

    while (*path) {
        size_t n = strcspn(path, ":");
        char file[4096];

        if ((size_t)snprintf(
                file, sizeof(file), "%.*s/%s", n ? (int)n : 1, n ? path : ".", l->command.v[0]) <
            sizeof(file)) {
            (void)execve(file, l->command.v, l->env.v);
            if (errno != ENOENT && errno != ENOTDIR)
                reason = errno;
        }
        path += n + (path[n] == ':');
    }
    errno = reason;
}

/* Each is above 2, where the report's end is too. */
static void take_stdio(const struct launch *l)
{
    for (int i = 0; i < 3; i++) {
        if (l->stdio[i] >= 0)
            (void)dup2(l->stdio[i], i);
        /* So that /dev/stdout can be opened again by a program that is not root. */
        if (i > 0 || l->stdio[i] >= 0)
            (void)fchown(i, l->user.uid, (gid_t)-1);
    }
    if (l->is_terminal)
        (void)ioctl(STDIN_FILENO, TIOCSCTTY, 0);
}

static _Noreturn void child(const struct launch *l, int report_fd)
{
    size_t path = env_find(&l->env, "PATH", strlen("PATH"));
    sigset_t none;

    (void)setsid();
    give_way(false);
    limits();
    (void)umask(022);
    take_stdio(l);
    if (chdir(l->workdir) < 0)
        child_fail(report_fd, "enter the working directory ", l->workdir);
    if (setgroups(l->user.groups_n, l->user.groups) < 0 || setgid(l->user.gid) < 0 ||
        setuid(l->user.uid) < 0)
        child_fail(report_fd, "become the user", "");
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (strchr(l->command.v[0], '/'))
        (void)execve(l->command.v[0], l->command.v, l->env.v);
    else
        exec_in_path(l, path < l->env.n ? l->env.v[path] + strlen("PATH=") : "");
    child_fail(report_fd, "", "");
}

/*
 * fork(), but born in the cgroup: moving there would wait for all readers of a lock of the
 * kernel's. <linux/sched.h>, which musl's headers do not have.
 */
static pid_t fork_into(int cgroup_fd)
{
    const struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal;
        uint64_t stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    } args = {
        .flags = 0x200000000ULL, /* CLONE_INTO_CGROUP */
        .exit_signal = SIGCHLD,
        .cgroup = (uint64_t)cgroup_fd,
    };

    return cgroup_fd < 0 ? fork() : (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

pid_t launch_begin(const struct launch *l, int *report_fd_out, struct err *e)
{
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) < 0) {
        err_errno(e, "make a pipe");
        return -1;
    }

    auto_close int from_child = ends[0];
    auto_close int to_parent = ends[1];

    pid = fork_into(l->cgroup_fd);
    if (pid == 0)
        child(l, to_parent);
    if (pid < 0)
        err_errno(e, "fork");
    else
        *report_fd_out = take_fd(&from_child);
    return pid;
}

int launch_explain(const struct launch_failure *f, const char *program, int *code_out,
                   struct err *e)
{
    bool is_path = strchr(program, '/') != NULL;

    *code_out = CODE_NOT_EXECUTABLE;
    errno = f->error;
    if (f->what[0])
        return err_errno(e, "cannot run \"%s\": %.*s", program, (int)sizeof(f->what), f->what);
    if (f->error != ENOENT && f->error != ENOTDIR)
        return err_errno(e, "cannot run \"%s\"", program);
    *code_out = CODE_NOT_FOUND;
    if (!is_path)
        return err_set(e, ERR_NOT_FOUND, "cannot run \"%s\": it is not in PATH", program);
    if (program[0] == '/' && access(program, F_OK) == 0)
        return err_set(e,
                       ERR_NOT_FOUND,
                       "cannot run \"%s\": it is there, but not the interpreter that it names",
                       program);
    return err_errno(e, "cannot run \"%s\"", program);
}
