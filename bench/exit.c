/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exit: from the end of a VMM's process (its pidfd tells us) to where it is seen: in a
 * list, and as a watch's event, of every other instance. All of them must be seen, and
 * be right.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/mem.h"
#include "bench.h"

enum { INSTANCES = 200, ROOM = 1 << 20, ENOUGH = 20000 };

struct vmm {
    pid_t pid;
    char id[ID_SIZE];
};

struct vmms {
    struct vmm *v;
    size_t n;
};

static void take_vmm(void *arg, pid_t pid)
{
    struct vmms *all = arg;
    auto_free char *link = mem_printf("/proc/%d/cwd", (int)pid);
    char cwd[4096];
    ssize_t n = readlink(link, cwd, sizeof(cwd) - 1);
    const char *id;

    if (n <= 0)
        return;
    cwd[n] = '\0';
    id = strrchr(cwd, '/');
    all->v = mem_realloc(all->v, (all->n + 1) * sizeof(*all->v));
    all->v[all->n].pid = pid;
    (void)snprintf(all->v[all->n++].id, ID_SIZE, "%.*s", ID_LEN, id ? id + 1 : cwd);
}

/* Ends it; the time at which its process was gone. */
static double end(const struct vmm *v)
{
    struct err e = {0};
    struct op op = {clock_ms() + ENOUGH, -1};
    auto_close int pidfd = proc_pidfd(v->pid);

    if (pidfd < 0)
        give_up("process %d: %m", (int)v->pid);
    must(proc_signal(pidfd, SIGKILL, &e), &e);
    must(op_wait(&op, pidfd, POLLIN, &e), &e);
    return now_us();
}

static bool is_stopped(const char *list, const char *id)
{
    const char *row = strstr(list, id);
    const char *state = row ? strstr(row, "\"state\":\"") : NULL;

    return state && strncmp(state + 9, "Stopped\"", 8) == 0;
}

static double until_listed(struct bench *b, const char *id)
{
    while (!is_stopped(api(b, "GET /instances", NULL, 200), id))
        continue;
    return now_us();
}

/* Reads events until one says that this instance is Stopped. */
static double until_told(int fd, const char *id, char *room)
{
    size_t have = 0;

    for (;;) {
        char *line_end;

        have += stream_receive(fd, room + have, ROOM - 1 - have);
        room[have] = '\0';
        while ((line_end = strstr(room, "\n\n")) != NULL) {
            *line_end = '\0';
            if (is_stopped(room, id))
                return now_us();
            have -= (size_t)(line_end + 2 - room);
            memmove(room, line_end + 2, have + 1);
        }
    }
}

static void expect_all_right(struct bench *b, size_t n)
{
    const char *list = api(b, "GET /instances?state=Stopped", NULL, 200);
    size_t right = 0;

    for (const char *at = list; (at = strstr(at, "was ended by signal 9")) != NULL; at++)
        right++;
    if (right != n)
        give_up("%zu of %zu ends are seen and right", right, n);
    bench_value(b, "seen_and_right", "of all", (double)right);
}

void bench_exit(struct bench *b)
{
    static const char watch[] = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    auto_free char *room = mem_realloc(NULL, ROOM);
    struct samples listed = {0};
    struct samples told = {0};
    struct vmms all = {0};
    size_t have = 0;
    int fd;

    bench_image(b);
    doubles_run(b, 0, b->instances ? b->instances : INSTANCES);
    doubles_each(b, take_vmm, &all);
    fd = stream_connect(b);
    stream_send(fd, watch, sizeof(watch) - 1);
    do {
        if (have > 64) {
            memmove(room, room + have - 64, 64); /* the word may be cut in two */
            have = 64;
        }
        have += stream_receive(fd, room + have, ROOM - 1 - have);
        room[have] = '\0';
    } while (!strstr(room, "\"synced\""));

    for (size_t i = 0; i < all.n; i++) {
        double gone = end(&all.v[i]);

        if (i % 2 == 0)
            samples_add(&told, until_told(fd, all.v[i].id, room) - gone);
        else
            samples_add(&listed, until_listed(b, all.v[i].id) - gone);
    }
    close(fd);
    bench_row(b, "to_a_list", "us", &listed);
    bench_row(b, "to_a_watch", "us", &told);
    expect_all_right(b, all.n);
    samples_free(&listed);
    samples_free(&told);
    free(all.v);
}
