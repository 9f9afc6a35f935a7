/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's agent in a process of this host: its real streams on a unix socket
 * in a directory, as a VMM would offer it. What it does to files it does to ours.
 */
#pragma once

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/jread.h"
#include "agent/stream.h"
#include "base/cleanup.h"
#include "vmm/sock.h"
#include "vmm/vmm.h"

struct agent_double {
    struct poller poller;
    struct channel channel;
    struct streams streams;
    struct source signals;
};

static inline void double_hello(struct agent_double *a, const struct frame *f)
{
    struct jread j = JREAD((const char *)f->data, f->len);
    auto_free char *nonce = NULL;

    jread_object(&j);
    for (char *key; (key = jread_key(&j)); free(key)) {
        if (strcmp(key, "nonce") == 0)
            jread_text(&j, &nonce);
        else
            jread_skip(&j);
    }
    channel_hello(&a->channel, nonce);
}

static inline void double_ready(struct channel *c)
{
    struct agent_double *a = container_of(c, struct agent_double, channel);
    struct frame f;

    while (channel_next(c, &f)) {
        if (f.type == FRAME_HELLO)
            double_hello(a, &f);
        else
            streams_frame(&a->streams, &f);
    }
    streams_settle(&a->streams);
}

static inline void double_signals(struct source *s, uint32_t events)
{
    struct agent_double *a = container_of(s, struct agent_double, signals);
    struct signalfd_siginfo info;
    int status;
    pid_t pid;

    (void)events;
    (void)!read(s->fd, &info, sizeof(info));
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        streams_reaped(&a->streams, pid, status);
}

/* Serves one connection, and ends with it once its commands have ended. */
static inline _Noreturn void agent_double_serve(int listen_fd)
{
    static struct agent_double a;
    static struct guest_config config;
    struct err e = {0};
    sigset_t set;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    if (fd < 0 || poller_init(&a.poller, &e) < 0)
        _exit(3);
    source_init(&a.signals, signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), double_signals);
    sigaddset(&set, SIGPIPE);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    source_want(&a.poller, &a.signals, EPOLLIN);
    channel_use(&a.channel, &a.poller, fd, double_ready);
    streams_init(&a.streams, &a.poller, &a.channel, &config);
    while (a.channel.is_up)
        poller_turn(&a.poller, 0);
    streams_drop(&a.streams);
    while (!list_empty(&a.streams.all))
        poller_turn(&a.poller, 0);
    _exit(0);
}

/* The process's pid; it listens in the directory from the moment this returns. */
static inline pid_t agent_double_start(int dir_fd)
{
    struct err e = {0};
    int listen_fd = sock_listen(dir_fd, VMM_AGENT_SOCKET, &e);
    pid_t pid;

    assert_true(listen_fd >= 0);
    pid = fork();
    if (pid == 0)
        agent_double_serve(listen_fd);
    close(listen_fd);
    assert_true(pid > 0);
    return pid;
}
