/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exec: one byte to a "cat" in a guest and back, through the daemon's API, in turns with
 * the same on the bare transport of another VM; and a command from its request to its
 * exit code, most of which is the guest's fork and exec.
 */
#include <string.h>

#include "base/cleanup.h"
#include "bench.h"
#include "transport.h"

enum { ITERATIONS = 500, COMMANDS = 50 };

static double echo_once(struct socket *s)
{
    size_t want = s->received + 1;
    double began = now_us();

    socket_send(s, "x", 1);
    socket_fill(s, want);
    if (s->received != want)
        give_up("the command in the guest has ended: %s", s->text);
    return now_us() - began;
}

static double command_once(struct bench *b)
{
    struct socket s;
    double began = now_us();
    double ended;

    socket_open(b, &s, "bench/exec", "{\"command\":[\"/bin/true\"]}");
    socket_fill(&s, SIZE_MAX);
    ended = now_us();
    if (!strstr(s.text, "\"exitCode\":0"))
        give_up("/bin/true did not run: %s", s.text);
    socket_close(&s);
    return (ended - began) / 1000;
}

void bench_exec(struct bench *b)
{
    int n = b->iterations ? b->iterations : ITERATIONS;
    auto_free char *id = bench_vm(b);
    struct transport t;
    struct socket s;
    struct samples bare = {0};
    struct samples ours = {0};
    struct samples difference = {0};
    struct samples command = {0};

    transport_open(b, &t);
    transport_echoes(&t);
    socket_open(b, &s, "bench/exec", "{\"command\":[\"/bin/cat\"]}");
    for (int i = 0; i < 10; i++) { /* warms both */
        (void)transport_echo_us(&t);
        (void)echo_once(&s);
    }
    for (int i = 0; i < n; i++) {
        samples_add(&bare, transport_echo_us(&t));
        samples_add(&ours, echo_once(&s));
        samples_add(&difference, ours.v[i] - bare.v[i]);
    }
    socket_close(&s);
    for (int i = 0; i < COMMANDS; i++)
        samples_add(&command, command_once(b));
    transport_close(&t);
    bench_row(b, "echo", "us", &ours);
    bench_row(b, "bare_echo", "us", &bare);
    bench_row(b, "difference", "us", &difference);
    bench_row(b, "true", "ms", &command);
    delete_vm(b, "bench");
    samples_free(&bare);
    samples_free(&ours);
    samples_free(&difference);
    samples_free(&command);
}
