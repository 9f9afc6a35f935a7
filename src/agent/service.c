/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/service.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/launch.h"
#include "agent/sys.h"
#include "base/cleanup.h"
#include "base/mem.h"

#define PROGRAM "/run/hypeman/agent"
#define SERVED "/run/hypeman/served"
#define UNITS "/run/systemd/system"
#define WANTS UNITS "/sysinit.target.wants"
#define UNIT "hypeman-agent.service"

/* Of the signals as systemd's libc counts them, which keeps two for itself. */
enum { SYSTEMD_REBOOT = 34 + 5 };

static const char unit[] = "[Unit]\n"
                           "Description=Agent of the hypeman host\n"
                           "DefaultDependencies=no\n"
                           "Conflicts=shutdown.target\n"
                           "Before=shutdown.target\n"
                           "[Service]\n"
                           "ExecStart=" PROGRAM " " SERVICE_WORD "\n"
                           "Restart=always\n"
                           "KillMode=process\n"
                           "StandardOutput=null\n"
                           "StandardError=journal\n";

static const char *command_of(const struct guest_config *c)
{
    return c->entrypoint.n ? c->entrypoint.v[0] : c->cmd.n ? c->cmd.v[0] : "";
}

bool init_is_wanted(const struct guest_config *c)
{
    static const char *const inits[] = {"/sbin/init",
                                        "/usr/sbin/init",
                                        "/lib/systemd/systemd",
                                        "/usr/lib/systemd/systemd",
                                        "/bin/systemd",
                                        "/usr/bin/systemd"};

    for (size_t i = 0; i < sizeof(inits) / sizeof(inits[0]); i++) {
        if (strcmp(command_of(c), inits[i]) == 0)
            return true;
    }
    return false;
}

int init_prepare(struct err *e)
{
    if (make_dirs("/run", e) < 0)
        return -1;
    if (mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=20%") < 0)
        return err_errno(e, "mount /run");
    return 0;
}

static int copy_self(struct err *e)
{
    auto_close int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    auto_close int to = -1;

    if (make_dirs("/run/hypeman", e) < 0)
        return -1;
    to = open(PROGRAM, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    if (from < 0 || to < 0)
        return err_errno(e, "make %s", PROGRAM);
    while (true) {
        ssize_t n = sendfile(to, from, NULL, 1 << 30);

        if (n < 0)
            return err_errno(e, "write %s", PROGRAM);
        if (n == 0)
            return 0;
    }
}

static int put_unit(struct err *e)
{
    if (make_dirs(WANTS, e) < 0)
        return -1;
    if (!replace_text(UNITS "/" UNIT, unit) || symlink("../" UNIT, WANTS "/" UNIT) < 0)
        return err_errno(e, "make %s", UNIT);
    return 0;
}

static bool is_systemd(const char *command)
{
    auto_free char *path = realpath(command, NULL);

    return path && strstr(path, "/systemd");
}

/* As PID 1 of its own choosing: signals as they were, and no word from us any more. */
static void become(const struct launch *l)
{
    sigset_t none;

    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)execve(l->command.v[0], l->command.v, l->env.v);
}

int init_become(const struct guest_config *c, int *code_out, struct err *e)
{
    auto_launch struct launch l = LAUNCH;
    struct launch_failure f = {0};

    *code_out = CODE_NOT_EXECUTABLE;
    if (copy_self(e) < 0)
        return -1;
    for (size_t i = 0; i < c->entrypoint.n; i++)
        argv_push(&l.command, c->entrypoint.v[i]);
    for (size_t i = 0; i < c->cmd.n; i++)
        argv_push(&l.command, c->cmd.v[i]);
    launch_env(&l, c);
    if (is_systemd(l.command.v[0])) {
        if (put_unit(e) < 0)
            return -1;
    } else if (fork() == 0) {
        (void)setsid();
        (void)execl(PROGRAM, PROGRAM, SERVICE_WORD, (char *)NULL);
        _exit(1);
    }
    become(&l);
    f.error = errno;
    return launch_explain(&f, l.command.v[0], code_out, e);
}

bool service_is_first(void)
{
    auto_close int fd = open(SERVED, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    return fd >= 0 || errno != EEXIST;
}

void init_stop(void)
{
    auto_buf struct buf name = BUF(64);

    (void)slurp("/proc/1/comm", &name);
    /* A reboot is how our VMs end; busybox's init reboots at a SIGTERM. */
    (void)kill(1, strcmp(buf_str(&name), "systemd\n") == 0 ? SYSTEMD_REBOOT : SIGTERM);
}
