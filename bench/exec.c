/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exec: one byte to a "cat" in a guest and back, through the daemon's API, in turns with
 * the same on the bare transport of another VM: echoed by its init at once, echoed by
 * a program behind the init, as cat is behind our agent, and that through a process of the
 * host in between, as the daemon is one. And a command from its request to
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

enum echo_path { OURS, AT_ONCE, OF_A_PROGRAM, THROUGH_A_PROCESS, N_ECHOES };

static double echo_us(struct socket *s, struct transport *t, enum echo_path path)
{
    if (path == AT_ONCE)
        return transport_echo_us(t, ECHO_AT_ONCE);
    if (path == OF_A_PROGRAM)
        return transport_echo_us(t, ECHO_RELAYED);
    if (path == THROUGH_A_PROCESS)
        return transport_relayed_echo_us(t, ECHO_RELAYED);
    return socket_echo_us(s);
}

struct series {
    struct samples echo[N_ECHOES], over[N_ECHOES]; /* over: how much longer ours takes */
    struct samples bare_program, program, over_program;
};

static void echoes(struct bench *b, struct transport *t, struct series *all, int n)
{
    struct socket s;

    socket_open(b, &s, "bench/exec", "{\"command\":[\"/bin/cat\"]}");
    for (int i = -WARM_UPS; i < n; i++) {
        double us[N_ECHOES];

        /* The second of two: what a machine has just done it does faster. */
        for (size_t k = 0; k < 2 * N_ECHOES; k++)
            us[k / 2] = echo_us(&s, t, (enum echo_path)(k / 2));
        for (size_t k = 0; k < N_ECHOES && i >= 0; k++) {
            samples_add(&all->echo[k], us[k]);
            samples_add(&all->over[k], us[OURS] - us[k]);
        }
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
        {"echo", "us", &all->echo[OURS]},
        {"bare_echo", "us", &all->echo[AT_ONCE]},
        {"bare_echo_of_a_program", "us", &all->echo[OF_A_PROGRAM]},
        {"bare_echo_through_a_process", "us", &all->echo[THROUGH_A_PROCESS]},
        {"echo_over_bare", "us", &all->over[AT_ONCE]},
        {"echo_over_bare_program", "us", &all->over[OF_A_PROGRAM]},
        {"echo_over_bare_through_a_process", "us", &all->over[THROUGH_A_PROCESS]},
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
    transport_relay(&t);
    echoes(b, &t, &all, b->iterations ? b->iterations : ITERATIONS);
    programs(b, &t, &all);
    transport_close(&t);
    delete_vm(b, "bench");
    report(b, &all);
}
