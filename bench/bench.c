/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <fcntl.h>
#include <math.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

enum { CALL_MS = 120000, START_MS = 20000, ANSWER_MAX = 64 << 20 };

enum { MOST_DAEMONS = 2 };
static struct bench *running[MOST_DAEMONS]; /* for give_up() */

double now_us(void)
{
    return (double)clock_us();
}

void samples_add(struct samples *s, double v)
{
    s->v = mem_realloc(s->v, (s->n + 1) * sizeof(*s->v));
    s->v[s->n++] = v;
}

void samples_free(struct samples *s)
{
    free(s->v);
    *s = (struct samples){0};
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double percentile(const struct samples *s, double p)
{
    return s->v[(size_t)lround(p * (double)(s->n - 1))];
}

double samples_percentile(struct samples *s, double p)
{
    qsort(s->v, s->n, sizeof(*s->v), ascending);
    return percentile(s, p);
}

void bench_row(struct bench *b, const char *name, const char *unit, const struct samples *s)
{
    struct bench_row *row = &b->rows[b->n_rows++];

    if (s->n == 0 || b->n_rows > MAX_ROWS)
        give_up("the row %s has no samples, or there are too many rows", name);
    qsort(s->v, s->n, sizeof(*s->v), ascending);
    (void)snprintf(row->name, sizeof(row->name), "%s/%s", b->name, name);
    row->unit = unit;
    row->n = s->n;
    row->p50 = percentile(s, 0.50);
    row->p99 = percentile(s, 0.99);
    row->max = s->v[s->n - 1];
}

void bench_value(struct bench *b, const char *name, const char *unit, double v)
{
    struct samples one = {.v = &v, .n = 1};

    bench_row(b, name, unit, &one);
}

void give_up(const char *fmt, ...)
{
    struct err ignored = {0};
    va_list ap;

    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputc('\n', stderr);
    for (int i = 0; i < MOST_DAEMONS; i++) {
        if (running[i] && running[i]->daemon.pidfd >= 0)
            (void)proc_signal(running[i]->daemon.pidfd, SIGTERM, &ignored);
        if (running[i])
            data_unmount(running[i]);
    }
    exit(1);
}

void must(int rc, const struct err *e)
{
    if (rc < 0)
        give_up("%s", e->msg);
}

const char *api(struct bench *b, const char *request, const char *body, int want_status)
{
    static struct buf answer = {.max = ANSWER_MAX};
    struct op op = {clock_ms() + CALL_MS, -1};
    struct err e = {0};
    int status;

    buf_reset(&answer);
    status = http_call(&op, b->client, request, body, &answer, &e);
    must(status, &e);
    if (status != want_status)
        give_up("%s: status %d: %s", request, status, buf_str(&answer));
    return buf_str(&answer);
}

static bool answers(struct bench *b)
{
    struct buf answer = BUF(4096);
    struct op op = {clock_ms() + 1000, -1};
    struct err e = {0};
    int status = http_call(&op, b->client, "GET /health", NULL, &answer, &e);

    buf_free(&answer);
    return status == 200;
}

void daemon_start(struct bench *b)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct op pause = {clock_ms() + START_MS, -1};
    struct err e = {0};
    auto_close int log_fd =
        openat(b->root_fd, "log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    auto_free char *socket = mem_printf("%s/h.sock", b->root);

    running[running[0] && running[0] != b] = b;
    argv_push(&argv, b->binary);
    argv_push(&argv, "serve");
    argv_push(&argv, "--data-dir");
    argv_pushf(&argv, "%s/data", b->root);
    argv_push(&argv, "--listen");
    argv_push(&argv, "127.0.0.1:0");
    argv_push(&argv, "--socket");
    argv_push(&argv, socket);
    spec.stderr_fd = log_fd;
    b->daemon.pidfd = proc_spawn(&spec, &b->daemon.id, &e);
    must(b->daemon.pidfd, &e);
    b->client = http_client_new(socket);
    while (!answers(b))
        must(op_sleep(&pause, 5, &e), &e);
}

void daemon_stop(struct bench *b)
{
    struct op op = {clock_ms() + START_MS, -1};
    struct proc_exit end;
    struct err e = {0};

    must(proc_signal(b->daemon.pidfd, SIGTERM, &e), &e);
    must(proc_wait(&op, b->daemon.pidfd, &end, &e), &e);
    close(take_fd(&b->daemon.pidfd));
    http_client_free(b->client);
    b->client = NULL;
}

void step_aside(void)
{
    auto_close int fd = -1;
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};

    if (unshare(CLONE_NEWNET) < 0)
        return;
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0)
        give_up("bring lo up: %m");
}

void twin_start(struct bench *twin, const struct bench *b)
{
    struct err e = {0};

    *twin = *b;
    twin->client = NULL;
    twin->daemon.pidfd = -1;
    twin->is_mounted = false;
    (void)snprintf(twin->root, sizeof(twin->root), "%.200s/twin", b->root);
    must(dir_ensure(b->root_fd, "twin", 0700, &e), &e);
    twin->root_fd = dir_open(b->root_fd, "twin", &e);
    must(twin->root_fd, &e);
    if (twin->filesystem)
        data_mount(twin);
    step_aside();
    daemon_start(twin);
}

void twin_stop(struct bench *twin)
{
    daemon_stop(twin);
    data_unmount(twin);
    close(twin->root_fd);
    running[1] = NULL;
}

char *built_for_tests(const struct bench *b, const char *where, const char *name)
{
    const char *slash = strrchr(b->binary, '/');

    return slash ? mem_printf("%.*s/tests/%s/%s", (int)(slash - b->binary), b->binary, where, name)
                 : mem_printf("./tests/%s/%s", where, name);
}

void bench_image(struct bench *b)
{
    struct err e = {0};
    auto_close int bin_fd = -1;
    auto_buf struct buf busybox = BUF(16 << 20);
    auto_free char *body = mem_printf(
        "{\"name\":\"bench\",\"source\":\"dir:%s/image\",\"cmd\":[\"/bin/sleep\",\"100000\"]}",
        b->root);

    must(dir_ensure(b->root_fd, "image", 0755, &e), &e);
    must(dir_ensure(b->root_fd, "image/bin", 0755, &e), &e);
    bin_fd = openat(b->root_fd, "image/bin", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(file_read(AT_FDCWD, "/bin/busybox", &busybox, &e), &e);
    must(file_replace(bin_fd, "sleep", 0755, busybox.data, busybox.len, &e), &e);
    if (symlinkat("sleep", bin_fd, "cat") < 0 || symlinkat("sleep", bin_fd, "true") < 0)
        give_up("the image cannot be made");
    (void)api(b, "POST /images/import", body, 201);
}

double rollup_kib(pid_t pid, const char *field)
{
    auto_free char *path = mem_printf("/proc/%d/smaps_rollup", (int)pid);
    auto_buf struct buf text = BUF(65536);
    struct err e = {0};
    const char *at;

    must(file_read(AT_FDCWD, path, &text, &e), &e);
    at = strstr(buf_str(&text), field);
    return at ? strtod(at + strlen(field) + 1, NULL) : 0;
}
