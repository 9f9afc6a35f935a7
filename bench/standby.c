/* SPDX-License-Identifier: Apache-2.0 */
/*
 * standby: from Running to Standby, in turns with the bare stream of the same guest:
 * a migration to a file as fast as it goes, and the file on the disk.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "bench.h"
#include "vmm/qmp.h"

enum { ITERATIONS = 10, STREAM_MS = 60000 };

static void await_stream(const struct op *op, struct qmp *q)
{
    struct err e = {0};

    for (;;) {
        json_auto_t *event = qmp_next_event(op, q, &e);
        const char *status = json_string_value(json_object_get(event, "status"));

        must(event ? 0 : -1, &e);
        if (status && strcmp(status, "completed") == 0)
            return;
        if (status && strcmp(status, "failed") == 0)
            give_up("the bare stream failed");
    }
}

static void stream(const struct op *op, struct qmp *q, int file_fd)
{
    struct err e = {0};
    json_t *given;

    must(qmp_do(op, q, "stop", NULL, &e), &e);
    given = qmp_call_fd(op, q, "getfd", "{\"fdname\":\"bench\"}", file_fd, &e);
    must(given ? 0 : -1, &e);
    json_decref(given);
    must(qmp_do(op, q, "migrate", "{\"uri\":\"fd:bench\"}", &e), &e);
    await_stream(op, q);
    if (fsync(file_fd) < 0)
        give_up("the bare stream cannot be synced");
}

/* No operation runs on the instance, so its api.sock is free. */
static double bare_ms(struct bench *b, const char *id)
{
    struct op op = {clock_ms() + STREAM_MS, -1};
    struct err e = {0};
    auto_free char *path = mem_printf("%s/data/instances/%s", b->root, id);
    auto_close int dir_fd = dir_open(AT_FDCWD, path, &e);
    auto_close int file_fd =
        openat(b->root_fd, "stream", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    auto_qmp struct qmp q = QMP_CLOSED;
    double began;
    double took;

    must(dir_fd < 0 ? -1 : qmp_open(&op, dir_fd, VMM_API_SOCKET, &q, &e), &e);
    must(qmp_do(&op, &q, "migrate-set-parameters", "{\"max-bandwidth\":0}", &e), &e);
    must(qmp_do(&op,
                &q,
                "migrate-set-capabilities",
                "{\"capabilities\":[{\"capability\":\"events\",\"state\":true}]}",
                &e),
         &e);
    qmp_want(&q, "MIGRATION");
    began = now_us();
    stream(&op, &q, file_fd);
    took = (now_us() - began) / 1000;
    must(qmp_do(&op, &q, "cont", NULL, &e), &e);
    (void)unlinkat(b->root_fd, "stream", 0);
    return took;
}

void bench_standby(struct bench *b)
{
    int n = b->iterations ? b->iterations : ITERATIONS;
    auto_free char *id = bench_vm(b);
    struct samples total = {0};
    struct samples bare = {0};
    struct samples ratio = {0};
    struct phases phases = {0};

    for (int i = 0; i < n; i++) {
        double theirs = bare_ms(b, id);
        double ms;
        double began;

        (void)api(b, "GET /instances/bench/wait?state=Running", NULL, 200);
        began = now_us();
        (void)api(b, "POST /instances/bench/standby", NULL, 200);
        ms = (now_us() - began) / 1000;
        phases_add(b, &phases, "instances.standby", id);
        (void)api(b, "POST /instances/bench/restore", NULL, 200);
        samples_add(&total, ms);
        samples_add(&bare, theirs);
        samples_add(&ratio, ms / theirs);
    }
    bench_row(b, "total", "ms", &total);
    phases_rows(b, &phases);
    bench_row(b, "bare_stream_fsync", "ms", &bare);
    bench_row(b, "ratio", "x", &ratio);
    delete_vm(b, "bench");
    samples_free(&total);
    samples_free(&bare);
    samples_free(&ratio);
    phases_free(&phases);
}
