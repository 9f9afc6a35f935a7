/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every benchmark stands on: samples and their percentiles, rows that print as
 * a table or as JSON, and a daemon of its own in a temporary directory.
 *
 * Numbers of different machines do not compare; the rows that count are ratios and
 * differences of things measured in one run, in turns. A benchmark judges nothing.
 *
 * One thread; everything blocks. What cannot go on ends the program with the reason.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "http/client.h"
#include "loop/proc.h"
#include "vmm/vmm.h"

struct samples {
    double *v;
    size_t n;
};
void samples_add(struct samples *s, double v);
void samples_free(struct samples *s);

enum { MAX_ROWS = 64 };

struct bench_row {
    char name[64];
    const char *unit;
    size_t n;
    double p50, p99, max;
};

struct bench {
    const char *name;
    const char *binary; /* of the hypeman under test */
    int iterations;     /* 0: the benchmark's own choice, as for the next four */
    int instances;
    int hung;
    int parked;
    int clients;
    const char *hypervisor; /* "firecracker": the real one that HYPEMAN_TEST_FIRECRACKER names, else
                               its double; NULL: the daemon's choice */
    const char *guest;      /* of tests/guests: a kernel of a few instructions; NULL: a Linux */
    const char *filesystem; /* of the data directory, on a loop device; NULL: that of TMPDIR */
    struct bench_row rows[MAX_ROWS];
    size_t n_rows;

    char root[256]; /* temporary directory, removed at the end */
    int root_fd;
    bool is_mounted;
    struct vmm_process daemon;
    struct http_client *client;
};

void bench_row(struct bench *b, const char *name, const char *unit, const struct samples *s);
void bench_value(struct bench *b, const char *name, const char *unit, double v); /* n = 1 */

/* Mounts a new b->filesystem on <root>/data, and takes it away again. Root only. */
void data_mount(struct bench *b);
void data_unmount(struct bench *b);

/* The daemon on <root>/data. Starting again takes up what the last one left. */
void daemon_start(struct bench *b);
void daemon_stop(struct bench *b); /* SIGTERM */

/* A second daemon beside it, in a directory and a network namespace of its own. */
void twin_start(struct bench *twin, const struct bench *b);
void twin_stop(struct bench *twin);

/* With the rights to it into a new network namespace: the guests' network is not this host's then,
 * nor that of a daemon that was started before. */
void step_aside(void);

/* The path of a double or a guest of the daemon's build. The caller's. */
char *built_for_tests(const struct bench *b, const char *where, const char *name);

/* A call that must answer with this status; the body, as a string that lives until the next call.
 */
const char *api(struct bench *b, const char *request, const char *body, int want_status);

/* An image named "bench" with a busybox in it that sleeps. */
void bench_image(struct bench *b);

/* The bench image as a running VM of 256MB and one vCPU; its id, which is the caller's. */
char *bench_vm(struct bench *b);
void delete_vm(struct bench *b, const char *name);

/* --- doubles.c --- */

/* Before the daemon starts: it runs VMMs that are doubles (tests/doubles). */
void doubles_set_up(struct bench *b);
void doubles_run(struct bench *b, int from, int to); /* vm-0, vm-1, ...; until they are Running */
void doubles_each(const struct bench *b, void (*fn)(void *arg, pid_t pid), void *arg);
void doubles_signal(const struct bench *b, int number);

/* The daemon to come has this one for a default: its double, unless the environment names another.
 */
void use_hypervisor(const struct bench *b);

/* --- stream.c: a connection of its own to the daemon, for what api() cannot --- */
int stream_connect(const struct bench *b);
void stream_send(int fd, const char *data, size_t len);
size_t stream_receive(int fd, char *to, size_t room); /* at least one byte */

/* Such a guest has no agent to say that it runs: what would have been said goes into its record.
 * Starts the daemon anew, which takes the VM up by that. */
void record_as_running(struct bench *b, const char *id);

/* Records as real stopped instances leave them: instance-0, ... Starts the daemon anew. */
void records_add(struct bench *b, int from, int to);

double samples_percentile(struct samples *s, double p); /* sorts them */

/*
 * Where the time of operations went, by GET /debug/traces: milliseconds by span. A
 * span that comes twice in an operation counts as their sum.
 */
enum { MAX_PHASES = 24 };
struct phases {
    struct {
        char name[48];
        struct samples ms;
    } all[MAX_PHASES];
    size_t n;
};
/* Takes the newest operation of that name on that instance. */
void phases_add(struct bench *b, struct phases *p, const char *operation, const char *id);
double phases_last(const struct phases *p, const char *name); /* 0: there is none */
/* Of a restore or fork: from the spawn of the VMM to its exec, its own start, load, resume. */
double phases_vmm(const struct phases *p);
/* Of the same: how long it stood still for the disk. */
double phases_disk(const struct phases *p);
void phases_rows(struct bench *b, struct phases *p); /* one row each, "span_NAME" */
void phases_free(struct phases *p);

/* For how long, in ticks, this machine's own host has kept its processors from it. What was
 * measured while that grew is no measure of ours. */
double processors_stolen(void);

/* The process that lives in the instance's directory. */
pid_t vmm_pid(const struct bench *b, const char *id);

/*
 * One line on standard error for a fork that was just made: its spans, and what its VMM
 * had to fetch from the disk so far.
 */
void breakdown_print(const struct bench *b, const struct phases *p, int i, const char *id,
                     double total_ms);

/* --- disk.c: in the data directory, what a commit waits for, and what a fork of that instance,
 * which sleeps, waits for with its commit --- */
double bare_commit_ms(const struct bench *b);
double bare_fork_ms(const struct bench *b, const char *source);

/* Firecracker alone, from its spawn to a socket that takes a connection. */
double bare_start_ms(struct bench *b);

double rollup_kib(pid_t pid, const char *field); /* of /proc/PID/smaps_rollup */

double now_us(void);
__attribute__((noreturn, format(printf, 1, 2))) void give_up(const char *fmt, ...);
void must(int rc, const struct err *e); /* gives up with e when rc < 0 */

/* --- answer.c --- */
void measure_first_answers(struct bench *b);

/* --- connections.c; the first in a network namespace of ours, the other with such a VM --- */
void measure_connections(struct bench *b);
void measure_usage_calls(struct bench *b, const char *name);

/* The benchmarks. */
void bench_boot(struct bench *b);
void bench_start(struct bench *b);
void bench_footprint(struct bench *b);
void bench_standby(struct bench *b);
void bench_restore(struct bench *b);
void bench_fork(struct bench *b);
void bench_exec(struct bench *b);
void bench_cp(struct bench *b);
void bench_guest(struct bench *b);
void bench_network(struct bench *b);
void bench_list(struct bench *b);
void bench_parked(struct bench *b);
void parked_set_up(struct bench *b);
void bench_exit(struct bench *b);
void bench_slope(struct bench *b);
