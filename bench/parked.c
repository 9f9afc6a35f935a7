/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parked: list, get, a byte through a command and back, and create, beside --parked VMMs
 * that answer nobody for 30 s, since each is at a snapshot: Cloud Hypervisor's doubles,
 * among --instances rows. Beside it a twin, a daemon with as many of which none is parked:
 * each call goes to the one and to the other, so that whatever else the machine does meets
 * both. The next of --iters rounds parks the other's. No row may ever say Unknown.
 *
 * They hold before they write: what some gigabytes cost the processors and the disk, all
 * would pay, whoever writes them. What earlier rounds wrote is waited for.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "transport.h"

enum {
    INSTANCES = 200,
    PARKED = 20,
    ROUNDS = 4,
    READS = 1000,
    CREATES = 100,
    SETTLE_MS = 1000,
    CALL_MS = 120000,
    ANSWER_MAX = 1 << 20
};

static const char slow[] = "hold 30000 PUT /api/v1/vm.snapshot\n";

/* The last: what the daemon ran for one list, one get and one byte. */
enum { LIST, GET, EXEC, CREATE, CPU, N_KINDS };
static const char *const kinds[N_KINDS] = {"list", "get", "exec_echo", "create", "daemon_ran"};

void parked_set_up(struct bench *b)
{
    auto_free char *faults = mem_printf("%s/faults", b->root);

    b->hypervisor = "cloud-hypervisor";
    (void)unsetenv("HYPEMAN_TEST_CLOUD_HYPERVISOR");
    setenv("HYPEMAN_DOUBLE_FAULTS", faults, 1);
    use_hypervisor(b);
}

static void set_faults(const struct bench *b, const char *text)
{
    struct err e = {0};

    must(file_replace(b->root_fd, "faults", 0600, text, strlen(text), &e), &e);
}

/* A daemon with its VMMs. */
struct side {
    struct bench *b;
    struct socket echo;
    char **ids; /* of vm-0, ... */
    int n;
};

/* --- what is measured --- */

static double timed(struct bench *b, const char *request, const char *body, int status)
{
    double began = now_us();
    const char *answer = api(b, request, body, status);
    double took = now_us() - began;

    if (strstr(answer, "\"Unknown\""))
        give_up("%s says Unknown: %s", request, answer);
    return took;
}

static void look(struct side *s, struct samples *us)
{
    samples_add(&us[LIST], timed(s->b, "GET /instances", NULL, 200));
    samples_add(&us[GET], timed(s->b, "GET /instances/bench", NULL, 200));
    samples_add(&us[EXEC], socket_echo_us(&s->echo));
}

static void create(struct side *s, struct samples *us)
{
    samples_add(&us[CREATE],
                timed(s->b,
                      "POST /instances",
                      "{\"name\":\"one\",\"image\":\"bench\",\"size\":\"128MB\","
                      "\"vcpus\":1,\"overlay_size\":\"16MB\"}",
                      201));
    (void)api(s->b, "DELETE /instances/one?graceful_shutdown=false", NULL, 204);
}

/* What the daemon's threads have run, in microseconds. */
static double ran_us(const struct side *s)
{
    struct timespec ran = {0};
    clockid_t clock;

    if (clock_getcpuclockid(s->b->daemon.id.pid, &clock) != 0 || clock_gettime(clock, &ran) < 0)
        give_up("the daemon's time cannot be had");
    return (double)ran.tv_sec * 1e6 + (double)ran.tv_nsec / 1e3;
}

struct turn {
    struct side *side;
    struct samples us[N_KINDS];
};

/* Each goes first every other time. */
static void alternate(struct turn *turns, int times, void (*fn)(struct side *s, struct samples *us))
{
    for (int i = 0; i < 2 * times; i++) {
        struct turn *t = &turns[(i + i / 2) % 2];

        fn(t->side, t->us);
    }
}

static void measure(struct turn *turns)
{
    double began[2] = {ran_us(turns[0].side), ran_us(turns[1].side)};

    alternate(turns, READS, look);
    for (int k = 0; k < 2; k++)
        samples_add(&turns[k].us[CPU], (ran_us(turns[k].side) - began[k]) / READS);
    alternate(turns, CREATES, create);
}

/* --- who is parked --- */

struct sleeper {
    pthread_t thread;
    const struct bench *b;
    int index;
    int status;
    struct err e;
};

static void *put_to_sleep(void *arg)
{
    struct sleeper *s = arg;
    auto_free char *socket = mem_printf("%s/h.sock", s->b->root);
    auto_free char *request = mem_printf("POST /instances/vm-%d/standby", s->index);
    struct http_client *client = http_client_new(socket);
    struct op op = {clock_ms() + CALL_MS, -1};
    auto_buf struct buf answer = BUF(ANSWER_MAX);

    s->status = http_call(&op, client, request, NULL, &answer, &s->e);
    http_client_free(client);
    return NULL;
}

/* The directory is made for the VMM right before it is asked; while it holds it writes nothing. */
static int count_parked(const struct side *s)
{
    int found = 0;

    for (int i = 0; i < s->n; i++) {
        auto_free char *path = mem_printf("data/instances/%s/save", s->ids[i]);
        auto_free char *written = mem_printf("%s/state.json", path);

        found += faccessat(s->b->root_fd, path, F_OK, 0) == 0 &&
                 faccessat(s->b->root_fd, written, F_OK, 0) < 0;
    }
    return found;
}

static struct sleeper *park(const struct side *s)
{
    struct sleeper *sleepers = mem_zalloc((size_t)s->n, sizeof(*sleepers));
    int64_t deadline_ms = clock_ms() + CALL_MS;

    for (int i = 0; i < s->n; i++) {
        sleepers[i].b = s->b;
        sleepers[i].index = i;
        if (pthread_create(&sleepers[i].thread, NULL, put_to_sleep, &sleepers[i]) != 0)
            give_up("a thread cannot be made");
    }
    while (count_parked(s) < s->n) {
        if (clock_ms() > deadline_ms)
            give_up("they are not all in a snapshot");
        (void)poll(NULL, 0, 20);
    }
    return sleepers;
}

/* By our own steps they are in standby, and wake. */
static void wake(const struct side *s, struct sleeper *sleepers)
{
    for (int i = 0; i < s->n; i++) {
        auto_free char *restore = mem_printf("POST /instances/vm-%d/restore", i);

        pthread_join(sleepers[i].thread, NULL);
        must(sleepers[i].status, &sleepers[i].e);
        if (sleepers[i].status != 200)
            give_up("a standby was answered with %d", sleepers[i].status);
        (void)timed(s->b, restore, NULL, 200);
    }
    free(sleepers);
}

/* What was done before has been written, freed and let go. */
static void settle(const struct side *s)
{
    auto_close int fd = openat(s->b->root_fd, "data", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    (void)poll(NULL, 0, SETTLE_MS);
    if (fd < 0 || syncfs(fd) < 0)
        give_up("wait for the disk: %m");
}

/* --- round by round --- */

struct results {
    struct samples none, all, by_p50, by_p99;
};

static void keep(struct samples *from, struct samples *to)
{
    for (size_t i = 0; i < from->n; i++)
        samples_add(to, from->v[i]);
    samples_free(from);
}

static void compare(struct results *r, struct samples *all, struct samples *none)
{
    samples_add(&r->by_p50, samples_percentile(all, 0.5) / samples_percentile(none, 0.5));
    samples_add(&r->by_p99, samples_percentile(all, 0.99) / samples_percentile(none, 0.99));
    keep(all, &r->all);
    keep(none, &r->none);
}

static void take_round(struct side *parked, struct side *other, struct results *r)
{
    struct turn turns[2] = {{.side = parked}, {.side = other}};
    struct sleeper *sleepers = park(parked);

    settle(parked);
    settle(other);
    measure(turns);
    if (count_parked(parked) < parked->n)
        give_up("a snapshot ended before the measuring did");
    wake(parked, sleepers);
    for (int i = 0; i < N_KINDS; i++)
        compare(&r[i], &turns[0].us[i], &turns[1].us[i]);
}

static void print(struct bench *b, struct results *r)
{
    for (int i = 0; i < N_KINDS; i++) {
        const struct {
            const char *what, *unit;
            struct samples *samples;
        } rows[] = {{"none_parked", "us", &r[i].none},
                    {"all_parked", "us", &r[i].all},
                    {"all_by_none_p50", "ratio", &r[i].by_p50},
                    {"all_by_none_p99", "ratio", &r[i].by_p99}};

        for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
            auto_free char *name = mem_printf("%s_%s", kinds[i], rows[k].what);

            if (i != CPU || rows[k].samples != &r[i].by_p99) /* it has one figure a round */
                bench_row(b, name, rows[k].unit, rows[k].samples);
            samples_free(rows[k].samples);
        }
    }
}

/* --- a daemon and its twin --- */

static char *id_of(struct bench *b, int i)
{
    auto_free char *get = mem_printf("GET /instances/vm-%d", i);
    json_auto_t *row = json_loads(api(b, get, NULL, 200), 0, NULL);

    return mem_strdup(json_string_value(json_object_get(row, "id")));
}

static void side_begin(struct side *s, struct bench *b)
{
    int instances = b->instances ? b->instances : INSTANCES;
    auto_free char *id = bench_vm(b);

    *s = (struct side){.b = b, .n = b->parked ? b->parked : PARKED};
    s->ids = mem_zalloc((size_t)s->n, sizeof(*s->ids));
    if (instances > s->n)
        records_add(b, 0, instances - s->n);
    doubles_run(b, 0, s->n);
    for (int i = 0; i < s->n; i++)
        s->ids[i] = id_of(b, i);
    socket_open(b, &s->echo, "bench/exec", "{\"command\":[\"/bin/cat\"]}");
    (void)socket_echo_us(&s->echo);
}

static void side_end(struct side *s)
{
    socket_close(&s->echo);
    for (int i = 0; i < s->n; i++) {
        auto_free char *name = mem_printf("vm-%d", i);

        delete_vm(s->b, name);
        free(s->ids[i]);
    }
    delete_vm(s->b, "bench");
    free(s->ids);
}

void bench_parked(struct bench *b)
{
    struct results results[N_KINDS] = {0};
    struct bench twin;
    struct side sides[2];

    side_begin(&sides[0], b);
    twin_start(&twin, b);
    side_begin(&sides[1], &twin);
    set_faults(b, slow);
    for (int i = 0; i < (b->iterations ? b->iterations : ROUNDS); i++)
        take_round(&sides[i % 2], &sides[(i + 1) % 2], results);
    set_faults(b, "");
    side_end(&sides[0]);
    side_end(&sides[1]);
    twin_stop(&twin);
    print(b, results);
}
