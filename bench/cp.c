/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cp: a file into a guest's memory file system and back, through the daemon's API, in
 * turns with as many bytes over the bare transport of another VM: thrown away and made
 * there, and into a file and out of it, which is the guest's own part of a copy.
 */
#include <string.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "bench.h"
#include "transport.h"

enum { ITERATIONS = 5, FILE_BYTES = 32 << 20 };

static double in_once(struct bench *b)
{
    static char chunk[32 * 1024];
    struct socket s;
    double began = now_us();
    double ended;

    memset(chunk, 'x', sizeof(chunk)); /* not zeros, which become holes */
    socket_open(b, &s, "bench/cp", "{\"direction\":\"to\",\"guest_path\":\"/dev/shm/bench\"}");
    for (size_t at = 0; at < FILE_BYTES; at += sizeof(chunk))
        socket_send(&s, chunk, sizeof(chunk));
    socket_text(&s, "{\"type\":\"end\"}");
    socket_fill(&s, SIZE_MAX);
    ended = now_us();
    if (!strstr(s.text, "\"success\":true"))
        give_up("the copy into the guest failed: %s", s.text);
    socket_close(&s);
    return FILE_BYTES / (ended - began);
}

static double out_once(struct bench *b)
{
    struct socket s;
    double began = now_us();
    double ended;

    socket_open(b, &s, "bench/cp", "{\"direction\":\"from\",\"guest_path\":\"/dev/shm/bench\"}");
    socket_fill(&s, SIZE_MAX);
    ended = now_us();
    if (s.received != FILE_BYTES)
        give_up("the copy out of the guest is short: %zu bytes, %s", s.received, s.text);
    socket_close(&s);
    return FILE_BYTES / (ended - began);
}

/* One direction: ours, the bare transport, and the bare transport with a file at its end. */
struct direction {
    const char *name;
    double (*ours)(struct bench *b);
    char bare, bare_file; /* echo_init.c */
    struct samples mb_s, bare_mb_s, file_mb_s, over_bare, over_file;
};

static void measure(struct bench *b, struct transport *t, struct direction *d)
{
    size_t i = d->mb_s.n;

    samples_add(&d->bare_mb_s, transport_mb_s(t, d->bare, FILE_BYTES));
    samples_add(&d->mb_s, d->ours(b));
    samples_add(&d->file_mb_s, transport_mb_s(t, d->bare_file, FILE_BYTES));
    samples_add(&d->over_bare, d->mb_s.v[i] / d->bare_mb_s.v[i]);
    samples_add(&d->over_file, d->mb_s.v[i] / d->file_mb_s.v[i]);
}

static void report(struct bench *b, struct direction *d)
{
    const struct {
        const char *name, *unit;
        struct samples *of;
    } rows[] = {
        {"%s", "MB/s", &d->mb_s},
        {"bare_%s", "MB/s", &d->bare_mb_s},
        {"bare_%s_file", "MB/s", &d->file_mb_s},
        {"%s/bare", "ratio", &d->over_bare},
        {"%s/bare_file", "ratio", &d->over_file},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *at = strstr(rows[i].name, "%s");
        auto_free char *name =
            mem_printf("%.*s%s%s", (int)(at - rows[i].name), rows[i].name, d->name, at + 2);

        bench_row(b, name, rows[i].unit, rows[i].of);
        samples_free(rows[i].of);
    }
}

void bench_cp(struct bench *b)
{
    int n = b->iterations ? b->iterations : ITERATIONS;
    auto_free char *id = bench_vm(b);
    struct direction to = {.name = "to_guest", .ours = in_once, .bare = 's', .bare_file = 'w'};
    struct direction from = {.name = "from_guest", .ours = out_once, .bare = 'g', .bare_file = 'r'};
    struct transport t;

    transport_open(b, &t);
    for (int i = 0; i < n; i++) {
        measure(b, &t, &to);
        measure(b, &t, &from);
    }
    transport_close(&t);
    delete_vm(b, "bench");
    report(b, &to);
    report(b, &from);
}
