/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/sys.h"
#include "agent/user.h"
#include "base/cleanup.h"

#define CGROUP "/sys/fs/cgroup/workload"
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum { PASSWD_MAX = 1024 * 1024 };

/* Everything the child needs, worked out before the fork. */
struct launch {
    struct argv command;
    struct argv env;
    struct user user;
    const char *workdir;
};

#define auto_launch __attribute__((cleanup(launch_free)))

static void launch_free(struct launch *l)
{
    argv_free(&l->command);
    argv_free(&l->env);
}

static const char *env_get(const struct argv *env, const char *name)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < env->n; i++) {
        if (strncmp(env->v[i], name, n) == 0 && env->v[i][n] == '=')
            return env->v[i] + n + 1;
    }
    return NULL;
}

static void env_default(struct argv *env, const char *name, const char *value)
{
    if (value && *value && !env_get(env, name))
        argv_pushf(env, "%s=%s", name, value);
}

static int find_user(const struct guest_config *c, struct user *out, struct err *e)
{
    auto_buf struct buf passwd = BUF(PASSWD_MAX);
    auto_buf struct buf group = BUF(PASSWD_MAX);

    (void)slurp("/etc/passwd", &passwd);
    (void)slurp("/etc/group", &group);
    return user_resolve(c->user ? c->user : "", buf_str(&passwd), buf_str(&group), out, e);
}

static int prepare(struct launch *l, const struct guest_config *c, struct err *e)
{
    l->workdir = c->workdir && *c->workdir ? c->workdir : "/";
    if (find_user(c, &l->user, e) < 0 || make_dirs(l->workdir, e) < 0)
        return -1;
    for (size_t i = 0; i < c->entrypoint.n; i++)
        argv_push(&l->command, c->entrypoint.v[i]);
    for (size_t i = 0; i < c->cmd.n; i++)
        argv_push(&l->command, c->cmd.v[i]);
    if (l->command.n == 0)
        return err_set(
            e, ERR_INVALID, "nothing to run: there is neither an entrypoint nor a command");
    for (size_t i = 0; i < c->env.n; i++)
        argv_push(&l->env, c->env.v[i]);
    env_default(&l->env, "PATH", DEFAULT_PATH);
    env_default(&l->env, "HOME", l->user.home);
    env_default(&l->env, "HOSTNAME", c->hostname);
    env_default(&l->env, "HYPEMAN_IP", c->network.outer_address);
    return 0;
}

/* Without the memory controller there is still a group to freeze and to look into. */
static void make_cgroup(struct workload *w)
{
    (void)write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
    (void)mkdir(CGROUP, 0755);
    w->cgroup_fd = open(CGROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* What the child could not do, over a pipe that its exec closes. */
struct failure {
    int error;
    char what[64];
};

static _Noreturn void child_fail(int report_fd, const char *what)
{
    struct failure f = {.error = errno};

    (void)snprintf(f.what, sizeof(f.what), "%s", what);
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

static _Noreturn void child(const struct launch *l, int report_fd)
{
    const char *path = env_get(&l->env, "PATH");
    sigset_t none;

    (void)setsid();
    limits();
    (void)umask(022);
    /* So that /dev/stdout can be opened again by a program that is not root. */
    (void)fchown(STDOUT_FILENO, l->user.uid, (gid_t)-1);
    if (chdir(l->workdir) < 0)
        child_fail(report_fd, "enter the working directory");
    if (setgroups(l->user.groups_n, l->user.groups) < 0 || setgid(l->user.gid) < 0 ||
        setuid(l->user.uid) < 0)
        child_fail(report_fd, "become the user");
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (strchr(l->command.v[0], '/'))
        (void)execve(l->command.v[0], l->command.v, l->env.v);
    else
        exec_in_path(l, path ? path : "");
    child_fail(report_fd, "");
}

/* Turns the child's report into an error and a shell's code. */
static int explain(const struct failure *f, const struct launch *l, int *code_out, struct err *e)
{
    const char *name = l->command.v[0];
    bool is_path = strchr(name, '/') != NULL;

    errno = f->error;
    if (f->what[0])
        return err_errno(e, "cannot run \"%s\": %s", name, f->what);
    if (f->error != ENOENT && f->error != ENOTDIR)
        return err_errno(e, "cannot run \"%s\"", name);
    *code_out = CODE_NOT_FOUND;
    if (!is_path)
        return err_set(e, ERR_NOT_FOUND, "cannot run \"%s\": it is not in PATH", name);
    if (name[0] == '/' && access(name, F_OK) == 0)
        return err_set(e,
                       ERR_NOT_FOUND,
                       "cannot run \"%s\": it is there, but not the interpreter that it names",
                       name);
    return err_errno(e, "cannot run \"%s\"", name);
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

static int launch(struct workload *w, const struct launch *l, int *code_out, struct err *e)
{
    struct failure f = {0};
    int ends[2];
    ssize_t n;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_errno(e, "make a pipe");

    auto_close int from_child = ends[0];
    auto_close int to_parent = ends[1];

    w->pid = fork_into(w->cgroup_fd);
    if (w->pid < 0)
        return err_errno(e, "fork");
    if (w->pid == 0)
        child(l, to_parent);
    (void)close(take_fd(&to_parent));
    n = read(from_child, &f, sizeof(f));
    if (n == 0)
        return 0;
    (void)waitpid(w->pid, NULL, 0);
    w->pid = -1;
    return n == sizeof(f) ? explain(&f, l, code_out, e) : err_errno(e, "hear from the child");
}

int workload_start(struct workload *w, const struct guest_config *c, int *code_out, struct err *e)
{
    auto_launch struct launch l = {0};

    *w = (struct workload){.pid = -1, .cgroup_fd = -1};
    *code_out = CODE_NOT_EXECUTABLE;
    if (prepare(&l, c, e) < 0)
        return -1;
    make_cgroup(w);
    return launch(w, &l, code_out, e);
}

/* Whether the kernel killed anything of the workload for want of memory. */
static bool had_oom(const struct workload *w)
{
    auto_close int fd = openat(w->cgroup_fd, "memory.events", O_RDONLY | O_CLOEXEC);
    char text[512] = {0};
    const char *at;

    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
        return false;
    at = strstr(text, "oom_kill ");
    return at && at[strlen("oom_kill ")] != '0';
}

void workload_ended(const struct workload *w, int status, struct exit_record *r)
{
    r->oom = had_oom(w);
    if (!WIFSIGNALED(status)) {
        r->code = WEXITSTATUS(status);
        return;
    }
    r->signal = WTERMSIG(status);
    r->code = 128 + r->signal;
    (void)snprintf(r->message,
                   sizeof(r->message),
                   "%s by signal %d (%s)",
                   r->oom ? "out of memory: killed" : "killed",
                   r->signal,
                   strsignal(r->signal));
}
