/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's PID 1: boots the image, runs the workload, tells the host.
 *
 * It stays one process with one loop. All it ever waits for is a signal (a child
 * ended, somebody wants the machine to stop) or the host; an idle guest sleeps.
 * The host learns of the end in two ways: the exit record on the config disk,
 * first, which waits there for a daemon that is not running, and a frame.
 * The VM always ends by a reboot, which every hypervisor was told to take as an end.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "agent/channel.h"
#include "agent/config.h"
#include "agent/freeze.h"
#include "agent/identity.h"
#include "agent/jread.h"
#include "agent/modules.h"
#include "agent/net.h"
#include "agent/rootfs.h"
#include "agent/sys.h"
#include "agent/workload.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/jout.h"

enum {
    DISK_WAIT_MS = 5000,
    REPORT_MS = 200,  /* how long the end of the VM waits for the host to take the report */
    KILLED_MS = 2000, /* and for killed processes to be gone */
    KILL_AGAIN_MS = 200,
    GRACE_MS = 5000, /* when it is not the host that asks */
    GRACE_MAX_MS = 3600 * 1000,
};

struct agent {
    struct guest_config config;
    struct channel channel;
    struct workload workload;
    int config_fd;   /* the config disk, past the page cache */
    int writable_fd; /* the writable disk's file system */
    int signal_fd;
    int epoll_fd;
    int64_t started_at_us; /* 0: it has not started */
    int64_t kill_at_ms;    /* 0: nobody asked for the end */
    bool is_frozen;        /* the workload is; also in what wakes from a snapshot */
    bool has_failed;       /* we could not get to the workload */
    bool has_ended;
    struct exit_record exit;
};

static void read_config(struct agent *a, struct err *e)
{
    auto_buf struct buf text = BUF(CONFIG_OFFSET + CONFIG_MAX + EXIT_SECTOR);
    const char *json;
    size_t len;

    if (!wait_for("/dev/vdc", DISK_WAIT_MS) || !slurp("/dev/vdc", &text)) {
        err_errno(e, "read the config disk /dev/vdc");
        return;
    }
    a->config_fd = open("/dev/vdc", O_WRONLY | O_DIRECT | O_CLOEXEC);
    if (text.len < CONFIG_OFFSET)
        err_set(e, ERR_INVALID, "the config disk is too small");
    else if (config_disk_find((const unsigned char *)text.data + CONFIG_OFFSET,
                              text.len - CONFIG_OFFSET,
                              &json,
                              &len,
                              e) == 0)
        (void)guest_config_parse(json, len, &a->config, e);
}

static int bring_up(struct agent *a, struct err *e)
{
    if (mount_kernel_filesystems(e) < 0 || modules_load(e) < 0)
        return -1;
    read_config(a, e);
    if (e->code != ERR_NONE)
        return -1;
    a->exit.incarnation = a->config.incarnation;
    a->writable_fd = rootfs_enter(e);
    if (a->writable_fd < 0)
        return -1;
    set_hostname(a->config.hostname, a->config.network.address);
    network_files(&a->config.network);
    return network_up(&a->config.network, e);
}

static int watch(struct agent *a, struct err *e)
{
    struct epoll_event signals = {.events = EPOLLIN};
    struct epoll_event port = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGINT); /* Ctrl-Alt-Delete, once the kernel leaves it to us */
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1); /* halt, poweroff and reboot of a busybox send these */
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGPWR);
    a->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    sigaddset(&set, SIGPIPE);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    (void)reboot(RB_DISABLE_CAD);
    a->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (a->signal_fd < 0 || a->epoll_fd < 0 ||
        epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, a->signal_fd, &signals) < 0 ||
        (a->channel.fd >= 0 && epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, a->channel.fd, &port) < 0))
        return err_errno(e, "watch for signals and the host");
    return 0;
}

static void report_started(struct agent *a)
{
    auto_buf struct buf text = BUF(256);
    struct jout j = JOUT(&text);

    jout_open(&j, NULL, '{');
    jout_int(&j, "at_us", a->started_at_us);
    jout_str(&j, "mode", "exec");
    jout_close(&j, '}');
    channel_put(&a->channel, FRAME_STARTED, &text);
}

static void report_end(struct agent *a)
{
    auto_buf struct buf text = BUF(4096);

    if (a->has_failed) {
        struct jout j = JOUT(&text);

        jout_open(&j, NULL, '{');
        jout_str(&j, "message", a->exit.message);
        jout_close(&j, '}');
        channel_put(&a->channel, FRAME_FAILED, &text);
        buf_reset(&text);
    }
    exit_record_json(&text, &a->exit);
    channel_put(&a->channel, FRAME_EXITED, &text);
}

static void handle_hello(struct agent *a, const struct frame *f)
{
    struct jread j = JREAD((const char *)f->data, f->len);
    auto_free char *nonce = NULL;

    jread_object(&j);
    for (char *key; (key = jread_key(&j)); free(key)) {
        if (strcmp(key, "nonce") == 0)
            jread_text(&j, &nonce);
        else
            jread_skip(&j); /* our answer says which version we speak; the host adapts */
    }
    if (!jread_done(&j) || !nonce || strlen(nonce) != WIRE_NONCE_LEN)
        return;
    channel_hello(&a->channel, nonce);
    if (a->started_at_us)
        report_started(a);
    if (a->has_ended)
        report_end(a);
}

/* All of them, as an init does it: what a shell left behind too. */
static void stop(struct agent *a, int64_t grace_ms)
{
    int64_t at = clock_ms() + (grace_ms < GRACE_MAX_MS ? grace_ms : GRACE_MAX_MS);

    if (a->kill_at_ms == 0 || at < a->kill_at_ms)
        a->kill_at_ms = at;
    if (grace_ms > 0)
        (void)kill(-1, SIGTERM);
}

static void handle_shutdown(struct agent *a, const struct frame *f)
{
    struct jread j = JREAD((const char *)f->data, f->len);
    int64_t grace_ms = GRACE_MS;

    jread_object(&j);
    for (char *key; (key = jread_key(&j)); free(key)) {
        if (strcmp(key, "grace_ms") == 0)
            grace_ms = jread_int(&j);
        else
            jread_skip(&j);
    }
    if (jread_done(&j) && grace_ms >= 0)
        stop(a, grace_ms);
}

static int set_frozen(struct agent *a, bool frozen, struct err *e)
{
    if (frozen == a->is_frozen)
        return 0;
    if (cgroup_freeze(a->workload.cgroup_fd, frozen, e) == 0) {
        a->is_frozen = frozen;
        return 0;
    }
    if (frozen) /* those that stand still already */
        (void)cgroup_freeze(a->workload.cgroup_fd, false, &(struct err){0});
    return -1;
}

static void handle_freeze(struct agent *a, const struct frame *f)
{
    struct jread j = JREAD((const char *)f->data, f->len);
    auto_buf struct buf text = BUF(1024);
    struct jout answer = JOUT(&text);
    struct err e = {0};
    int64_t serial = 0;

    jread_object(&j);
    for (char *key; (key = jread_key(&j)); free(key)) {
        if (strcmp(key, "serial") == 0)
            serial = jread_int(&j);
        else
            jread_skip(&j);
    }
    if (!jread_done(&j))
        return;
    if (set_frozen(a, serial != 0, &e) < 0)
        say("%s", e.msg);
    if (serial == 0)
        return;
    if (a->is_frozen)
        (void)tcdrain(STDOUT_FILENO); /* what it has printed is this machine's, not a fork's */
    jout_open(&answer, NULL, '{');
    jout_int(&answer, "serial", serial);
    jout_bool(&answer, "frozen", a->is_frozen);
    jout_str(&answer, "message", e.msg);
    jout_close(&answer, '}');
    channel_put(&a->channel, FRAME_FROZEN, &text);
}

static void handle_identity(struct agent *a, const struct frame *f)
{
    struct err e = {0};

    if (identity_apply((const char *)f->data, f->len, a->config.network.address, &e) < 0 ||
        set_frozen(a, false, &e) < 0)
        say("%s", e.msg);
}

static void handle_frames(struct agent *a)
{
    struct frame f;

    while (channel_next(&a->channel, &f)) {
        if (f.type == FRAME_HELLO)
            handle_hello(a, &f);
        else if (!a->channel.is_ours)
            continue;
        else if (f.type == FRAME_IDENTITY)
            handle_identity(a, &f);
        else if (f.type == FRAME_SHUTDOWN)
            handle_shutdown(a, &f);
        else if (f.type == FRAME_FREEZE)
            handle_freeze(a, &f);
    }
}

static void handle_signals(struct agent *a)
{
    struct signalfd_siginfo s;

    while (read(a->signal_fd, &s, sizeof(s)) == sizeof(s)) {
        if (s.ssi_signo != SIGCHLD)
            stop(a, GRACE_MS);
    }
}

/* Everybody's children end up as ours. False when there are none left. */
static bool reap(struct agent *a)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != a->workload.pid)
            continue;
        workload_ended(&a->workload, status, &a->exit);
        a->exit.at_us = wall_us();
        a->has_ended = true;
    }
    return pid == 0;
}

/* Waits for whatever comes first and deals with all of it. */
static void turn(struct agent *a, int64_t until_ms)
{
    struct epoll_event events[2];
    int64_t left = until_ms - clock_ms();
    int timeout = until_ms == 0 ? -1 : left < 0 ? 0 : left < INT_MAX ? (int)left : INT_MAX;

    (void)epoll_wait(a->epoll_fd, events, 2, timeout);
    handle_signals(a);
    handle_frames(a);
}

static void run(struct agent *a)
{
    handle_frames(a); /* what came before the port was watched */
    while (!a->has_ended) {
        turn(a, a->kill_at_ms);
        (void)reap(a);
        if (a->kill_at_ms && clock_ms() >= a->kill_at_ms && !a->has_ended) {
            (void)kill(-1, SIGKILL);
            a->kill_at_ms = clock_ms() + KILL_AGAIN_MS; /* some may have been born meanwhile */
        }
    }
}

static void write_exit_record(struct agent *a)
{
    static _Alignas(EXIT_SECTOR) unsigned char sector[EXIT_SECTOR];

    exit_sector_make(sector, &a->exit);
    if (pwrite(a->config_fd, sector, sizeof(sector), 0) != sizeof(sector))
        say("the exit record was not written: %m");
}

/* Gives a host that is there a moment to take the report; one that is not finds the record. */
static void deliver_report(struct agent *a)
{
    int64_t until = clock_ms() + REPORT_MS;

    report_end(a);
    while (a->channel.is_up && (!a->channel.is_ours || a->channel.out.len > 0) &&
           clock_ms() < until)
        turn(a, until);
}

static _Noreturn void end(struct agent *a)
{
    int64_t until = clock_ms() + KILLED_MS;

    if (a->config_fd >= 0)
        write_exit_record(a);
    if (a->epoll_fd >= 0)
        deliver_report(a);
    (void)kill(-1, SIGKILL);
    while (a->epoll_fd >= 0 && reap(a) && clock_ms() < until)
        turn(a, until);
    (void)tcdrain(STDOUT_FILENO); /* its last words, before the machine resets */
    if (a->writable_fd >= 0)
        rootfs_close(a->writable_fd);
    /* The log is the workload's: not a word of the kernel's about restarting. */
    (void)write_text("/proc/sys/kernel/printk", "0");
    (void)reboot(RB_AUTOBOOT);
    _exit(1);
}

static _Noreturn void fail(struct agent *a, int code, const struct err *e)
{
    say("%s", e->msg);
    a->has_ended = true;
    a->exit.code = code;
    a->exit.at_us = wall_us();
    (void)snprintf(a->exit.message, sizeof(a->exit.message), "%.*s", EXIT_MESSAGE_MAX, e->msg);
    end(a);
}

int main(void)
{
    static struct agent a = {
        .config_fd = -1,
        .writable_fd = -1,
        .signal_fd = -1,
        .epoll_fd = -1,
        .workload = {.pid = -1, .cgroup_fd = -1},
    };
    struct err e = {0};
    struct err unwatched = {0};
    int code = CODE_NO_GUEST;

    if (getpid() != 1) {
        say("this is the init of a hypeman guest; it runs as PID 1 and nowhere else");
        return 1;
    }
    a.has_failed = bring_up(&a, &e) < 0;
    /* Before the workload runs: a port is opened once, and what speaks through it must be us. */
    channel_open(&a.channel);
    if (watch(&a, &unwatched) < 0)
        say("%s", unwatched.msg);
    if (a.has_failed || workload_start(&a.workload, &a.config, &code, &e) < 0)
        fail(&a, code, &e);
    a.started_at_us = wall_us();
    run(&a);
    end(&a);
}
