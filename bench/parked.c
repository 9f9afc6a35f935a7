/* SPDX-License-Identifier: Apache-2.0 */
/*
 * parked: list, get, a byte through a command and back, and create, beside --parked VMMs
 * that answer nobody for 30 s, since each writes a snapshot: Cloud Hypervisor's doubles,
 * among --instances rows. None and all parked are measured in turns, --iters times; the
 * ratios are those of the turns' medians. No row may ever say Unknown.
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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
    ROUNDS = 3,
    READS = 200,
    CREATES = 20,
    CALL_MS = 120000,
    ANSWER_MAX = 1 << 20
};

static const char slow[] = "park 30000 PUT /api/v1/vm.snapshot\n";

enum { LIST, GET, EXEC, CREATE, N_KINDS };
static const char *const kinds[N_KINDS] = {"list", "get", "exec_echo", "create"};

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

static void measure(struct bench *b, struct socket *s, struct samples *turn)
{
    for (int i = 0; i < READS; i++) {
        samples_add(&turn[LIST], timed(b, "GET /instances", NULL, 200));
        samples_add(&turn[GET], timed(b, "GET /instances/bench", NULL, 200));
        samples_add(&turn[EXEC], socket_echo_us(s));
    }
    for (int i = 0; i < CREATES; i++) {
        samples_add(&turn[CREATE],
                    timed(b,
                          "POST /instances",
                          "{\"name\":\"one\",\"image\":\"bench\",\"size\":\"128MB\","
                          "\"vcpus\":1,\"overlay_size\":\"16MB\"}",
                          201));
        (void)api(b, "DELETE /instances/one?graceful_shutdown=false", NULL, 204);
    }
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

/* A VMM that writes a snapshot has made a directory for it. */
static int count_parked(const struct bench *b, char *const *ids, int n)
{
    int found = 0;

    for (int i = 0; i < n; i++) {
        auto_free char *path = mem_printf("data/instances/%s/save", ids[i]);

        found += faccessat(b->root_fd, path, F_OK, 0) == 0;
    }
    return found;
}

static struct sleeper *park(struct bench *b, char *const *ids, int n)
{
    struct sleeper *sleepers = mem_zalloc((size_t)n, sizeof(*sleepers));
    int64_t deadline_ms = clock_ms() + CALL_MS;

    set_faults(b, slow);
    for (int i = 0; i < n; i++) {
        sleepers[i].b = b;
        sleepers[i].index = i;
        if (pthread_create(&sleepers[i].thread, NULL, put_to_sleep, &sleepers[i]) != 0)
            give_up("a thread cannot be made");
    }
    while (count_parked(b, ids, n) < n) {
        if (clock_ms() > deadline_ms)
            give_up("they are not all in a snapshot");
        (void)poll(NULL, 0, 20);
    }
    return sleepers;
}

/* By our own steps they are in standby, and wake. */
static void wake(struct bench *b, struct sleeper *sleepers, int n)
{
    set_faults(b, "");
    for (int i = 0; i < n; i++) {
        auto_free char *restore = mem_printf("POST /instances/vm-%d/restore", i);

        pthread_join(sleepers[i].thread, NULL);
        must(sleepers[i].status, &sleepers[i].e);
        if (sleepers[i].status != 200)
            give_up("a standby was answered with %d", sleepers[i].status);
        (void)timed(b, restore, NULL, 200);
    }
    free(sleepers);
}

/* --- in turns --- */

struct results {
    struct samples none[N_KINDS], all[N_KINDS], ratio[N_KINDS];
};

static void keep(struct samples *from, struct samples *to)
{
    for (size_t i = 0; i < from->n; i++)
        samples_add(to, from->v[i]);
    samples_free(from);
}

static void take_turns(struct bench *b, struct socket *s, char *const *ids, int n,
                       struct results *r)
{
    struct samples none[N_KINDS] = {0};
    struct samples all[N_KINDS] = {0};
    struct sleeper *sleepers;

    measure(b, s, none);
    sleepers = park(b, ids, n);
    measure(b, s, all);
    if (count_parked(b, ids, n) < n)
        give_up("a snapshot ended before the measuring did");
    wake(b, sleepers, n);
    for (int i = 0; i < N_KINDS; i++) {
        samples_add(&r->ratio[i],
                    samples_percentile(&all[i], 0.5) / samples_percentile(&none[i], 0.5));
        keep(&none[i], &r->none[i]);
        keep(&all[i], &r->all[i]);
    }
}

static void print(struct bench *b, struct results *r)
{
    for (int i = 0; i < N_KINDS; i++) {
        auto_free char *none = mem_printf("%s_none_parked", kinds[i]);
        auto_free char *all = mem_printf("%s_all_parked", kinds[i]);
        auto_free char *ratio = mem_printf("%s_all_by_none_p50", kinds[i]);

        bench_row(b, none, "us", &r->none[i]);
        bench_row(b, all, "us", &r->all[i]);
        bench_row(b, ratio, "ratio", &r->ratio[i]);
        samples_free(&r->none[i]);
        samples_free(&r->all[i]);
        samples_free(&r->ratio[i]);
    }
}

static char *id_of(struct bench *b, int i)
{
    auto_free char *get = mem_printf("GET /instances/vm-%d", i);
    json_auto_t *row = json_loads(api(b, get, NULL, 200), 0, NULL);

    return mem_strdup(json_string_value(json_object_get(row, "id")));
}

void bench_parked(struct bench *b)
{
    int instances = b->instances ? b->instances : INSTANCES;
    int n = b->parked ? b->parked : PARKED;
    auto_free char *id = bench_vm(b);
    char **ids = mem_zalloc((size_t)n, sizeof(*ids));
    struct results results = {0};
    struct socket s;

    if (instances > n)
        records_add(b, 0, instances - n);
    doubles_run(b, 0, n);
    for (int i = 0; i < n; i++)
        ids[i] = id_of(b, i);
    socket_open(b, &s, "bench/exec", "{\"command\":[\"/bin/cat\"]}");
    (void)socket_echo_us(&s);
    for (int i = 0; i < (b->iterations ? b->iterations : ROUNDS); i++)
        take_turns(b, &s, ids, n, &results);
    socket_close(&s);
    print(b, &results);
    for (int i = 0; i < n; i++) {
        auto_free char *name = mem_printf("vm-%d", i);

        delete_vm(b, name);
        free(ids[i]);
    }
    delete_vm(b, "bench");
    free(ids);
}
