/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fork: of a running VM, and how long it pauses for that; of a sleeping one, each alone,
 * by its parts; a few that stay awake beside each other, and what memory each of their
 * VMMs holds for itself and shares. Then sixteen at once beside sixteen in a row. Those in a
 * row share the machine with the forks before them, which just woke and are busy; the
 * same sixteen each alone tell how much of the difference that is.
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/parse.h"
#include "bench.h"

enum {
    ITERATIONS = 16,
    FAST_ITERATIONS = 200, /* of VMMs that start in milliseconds: enough for a p99 */
    SETTLE_MS = 50,        /* after an end: what the kernel lets go of is no cost of the next */
    SIBLINGS = 4,
    BURST = 16,
    MOST_AT_ONCE = 64,
    ROUNDS = 3,
    CALL_MS = 120000,
    ANSWER_MAX = 1 << 20
};

static const char fork_request[] = "POST /instances/bench/fork";

static char *fork_body(int i)
{
    return mem_printf("{\"name\":\"fork-%d\",\"target_state\":\"Running\"}", i);
}

static void delete_forks(struct bench *b, int n)
{
    for (int i = 0; i < n; i++) {
        auto_free char *name = mem_printf("fork-%d", i);

        delete_vm(b, name);
    }
}

struct costs {
    struct samples total, clone, vmm, ours, disk, rest, unstolen, start;
    struct phases phases;
};

static bool is_firecracker(const struct bench *b)
{
    return b->hypervisor && strcmp(b->hypervisor, "firecracker") == 0;
}

/* It may be a double, whose time is no VMM's. */
static bool may_be_doubled(const struct bench *b)
{
    return is_firecracker(b) || (b->hypervisor && strcmp(b->hypervisor, "cloud-hypervisor") == 0);
}

/* Upstream's harness is asked for by the environment. */
static bool prints_breakdown(const struct bench *b)
{
    const char *asked = getenv("HYPEMAN_RUN_FORK_PHASE_BREAKDOWN_PERF");

    return may_be_doubled(b) || (asked && strcmp(asked, "1") == 0);
}

static void fork_once(struct bench *b, struct costs *c, int i, char id[ID_SIZE])
{
    auto_free char *body = fork_body(i);
    double stolen = processors_stolen();
    double began = now_us();
    const char *answer = api(b, fork_request, body, 201);
    double ms = (now_us() - began) / 1000;
    bool is_disturbed = processors_stolen() > stolen;
    json_auto_t *row = json_loads(answer, 0, NULL);
    double clone;
    double vmm;

    (void)snprintf(id, ID_SIZE, "%s", json_string_value(json_object_get(row, "id")));
    phases_add(b, &c->phases, "instances.fork", id);
    clone = phases_last(&c->phases, "clone_disks");
    vmm = phases_vmm(&c->phases);
    samples_add(&c->total, ms);
    samples_add(&c->clone, clone);
    samples_add(&c->vmm, vmm);
    samples_add(&c->ours, ms - vmm - clone);
    samples_add(&c->disk, phases_disk(&c->phases));
    samples_add(&c->rest, ms - vmm - clone - phases_disk(&c->phases));
    if (!is_disturbed)
        samples_add(&c->unstolen, c->rest.v[c->rest.n - 1]);
    samples_add(&c->start, phases_last(&c->phases, "hypervisor.start_process"));
    if (prints_breakdown(b))
        breakdown_print(b, &c->phases, (int)c->total.n - 1, id, ms);
}

static void costs_free(struct costs *c)
{
    samples_free(&c->total);
    samples_free(&c->clone);
    samples_free(&c->vmm);
    samples_free(&c->ours);
    samples_free(&c->disk);
    samples_free(&c->rest);
    samples_free(&c->unstolen);
    samples_free(&c->start);
    phases_free(&c->phases);
}

/* Each is gone before the next: what the forks before it do costs it nothing. */
static void measure_alone(struct bench *b, const char *source, int n)
{
    struct samples bare = {0};
    struct samples beyond = {0};
    struct samples bare_disk = {0};
    struct costs c = {0};
    char id[ID_SIZE];

    for (int i = 0; i < n; i++) {
        fork_once(b, &c, 0, id);
        delete_vm(b, "fork-0");
        samples_add(&bare_disk, bare_fork_ms(b, source));
        if (is_firecracker(b)) {
            samples_add(&bare, bare_start_ms(b));
            samples_add(&beyond, c.start.v[i] - bare.v[i]);
        }
        (void)poll(NULL, 0, SETTLE_MS);
    }
    if (is_firecracker(b)) {
        bench_row(b, "start_bare", "ms", &bare);
        bench_row(b, "start_beyond_bare", "ms", &beyond);
    }
    samples_free(&bare);
    samples_free(&beyond);
    bench_row(b, "total", "ms", &c.total);
    bench_row(b, "clone_disks", "ms", &c.clone);
    bench_row(b, "vmm", "ms", &c.vmm);
    bench_row(b, "ours", "ms", &c.ours);
    bench_row(b, "ours_disk", "ms", &c.disk);
    bench_row(b, "bare_disk", "ms", &bare_disk);
    bench_row(b, "ours_but_disk", "ms", &c.rest);
    if (c.unstolen.n > 0)
        bench_row(b, "ours_unstolen", "ms", &c.unstolen);
    samples_free(&bare_disk);
    phases_rows(b, &c.phases);
    costs_free(&c);
}

/* All stay awake, and compete with the next. */
static void measure_siblings(struct bench *b, int n)
{
    char(*ids)[ID_SIZE] = mem_zalloc((size_t)n, ID_SIZE);
    struct samples private = {0};
    struct samples shared = {0};
    struct samples pss = {0};
    struct costs c = {0};

    for (int i = 0; i < n; i++)
        fork_once(b, &c, i, ids[i]);
    for (int i = 0; i < n; i++) {
        pid_t pid = vmm_pid(b, ids[i]);

        samples_add(&private, rollup_kib(pid, "Private_Dirty") + rollup_kib(pid, "Private_Clean"));
        samples_add(&shared, rollup_kib(pid, "Shared_Dirty") + rollup_kib(pid, "Shared_Clean"));
        samples_add(&pss, rollup_kib(pid, "\nPss"));
    }
    delete_forks(b, n);
    bench_row(b, "siblings_total", "ms", &c.total);
    bench_row(b, "siblings_vmm", "ms", &c.vmm);
    bench_row(b, "siblings_ours", "ms", &c.ours);
    bench_row(b, "private_memory", "KiB", &private);
    bench_row(b, "shared_memory", "KiB", &shared);
    bench_row(b, "pss", "KiB", &pss);
    samples_free(&private);
    samples_free(&shared);
    samples_free(&pss);
    costs_free(&c);
    free(ids);
}

/* Of the source while it runs: how long it stands still, and what the pause is made of. */
static void measure_running(struct bench *b, const char *source, int n)
{
    static const char body[] = "{\"name\":\"fork-0\",\"from_running\":true}";
    static const char *const parts[] = {
        "source_paused", "save_devices", "save_memory", "clone_disks", "resume_vm"};
    struct samples samples[sizeof(parts) / sizeof(parts[0])] = {0};
    struct phases phases = {0};

    for (int i = 0; i < n; i++) {
        (void)api(b, fork_request, body, 201);
        phases_add(b, &phases, "instances.fork.capture", source);
        delete_vm(b, "fork-0");
        for (size_t k = 0; k < sizeof(parts) / sizeof(parts[0]); k++)
            samples_add(&samples[k], phases_last(&phases, parts[k]));
    }
    for (size_t k = 0; k < sizeof(parts) / sizeof(parts[0]); k++) {
        auto_free char *name = mem_printf("from_running_%s", parts[k]);

        bench_row(b, name, "ms", &samples[k]);
        samples_free(&samples[k]);
    }
    phases_free(&phases);
}

struct forker {
    pthread_t thread;
    char *socket;
    int index;
    int status;
    bool runs;
    struct err e;
};

static void *fork_alone(void *arg)
{
    struct forker *f = arg;
    struct http_client *client = http_client_new(f->socket);
    struct op op = {clock_ms() + CALL_MS, -1};
    auto_free char *body = fork_body(f->index);
    auto_buf struct buf answer = BUF(ANSWER_MAX);

    f->status = http_call(&op, client, fork_request, body, &answer, &f->e);
    f->runs = f->status == 201 && strstr(buf_str(&answer), "\"Running\"") != NULL;
    http_client_free(client);
    return NULL;
}

static double at_once_ms(const struct bench *b, int n)
{
    auto_free char *socket = mem_printf("%s/h.sock", b->root);
    struct forker forkers[MOST_AT_ONCE] = {0};
    double began = now_us();

    for (int i = 0; i < n; i++) {
        forkers[i].socket = socket;
        forkers[i].index = i;
        if (pthread_create(&forkers[i].thread, NULL, fork_alone, &forkers[i]) != 0)
            give_up("no thread can be started");
    }
    for (int i = 0; i < n; i++) {
        (void)pthread_join(forkers[i].thread, NULL);
        must(forkers[i].status, &forkers[i].e);
        if (!forkers[i].runs)
            give_up("a fork of the burst does not run: status %d", forkers[i].status);
    }
    return (now_us() - began) / 1000;
}

static double in_a_row_ms(struct bench *b, int n)
{
    double began = now_us();

    for (int i = 0; i < n; i++) {
        auto_free char *body = fork_body(i);

        (void)api(b, fork_request, body, 201);
    }
    return (now_us() - began) / 1000;
}

/* Each is gone before the next: what the forks before it do costs it nothing. */
static double alone_ms(struct bench *b, int n)
{
    auto_free char *body = fork_body(0);
    double sum = 0;

    for (int i = 0; i < n; i++) {
        double began = now_us();

        (void)api(b, fork_request, body, 201);
        sum += now_us() - began;
        delete_vm(b, "fork-0");
    }
    return sum / 1000;
}

static void measure_burst(struct bench *b)
{
    struct samples row = {0};
    struct samples once = {0};
    struct samples ratio = {0};
    struct samples alone = {0};
    struct samples alone_ratio = {0};

    for (int i = 0; i < ROUNDS; i++) {
        samples_add(&row, in_a_row_ms(b, BURST));
        delete_forks(b, BURST);
        samples_add(&once, at_once_ms(b, BURST));
        delete_forks(b, BURST);
        samples_add(&ratio, once.v[i] / row.v[i]);
        samples_add(&alone, alone_ms(b, BURST));
        samples_add(&alone_ratio, once.v[i] / alone.v[i]);
    }
    bench_row(b, "sixteen_in_a_row", "ms", &row);
    bench_row(b, "sixteen_at_once", "ms", &once);
    bench_row(b, "burst_ratio", "x", &ratio);
    bench_row(b, "sixteen_each_alone", "ms", &alone);
    bench_row(b, "burst_ratio_to_alone", "x", &alone_ratio);
    samples_free(&row);
    samples_free(&once);
    samples_free(&ratio);
    samples_free(&alone);
    samples_free(&alone_ratio);
}

/* How the gain of doing them at once grows. */
static void measure_slope(struct bench *b)
{
    static const int sizes[] = {8, 16, MOST_AT_ONCE};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int n = sizes[i];
        auto_free char *once_name = mem_printf("at_once_%d", n);
        auto_free char *ratio_name = mem_printf("at_once_%d_to_in_a_row", n);
        struct samples once = {0};
        struct samples ratio = {0};

        for (int round = 0; round < ROUNDS; round++) {
            double row = in_a_row_ms(b, n);

            delete_forks(b, n);
            samples_add(&once, at_once_ms(b, n));
            delete_forks(b, n);
            samples_add(&ratio, once.v[round] / row);
        }
        bench_row(b, once_name, "ms", &once);
        bench_row(b, ratio_name, "x", &ratio);
        samples_free(&once);
        samples_free(&ratio);
    }
}

void bench_fork(struct bench *b)
{
    auto_free char *source = bench_vm(b);
    int n = b->iterations ? b->iterations : ITERATIONS;

    measure_running(b, source, n);
    (void)api(b, "POST /instances/bench/standby", NULL, 200);
    measure_alone(b, source, b->iterations || !may_be_doubled(b) ? n : FAST_ITERATIONS);
    measure_siblings(b, n < SIBLINGS ? n : SIBLINGS);
    if (may_be_doubled(b))
        measure_slope(b);
    else
        measure_burst(b);
    delete_vm(b, "bench");
}
