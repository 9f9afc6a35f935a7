/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "bench.h"

enum { CONSOLE_MS = 20000 };

static struct samples *phase(struct phases *p, const char *name)
{
    for (size_t i = 0; i < p->n; i++) {
        if (strcmp(p->all[i].name, name) == 0)
            return &p->all[i].ms;
    }
    if (p->n == MAX_PHASES)
        give_up("more spans than expected: %s", name);
    (void)snprintf(p->all[p->n].name, sizeof(p->all[p->n].name), "%s", name);
    return &p->all[p->n++].ms;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static bool came_before(const json_t *spans, size_t i)
{
    for (size_t k = 0; k < i; k++) {
        if (strcmp(text_of(json_array_get(spans, k), "name"),
                   text_of(json_array_get(spans, i), "name")) == 0)
            return true;
    }
    return false;
}

static void add_spans(struct phases *p, const json_t *spans)
{
    for (size_t i = 0; i < json_array_size(spans); i++) {
        const json_t *span = json_array_get(spans, i);
        double ms = (double)json_integer_value(json_object_get(span, "duration_us")) / 1000;
        struct samples *s = phase(p, text_of(span, "name"));

        if (came_before(spans, i))
            s->v[s->n - 1] += ms;
        else
            samples_add(s, ms);
    }
}

void phases_add(struct bench *b, struct phases *p, const char *operation, const char *id)
{
    json_auto_t *traces = json_loads(api(b, "GET /debug/traces", NULL, 200), 0, NULL);

    for (size_t i = 0; i < json_array_size(traces); i++) {
        const json_t *trace = json_array_get(traces, i);

        if (strcmp(text_of(trace, "name"), operation) == 0 &&
            strcmp(text_of(trace, "instance_id"), id) == 0) {
            add_spans(p, json_object_get(trace, "spans"));
            return;
        }
    }
    give_up("no trace of %s on %s", operation, id);
}

double phases_last(const struct phases *p, const char *name)
{
    for (size_t i = 0; i < p->n; i++) {
        if (strcmp(p->all[i].name, name) == 0)
            return p->all[i].ms.v[p->all[i].ms.n - 1];
    }
    return 0;
}

double phases_vmm(const struct phases *p)
{
    return phases_last(p, "hypervisor.start_process") + phases_last(p, "restore_from_snapshot") +
           phases_last(p, "resume_vm");
}

static bool has(const struct phases *p, const char *name)
{
    for (size_t i = 0; i < p->n; i++) {
        if (strcmp(p->all[i].name, name) == 0)
            return true;
    }
    return false;
}

/* Where the commit goes on beside the VMM's start its own span is no wait. */
double phases_disk(const struct phases *p)
{
    return phases_last(p, "await_directory") +
           phases_last(p, has(p, "await_commit") ? "await_commit" : "store.commit");
}

void phases_rows(struct bench *b, struct phases *p)
{
    for (size_t i = 0; i < p->n; i++) {
        auto_free char *name = mem_printf("span_%s", p->all[i].name);

        bench_row(b, name, "ms", &p->all[i].ms);
    }
}

void phases_free(struct phases *p)
{
    for (size_t i = 0; i < p->n; i++)
        samples_free(&p->all[i].ms);
    p->n = 0;
}

/* Its first words; all that such a guest does. */
static void await_console(const struct bench *b, const char *id)
{
    auto_free char *path = mem_printf("%s/data/instances/%s/" VMM_SERIAL_LOG, b->root, id);
    struct op patience = {clock_ms() + CONSOLE_MS, -1};
    struct err e = {0};

    for (;;) {
        auto_buf struct buf text = BUF(65536);

        must(file_read(AT_FDCWD, path, &text, &e), &e);
        if (strstr(buf_str(&text), "up"))
            return;
        must(op_sleep(&patience, 5, &e), &e);
    }
}

char *bench_vm(struct bench *b)
{
    auto_free char *body =
        mem_printf("{\"name\":\"bench\",\"image\":\"bench\",\"size\":\"256MB\",\"vcpus\":1,"
                   "\"overlay_size\":\"1GB\",\"skip_guest_agent\":%s}",
                   b->guest ? "true" : "false");
    json_auto_t *row = NULL;

    bench_image(b);
    row = json_loads(api(b, "POST /instances", body, 201), 0, NULL);
    if (b->guest) {
        await_console(b, text_of(row, "id"));
        record_as_running(b, text_of(row, "id"));
    }
    if (!strstr(api(b, "GET /instances/bench/wait?state=Running", NULL, 200), "Running"))
        give_up("the instance did not come up");
    return mem_strdup(text_of(row, "id"));
}

void delete_vm(struct bench *b, const char *name)
{
    auto_free char *request = mem_printf("DELETE /instances/%s?graceful_shutdown=false", name);

    (void)api(b, request, NULL, 204);
}
