/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exec: one byte to a "cat" in a guest and back, through the daemon's API, in turns with
 * the same on the bare transport of another VM: echoed by its init at once, and echoed by
 * a program behind the init, as cat is behind our agent. And a command from its request to
 * its exit code, in turns with the bare init's running the same program.
 */
#include <string.h>

#include "base/cleanup.h"
#include "bench.h"
#include "transport.h"

enum { ITERATIONS = 500, PROGRAMS = 100, WARM_UPS = 10 };

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

struct series {
    struct samples at_once, relayed, ours;
    struct samples over_at_once, over_relayed;
    struct samples bare_program, program, over_program;
};

static void echoes(struct bench *b, struct transport *t, struct series *all, int n)
{
    struct socket s;

    socket_open(b, &s, "bench/exec", "{\"command\":[\"/bin/cat\"]}");
    for (int i = 0; i < WARM_UPS; i++) {
        (void)transport_echo_us(t, ECHO_AT_ONCE);
        (void)transport_echo_us(t, ECHO_RELAYED);
        (void)socket_echo_us(&s);
    }
    for (int i = 0; i < n; i++) {
        samples_add(&all->at_once, transport_echo_us(t, ECHO_AT_ONCE));
        samples_add(&all->ours, socket_echo_us(&s));
        samples_add(&all->relayed, transport_echo_us(t, ECHO_RELAYED));
        samples_add(&all->over_at_once, all->ours.v[i] - all->at_once.v[i]);
        samples_add(&all->over_relayed, all->ours.v[i] - all->relayed.v[i]);
    }
    socket_close(&s);
}

static void programs(struct bench *b, struct transport *t, struct series *all)
{
    for (int i = 0; i < PROGRAMS; i++) {
        samples_add(&all->bare_program, transport_echo_us(t, ECHO_PROGRAM) / 1000);
        samples_add(&all->program, command_once(b));
        samples_add(&all->over_program, all->program.v[i] - all->bare_program.v[i]);
    }
}

static void report(struct bench *b, struct series *all)
{
    const struct {
        const char *name, *unit;
        struct samples *of;
    } rows[] = {
        {"echo", "us", &all->ours},
        {"bare_echo", "us", &all->at_once},
        {"bare_echo_of_a_program", "us", &all->relayed},
        {"echo_over_bare", "us", &all->over_at_once},
        {"echo_over_bare_program", "us", &all->over_relayed},
        {"true", "ms", &all->program},
        {"bare_true", "ms", &all->bare_program},
        {"true_over_bare", "ms", &all->over_program},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        bench_row(b, rows[i].name, rows[i].unit, rows[i].of);
        samples_free(rows[i].of);
    }
}

void bench_exec(struct bench *b)
{
    auto_free char *id = bench_vm(b);
    struct series all = {0};
    struct transport t;

    transport_open(b, &t);
    transport_echoes(&t);
    echoes(b, &t, &all, b->iterations ? b->iterations : ITERATIONS);
    programs(b, &t, &all);
    transport_close(&t);
    delete_vm(b, "bench");
    report(b, &all);
}
