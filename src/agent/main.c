/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's PID 1: boots the image, runs the workload, tells the host.
 *
 * Or, where the image brings an init of its own, a service beside that (service.h).
 * It stays one process with one loop. All it ever waits for is a signal (a child
 * ended, somebody wants the machine to stop) or the host; an idle guest sleeps.
 * The host learns of the end in two ways: the exit record on the config disk,
 * first, which waits there for a daemon that is not running, and a frame.
 * The VM ends by a reboot, which the hypervisor was told to take as an end, or, if the
 * kernel's line has HYPEMAN_END, by a power-off: there a reboot would start it anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/resource.h>
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
#include "agent/launch.h"
#include "agent/modules.h"
#include "agent/net.h"
#include "agent/poller.h"
#include "agent/rootfs.h"
#include "agent/service.h"
#include "agent/stream.h"
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
    FILES = 8192, /* 512 streams with their pipes, and some */
};

struct agent {
    struct guest_config config;
    struct poller poller;
    struct channel channel;
    struct streams streams;
    struct workload workload;
    int config_fd;   /* the config disk, past the page cache */
    int writable_fd; /* the writable disk's file system */
    struct source signals;
    bool is_watching;      /* the poller is there */
    int64_t started_at_us; /* 0: it has not started */
    int64_t kill_at_ms;    /* 0: nobody asked for the end */
    const char *asked_by;  /* who did */
    bool is_service;       /* another init is PID 1, and its end is the guest's */
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
    if (init_is_wanted(&a->config) &&
        (init_prepare(e) < 0 || network_pin(&a->config.network, e) < 0))
        return -1;
    set_hostname(a->config.hostname, a->config.network.address);
    network_files(&a->config.network);
    return network_up(&a->config.network, e);
}

static void report_started(struct agent *a)
{
    auto_buf struct buf text = BUF(256);
    struct jout j = JOUT(&text);

    jout_open(&j, NULL, '{');
    jout_int(&j, "at_us", a->started_at_us);
    jout_str(&j, "mode", a->is_service ? "systemd" : "exec");
    jout_close(&j, '}');
    channel_put(&a->channel, FRAME_STARTED, 0, &text);
}

static void report_end(struct agent *a)
{
    auto_buf struct buf text = BUF(4096);

    if (a->has_failed) {
        struct jout j = JOUT(&text);

        jout_open(&j, NULL, '{');
        jout_str(&j, "message", a->exit.message);
        jout_close(&j, '}');
        channel_put(&a->channel, FRAME_FAILED, 0, &text);
        buf_reset(&text);
    }
    exit_record_json(&text, &a->exit);
    channel_put(&a->channel, FRAME_EXITED, 0, &text);
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
    streams_drop(&a->streams); /* of a connection that we need not have seen end */
    channel_hello(&a->channel, nonce);
    if (a->started_at_us)
        report_started(a);
    if (a->has_ended)
        report_end(a);
}

/* All of them, as an init does it: what a shell left behind too. */
static void stop(struct agent *a, const char *asked_by, int64_t grace_ms)
{
    int64_t at = clock_ms() + (grace_ms < GRACE_MAX_MS ? grace_ms : GRACE_MAX_MS);

    if (a->kill_at_ms == 0 || at < a->kill_at_ms)
        a->kill_at_ms = at;
    if (!a->asked_by)
        a->asked_by = asked_by;
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
    if (!jread_done(&j) || grace_ms < 0)
        return;
    if (!a->is_service) {
        stop(a, "the host", grace_ms);
        return;
    }
    a->asked_by = "the host";
    init_stop();
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
    channel_put(&a->channel, FRAME_FROZEN, 0, &text);
}

static void handle_identity(struct agent *a, const struct frame *f)
{
    struct err e = {0};

    if (identity_apply((const char *)f->data, f->len, a->config.network.address, &e) < 0 ||
        set_frozen(a, false, &e) < 0)
        say("%s", e.msg);
}

static void handle_frames(struct channel *c)
{
    struct agent *a = container_of(c, struct agent, channel);
    struct frame f;

    while (channel_next(c, &f)) {
        if (f.type == FRAME_HELLO)
            handle_hello(a, &f);
        else if (!c->is_ours)
            continue;
        else if (f.type == FRAME_IDENTITY)
            handle_identity(a, &f);
        else if (f.type == FRAME_SHUTDOWN)
            handle_shutdown(a, &f);
        else if (f.type == FRAME_FREEZE)
            handle_freeze(a, &f);
        else if (!a->config.skip_agent)
            streams_frame(&a->streams, &f);
    }
    if (!c->is_up)
        streams_drop(&a->streams);
    streams_settle(&a->streams);
}

static void say_who_asked(struct agent *a)
{
    char how[sizeof(a->exit.message)];

    (void)snprintf(how, sizeof(how), "%s", a->exit.message);
    (void)snprintf(a->exit.message,
                   sizeof(a->exit.message),
                   "asked to end by %s%s%s",
                   a->asked_by,
                   *how ? "; " : "",
                   how);
}

/* Everybody's children end up as ours. False when there are none left. */
static bool reap(struct agent *a)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid != a->workload.pid) {
            streams_reaped(&a->streams, pid, status);
            continue;
        }
        workload_ended(&a->workload, status, &a->exit);
        if (a->asked_by)
            say_who_asked(a);
        a->exit.at_us = wall_us();
        a->has_ended = true;
    }
    return pid == 0;
}

/* The init stops us: the guest goes down, as far as we can tell. */
static void service_ends(struct agent *a)
{
    a->has_ended = true;
    a->exit.is_early = true;
    a->exit.at_us = wall_us();
    if (!a->asked_by)
        a->asked_by = "the guest";
    say_who_asked(a);
}

static void handle_signals(struct source *src, uint32_t events)
{
    struct agent *a = container_of(src, struct agent, signals);
    struct signalfd_siginfo s;

    (void)events;
    while (read(src->fd, &s, sizeof(s)) == sizeof(s)) {
        if (s.ssi_signo == SIGCHLD)
            continue;
        if (a->is_service)
            service_ends(a);
        else
            stop(a, "the guest", GRACE_MS);
    }
    (void)reap(a);
}

static int watch(struct agent *a, struct err *e)
{
    const struct rlimit files = {.rlim_cur = FILES, .rlim_max = FILES};
    sigset_t set;

    (void)setrlimit(RLIMIT_NOFILE, &files); /* what programs get is set for each (launch.h) */
    if (poller_init(&a->poller, e) < 0)
        return -1;
    a->is_watching = true;
    source_init(&a->signals, -1, handle_signals);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGINT); /* Ctrl-Alt-Delete, once the kernel leaves it to us */
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1); /* halt, poweroff and reboot of a busybox send these */
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGPWR);
    a->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    sigaddset(&set, SIGPIPE);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    if (!a->is_service)
        (void)reboot(RB_DISABLE_CAD);
    if (a->signals.fd < 0)
        return err_errno(e, "watch for signals");
    source_want(&a->poller, &a->signals, EPOLLIN);
    /* Before the workload runs: a port is opened once, and what speaks through it must be us. */
    channel_open(&a->channel, &a->poller, handle_frames);
    streams_init(&a->streams, &a->poller, &a->channel, &a->config);
    return 0;
}

static void run(struct agent *a)
{
    while (!a->has_ended) {
        poller_turn(&a->poller, a->kill_at_ms);
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
        poller_turn(&a->poller, until);
}

static _Noreturn void end(struct agent *a)
{
    int64_t until = clock_ms() + KILLED_MS;

    if (a->config_fd >= 0)
        write_exit_record(a);
    if (a->is_watching)
        deliver_report(a);
    (void)kill(-1, SIGKILL);
    while (a->is_watching && reap(a) && clock_ms() < until)
        poller_turn(&a->poller, until);
    (void)tcdrain(STDOUT_FILENO); /* its last words, before the machine resets */
    if (a->writable_fd >= 0)
        rootfs_close(a->writable_fd);
    /* The log is the workload's: not a word of the kernel's about restarting. */
    (void)write_text("/proc/sys/kernel/printk", "0");
    (void)reboot(getenv("HYPEMAN_END") ? RB_POWER_OFF : RB_AUTOBOOT);
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

static _Noreturn void serve(struct agent *a)
{
    struct err e = {0};

    a->is_service = true;
    read_config(a, &e);
    if (e.code != ERR_NONE || watch(a, &e) < 0) {
        say("%s", e.msg);
        _exit(1);
    }
    a->exit.incarnation = a->config.incarnation;
    a->started_at_us = wall_us();
    if (!service_is_first())
        channel_announce(&a->channel);
    run(a);
    write_exit_record(a);
    deliver_report(a);
    _exit(0);
}

/* Returns where the workload is ours to look after. */
static void boot(struct agent *a)
{
    struct err e = {0};
    struct err unwatched = {0};
    int code = CODE_NO_GUEST;

    a->has_failed = bring_up(a, &e) < 0;
    if (!a->has_failed && init_is_wanted(&a->config)) {
        (void)init_become(&a->config, &code, &e);
        a->has_failed = true;
    }
    if (watch(a, &unwatched) < 0)
        say("%s", unwatched.msg);
    if (a->has_failed || workload_start(&a->workload, &a->config, &code, &e) < 0)
        fail(a, code, &e);
}

int main(int argc, char **argv)
{
    static struct agent a = {
        .config_fd = -1,
        .writable_fd = -1,
        .workload = {.pid = -1, .cgroup_fd = -1},
    };

    if (getpid() != 1 && argc == 2 && strcmp(argv[1], SERVICE_WORD) == 0)
        serve(&a);
    if (getpid() != 1) {
        say("this is the init of a hypeman guest; it runs as PID 1 and nowhere else");
        return 1;
    }
    boot(&a);
    a.started_at_us = wall_us();
    a.streams.cgroup_fd = a.workload.cgroup_fd;
    run(&a);
    end(&a);
}
