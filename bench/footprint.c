/* SPDX-License-Identifier: Apache-2.0 */
/*
 * footprint: what the daemon itself costs. Private dirty memory with nothing in it,
 * per stopped instance (from the slope between 1,000 and 10,000 records), per running
 * one (from real VMs), and how often it wakes up while nothing happens.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "bench.h"

enum { FEW = 1000, MANY = 10000, RUNNING = 8, QUIET_MS = 10000 };

static double dirty_kib(const struct bench *b)
{
    return rollup_kib(b->daemon.id.pid, "Private_Dirty");
}

/* How often any of its threads went to sleep so far. */
static double wakeups(const struct bench *b)
{
    auto_free char *path = mem_printf("/proc/%d/task", (int)b->daemon.id.pid);
    DIR *dir = opendir(path);
    const struct dirent *task;
    double n = 0;

    while (dir && (task = readdir(dir)) != NULL) {
        auto_free char *status = mem_printf("%s/%s/status", path, task->d_name);
        auto_buf struct buf text = BUF(65536);
        struct err ignored = {0};
        const char *at;

        if (task->d_name[0] != '.' && file_read(AT_FDCWD, status, &text, &ignored) == 0 &&
            (at = strstr(buf_str(&text), "\nvoluntary_ctxt_switches:")) != NULL)
            n += strtod(at + strlen("\nvoluntary_ctxt_switches:"), NULL);
    }
    if (dir)
        closedir(dir);
    return n;
}

static double wakeups_per_second(const struct bench *b)
{
    struct op op = {clock_ms() + QUIET_MS + 1000, -1};
    struct err e = {0};
    double before;

    must(op_sleep(&op, 1000, &e), &e); /* what the last request still had to do */
    op.deadline_ms = clock_ms() + QUIET_MS + 1000;
    before = wakeups(b);
    must(op_sleep(&op, QUIET_MS, &e), &e);
    return (wakeups(b) - before) * 1000 / QUIET_MS;
}

static double dirty_with_records(struct bench *b, int from, int to)
{
    records_add(b, from, to);
    return dirty_kib(b);
}

/* A program that links what the daemon links and does nothing: what is the libraries' own. */
static double rss_of_linked_kib(const struct bench *b)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct op op = {clock_ms() + 10000, -1};
    struct vmm_process p;
    struct err e = {0};
    double rss;

    argv_push(&argv, "/proc/self/exe");
    argv_push(&argv, "linked");
    p.pidfd = proc_spawn(&spec, &p.id, &e);
    must(p.pidfd, &e);
    must(op_sleep(&op, 300, &e), &e);
    rss = rollup_kib(p.id.pid, "Rss");
    (void)b;
    must(proc_kill(&op, p.pidfd, &e), &e);
    close(p.pidfd);
    return rss;
}

static void run_vms(struct bench *b, int from, int to)
{
    for (int i = from; i < to; i++) {
        auto_free char *body = mem_printf("{\"name\":\"vm-%d\",\"image\":\"bench\",\"size\":"
                                          "\"128MB\",\"vcpus\":1,\"overlay_size\":\"1GB\"}",
                                          i);
        auto_free char *wait = mem_printf("GET /instances/vm-%d/wait?state=Running", i);

        (void)api(b, "POST /instances", body, 201);
        if (!strstr(api(b, wait, NULL, 200), "\"Running\""))
            give_up("vm-%d did not come up", i);
    }
}

void bench_footprint(struct bench *b)
{
    double idle = dirty_kib(b);
    double one;
    double few;
    double many;

    bench_value(b, "daemon_private_dirty", "KiB", idle);
    bench_value(b, "daemon_rss", "KiB", rollup_kib(b->daemon.id.pid, "Rss"));
    bench_value(b, "linked_program_rss", "KiB", rss_of_linked_kib(b));
    bench_image(b);
    run_vms(b, 0, 1);
    one = dirty_kib(b);
    run_vms(b, 1, 1 + RUNNING);
    bench_value(b, "per_running_instance", "KiB", (dirty_kib(b) - one) / RUNNING);
    bench_value(b, "wakeups_per_second_9_running", "1/s", wakeups_per_second(b));
    for (int i = 0; i < 1 + RUNNING; i++) {
        auto_free char *request = mem_printf("DELETE /instances/vm-%d?graceful_shutdown=false", i);

        (void)api(b, request, NULL, 204);
    }
    few = dirty_with_records(b, 0, FEW);
    many = dirty_with_records(b, FEW, MANY);
    bench_value(b, "per_stopped_instance", "KiB", (many - few) / (MANY - FEW));
    bench_value(b, "wakeups_per_second_10000_stopped", "1/s", wakeups_per_second(b));
}
