/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/workload.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/launch.h"
#include "agent/sys.h"
#include "base/cleanup.h"
#include "base/mem.h"
#include "base/parse.h"

#define CGROUP "/sys/fs/cgroup/workload"

static int prepare(struct launch *l, const struct guest_config *c, struct err *e)
{
    l->workdir = mem_strdup(c->workdir && *c->workdir ? c->workdir : "/");
    if (launch_user(l, c->user, e) < 0 || make_dirs(l->workdir, e) < 0)
        return -1;
    for (size_t i = 0; i < c->entrypoint.n; i++)
        argv_push(&l->command, c->entrypoint.v[i]);
    for (size_t i = 0; i < c->cmd.n; i++)
        argv_push(&l->command, c->cmd.v[i]);
    if (l->command.n == 0)
        return err_set(
            e, ERR_INVALID, "nothing to run: there is neither an entrypoint nor a command");
    launch_env(l, c);
    return 0;
}

/* Without the memory controller there is still a group to freeze and to look into. */
static void make_cgroup(struct workload *w)
{
    (void)write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
    (void)mkdir(CGROUP, 0755);
    w->cgroup_fd = open(CGROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int workload_start(struct workload *w, const struct guest_config *c, int *code_out, struct err *e)
{
    auto_launch struct launch l = LAUNCH;
    auto_close int report_fd = -1;
    struct launch_failure f = {0};
    ssize_t n;

    *w = (struct workload){.pid = -1, .cgroup_fd = -1};
    *code_out = CODE_NOT_EXECUTABLE;
    if (prepare(&l, c, e) < 0)
        return -1;
    make_cgroup(w);
    l.cgroup_fd = w->cgroup_fd;
    w->pid = launch_begin(&l, &report_fd, e);
    if (w->pid < 0)
        return -1;
    n = read(report_fd, &f, sizeof(f));
    if (n == 0)
        return 0;
    (void)waitpid(w->pid, NULL, 0);
    w->pid = -1;
    return n == sizeof(f) ? launch_explain(&f, l.command.v[0], code_out, e)
                          : err_errno(e, "hear from the child");
}

uint64_t workload_oom_kills(int cgroup_fd)
{
    auto_close int fd = openat(cgroup_fd, "memory.events", O_RDONLY | O_CLOEXEC);
    char text[512] = {0};
    char *at;
    uint64_t n = 0;

    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
        return 0;
    at = strstr(text, "oom_kill ");
    if (!at)
        return 0;
    at += strlen("oom_kill ");
    at[strcspn(at, "\n")] = '\0';
    return parse_u64(at, 0, UINT64_MAX, &n) ? n : 0;
}

void workload_ended(const struct workload *w, int status, struct exit_record *r)
{
    r->oom = workload_oom_kills(w->cgroup_fd) > 0;
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
