/* SPDX-License-Identifier: Apache-2.0 */
#include "net/resolver.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "loop/ending.h"

enum { KILL_MS = 5000, SOON_MS = 500, LATE_MS = 60000, WORDS_MAX = 300, PATH_SIZE = 160 };

struct resolver {
    struct loop *loop;
    const struct net_plan *plan;
    const char *program;
    const char *dir;
    int pidfd; /* -1: none runs */
    struct ending end;
    int words_fd; /* what it prints; only the last of it is of interest, once it has ended */
    struct watch words;
    char last[WORDS_MAX];
    struct timer again;
    int64_t started_ms;
    int64_t delay_ms;
};

static void write_argv(const struct resolver *r, struct argv *a)
{
    char text[ADDRESS_TEXT_SIZE];

    argv_push(a, r->program);
    argv_push(a, "--keep-in-foreground");
    argv_push(a, "--conf-file=/dev/null");
    argv_push(a, "--log-facility=-");
    argv_push(a, "--no-resolv");
    argv_push(a, "--no-poll");
    argv_push(a, "--no-hosts");
    argv_push(a, "--bind-interfaces");
    argv_push(a, "--cache-size=10000");
    argv_push(a, "--local=/" NET_DOMAIN "/");
    argv_push(a, "--local-ttl=5");
    argv_pushf(a, "--hostsdir=%s/hosts", r->dir);
    argv_pushf(a, "--pid-file=%s/pid", r->dir);
    argv_pushf(a, "--listen-address=%s", address_text(r->plan->gateway, text));
    for (unsigned i = 0; i < r->plan->n_dns; i++)
        argv_pushf(a, "--server=%s", address_text(r->plan->dns[i], text));
}

static void take_words(struct watch *w, uint32_t events)
{
    struct resolver *r = container_of(w, struct resolver, words);
    char text[4096];
    ssize_t n = read(r->words_fd, text, sizeof(text) - 1);
    char *line;

    (void)events;
    if (n == 0) { /* it has closed its end: a watch would be called for ever */
        loop_unwatch(r->loop, &r->words);
        r->words.fd = 0;
    }
    if (n <= 0)
        return;
    text[n] = '\0';
    while (n > 0 && text[n - 1] == '\n')
        text[--n] = '\0';
    line = strrchr(text, '\n');
    (void)snprintf(r->last, sizeof(r->last), "%.*s", WORDS_MAX - 1, line ? line + 1 : text);
}

static void let_go(struct resolver *r)
{
    if (r->pidfd < 0)
        return;
    ending_forget(&r->end);
    if (r->words.fd > 0)
        loop_unwatch(r->loop, &r->words);
    r->words.fd = 0;
    close(take_fd(&r->words_fd));
    close(take_fd(&r->pidfd));
}

static void end_it(struct resolver *r)
{
    struct op op = {clock_ms() + KILL_MS, -1};
    struct err e = {0};

    if (r->pidfd >= 0 && proc_kill(&op, r->pidfd, &e) < 0)
        log_warn("network: dnsmasq: %s", e.msg);
    let_go(r);
}

static void ended(struct ending *end, const struct proc_exit *how)
{
    struct resolver *r = container_of(end, struct resolver, end);
    bool was_well = clock_ms() - r->started_ms > LATE_MS;

    if (r->words.fd > 0)
        take_words(&r->words, EPOLLIN);
    r->delay_ms = was_well || r->delay_ms == 0 ? SOON_MS : r->delay_ms * 2;
    if (r->delay_ms > LATE_MS)
        r->delay_ms = LATE_MS;
    log_error("network: guests' names: dnsmasq ended with status %d (%s); it is started again in "
              "%d ms",
              how->code,
              r->last,
              (int)r->delay_ms);
    let_go(r);
    loop_timer_start(r->loop, &r->again, r->delay_ms);
}

static int start(struct resolver *r, struct err *e)
{
    struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    auto_close int write_fd = -1;
    struct proc_id id;
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_errno(e, "pipe");
    write_fd = fds[1];
    r->words_fd = fds[0];
    (void)fcntl(r->words_fd, F_SETFL, O_NONBLOCK);
    spec.stdout_fd = spec.stderr_fd = write_fd;
    write_argv(r, &argv);
    r->last[0] = '\0';
    r->started_ms = clock_ms();
    r->pidfd = proc_spawn(&spec, &id, e);
    argv_free(&argv);
    if (r->pidfd < 0) {
        close(take_fd(&r->words_fd));
        return -1;
    }
    if (loop_watch(r->loop, &r->words, r->words_fd, EPOLLIN, e) == 0 &&
        ending_await(r->loop, &r->end, r->pidfd, e) == 0)
        return 0;
    end_it(r);
    return -1;
}

static void start_again(struct timer *t)
{
    struct resolver *r = container_of(t, struct resolver, again);
    struct err e = {0};

    if (start(r, &e) == 0)
        return;
    log_error("network: guests' names: %s", e.msg);
    loop_timer_start(r->loop, &r->again, LATE_MS);
}

/* Whether a process was told of our directory: another may have its number by now. */
static bool is_ours(pid_t pid, const char *dir)
{
    auto_buf struct buf line = BUF(64 * 1024);
    struct err ignored = {0};
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    return file_read(AT_FDCWD, path, &line, &ignored) == 0 &&
           memmem(line.data, line.len, dir, strlen(dir)) != NULL;
}

static void end_left_over(const char *dir)
{
    struct op op = {clock_ms() + KILL_MS, -1};
    auto_buf struct buf text = BUF(32);
    auto_close int pidfd = -1;
    struct err e = {0};
    char path[PATH_SIZE];
    uint64_t pid;

    (void)snprintf(path, sizeof(path), "%s/pid", dir);
    if (file_read(AT_FDCWD, path, &text, &e) < 0 || text.len == 0)
        return;
    text.data[strcspn(text.data, "\n")] = '\0';
    if (!parse_u64(text.data, 2, INT32_MAX, &pid))
        return;
    pidfd = proc_pidfd((pid_t)pid);
    if (pidfd < 0 || !is_ours((pid_t)pid, dir))
        return;
    if (proc_kill(&op, pidfd, &e) < 0)
        log_warn("network: a dnsmasq of an earlier daemon stays: %s", e.msg);
}

struct resolver *resolver_new(struct loop *loop, const struct net_plan *plan, const char *program,
                              const char *dir, struct err *e)
{
    struct resolver *r = mem_new(struct resolver);

    r->loop = loop;
    r->plan = plan;
    r->program = program;
    r->dir = dir;
    r->pidfd = r->words_fd = -1;
    r->end.fn = ended;
    r->words.fn = take_words;
    r->again.fn = start_again;
    end_left_over(dir);
    if (start(r, e) == 0)
        return r;
    resolver_free(r);
    return NULL;
}

void resolver_free(struct resolver *r)
{
    if (!r)
        return;
    loop_timer_stop(r->loop, &r->again);
    end_it(r);
    free(r);
}
