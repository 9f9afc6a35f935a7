/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cp: a file into a guest's memory file system and back, through the daemon's API, in
 * turns with as many bytes over the bare transport of another VM.
 */
#include <string.h>

#include "base/cleanup.h"
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

void bench_cp(struct bench *b)
{
    int n = b->iterations ? b->iterations : ITERATIONS;
    auto_free char *id = bench_vm(b);
    struct transport t;
    struct samples to = {0};
    struct samples from = {0};
    struct samples bare_to = {0};
    struct samples bare_from = {0};
    struct samples ratio_to = {0};
    struct samples ratio_from = {0};

    transport_open(b, &t);
    for (int i = 0; i < n; i++) {
        samples_add(&bare_to, transport_mb_s(&t, 's', FILE_BYTES));
        samples_add(&to, in_once(b));
        samples_add(&bare_from, transport_mb_s(&t, 'g', FILE_BYTES));
        samples_add(&from, out_once(b));
        samples_add(&ratio_to, to.v[i] / bare_to.v[i]);
        samples_add(&ratio_from, from.v[i] / bare_from.v[i]);
    }
    transport_close(&t);
    bench_row(b, "to_guest", "MB/s", &to);
    bench_row(b, "bare_to_guest", "MB/s", &bare_to);
    bench_row(b, "to_guest/bare", "ratio", &ratio_to);
    bench_row(b, "from_guest", "MB/s", &from);
    bench_row(b, "bare_from_guest", "MB/s", &bare_from);
    bench_row(b, "from_guest/bare", "ratio", &ratio_from);
    delete_vm(b, "bench");
    samples_free(&to);
    samples_free(&from);
    samples_free(&bare_to);
    samples_free(&bare_from);
    samples_free(&ratio_to);
    samples_free(&ratio_from);
}
