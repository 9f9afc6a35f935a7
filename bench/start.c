/* SPDX-License-Identifier: Apache-2.0 */
/*
 * start: Firecracker alone, without a daemon, from its spawn to a socket that takes a
 * connection: noticed as soon as can be (by a loop that does nothing else: what exec and
 * bind take), by an event as the daemon does it, by polling as upstream did it, and one
 * that was started before and waits. All of them in turns.
 */
#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "bench.h"
#include "vmm/sock.h"
#include "vmm/socket_wait.h"

enum { START_MS = 20000, ITERATIONS = 40 };

struct vmm {
    int dir_fd;
    int log_fd;
    int pidfd;
};

static struct vmm spawn(struct bench *b)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct err e = {0};
    struct proc_id id;
    struct vmm v;

    must(dir_ensure(b->root_fd, "bare", 0700, &e), &e);
    v.dir_fd = dir_open(b->root_fd, "bare", &e);
    v.log_fd = openat(v.dir_fd, "log", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    argv_push(&argv, getenv("HYPERVISOR__FIRECRACKER_BINARY_PATH"));
    argv_push(&argv, "--api-sock");
    argv_push(&argv, "api.sock");
    spec.cwd_fd = v.dir_fd;
    spec.stderr_fd = v.log_fd;
    v.pidfd = proc_spawn(&spec, &id, &e);
    must(v.pidfd, &e);
    return v;
}

static void end(struct bench *b, struct vmm *v)
{
    struct op op = {clock_ms() + START_MS, -1};
    struct err e = {0};

    must(proc_kill(&op, v->pidfd, &e), &e);
    cleanup_close(&v->pidfd);
    cleanup_close(&v->log_fd);
    cleanup_close(&v->dir_fd);
    must(tree_remove(b->root_fd, "bare", &e), &e);
}

static void connect_at_once(const struct vmm *v)
{
    struct err e = {0};
    int fd;

    while ((fd = sock_connect(v->dir_fd, "api.sock", &e)) < 0)
        err_clear(&e);
    close(fd);
}

static void await(struct vmm *v, enum socket_readiness how)
{
    struct op op = {clock_ms() + START_MS, -1};
    struct last_words_source words = {
        .program = "Firecracker", .pidfd = &v->pidfd, .log_fd = v->log_fd};
    struct socket_wait wait = {.dir_fd = v->dir_fd, .name = "api.sock", .how = how, .vmm = &words};
    struct err e = {0};

    must(socket_wait(&op, &wait, &e), &e);
}

double bare_start_ms(struct bench *b)
{
    double began = now_us();
    struct vmm v = spawn(b);
    double ms;

    connect_at_once(&v);
    ms = (now_us() - began) / 1000;
    end(b, &v);
    return ms;
}

static double start_ms(struct bench *b, enum socket_readiness how)
{
    double began = now_us();
    struct vmm v = spawn(b);
    double ms;

    await(&v, how);
    ms = (now_us() - began) / 1000;
    end(b, &v);
    return ms;
}

static double waiting_ms(struct bench *b)
{
    struct vmm v = spawn(b);
    double began;
    double ms;

    connect_at_once(&v);
    began = now_us();
    await(&v, SOCKET_BY_EVENT);
    ms = (now_us() - began) / 1000;
    end(b, &v);
    return ms;
}

void bench_start(struct bench *b)
{
    static const struct {
        const char *name;
        enum socket_readiness how;
    } ways[] = {{"inotify", SOCKET_BY_EVENT},
                {"poll1", SOCKET_BY_POLL_1MS},
                {"poll50", SOCKET_BY_POLL_50MS}};
    enum { WAYS = sizeof(ways) / sizeof(ways[0]) };
    struct samples total[WAYS] = {0};
    struct samples beyond[WAYS] = {0};
    struct samples bare = {0};
    struct samples pool = {0};
    int n = b->iterations ? b->iterations : ITERATIONS;

    if (!getenv("HYPERVISOR__FIRECRACKER_BINARY_PATH"))
        give_up("of Firecracker alone: --hypervisor firecracker");
    for (int i = 0; i < n; i++) {
        samples_add(&bare, bare_start_ms(b));
        for (size_t k = 0; k < WAYS; k++) {
            samples_add(&total[k], start_ms(b, ways[k].how));
            samples_add(&beyond[k], total[k].v[i] - bare.v[i]);
        }
        samples_add(&pool, waiting_ms(b));
    }
    bench_row(b, "bare", "ms", &bare);
    for (size_t k = 0; k < WAYS; k++) {
        auto_free char *name = mem_printf("%s_beyond_bare", ways[k].name);

        bench_row(b, ways[k].name, "ms", &total[k]);
        bench_row(b, name, "ms", &beyond[k]);
        samples_free(&total[k]);
        samples_free(&beyond[k]);
    }
    bench_row(b, "pool", "ms", &pool);
    samples_free(&bare);
    samples_free(&pool);
}
