/* SPDX-License-Identifier: Apache-2.0 */
/*
 * list: GET /instances over the unix socket, with --instances rows of which --hung
 * belong to VMMs that are stopped (SIGSTOP), for --clients at once.
 *
 * The measure for one client is a bare copy: a thread that sends the same bytes over
 * a unix socket whenever it is asked, in turns with the lists. Hung or not is compared
 * in rounds, none and all in turns; the ratio is the median of the rounds'.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "bench.h"

enum {
    INSTANCES = 1000,
    HUNG = 64,
    CLIENTS = 8,
    LISTS = 200,
    ROUNDS = 11,
    LISTS_A_ROUND = 60,
    ROOM = 64 << 20,
    SETTLE_S = 8,
};

static const char request[] = "GET /instances HTTP/1.1\r\nHost: localhost\r\n\r\n";

/* --- one list --- */

/* The whole answer into room; its bytes. */
static size_t take_list(int fd, char *room)
{
    size_t have = 0;
    size_t want = 0;

    stream_send(fd, request, sizeof(request) - 1);
    while (want == 0 || have < want) {
        char *head_end;

        have += stream_receive(fd, room + have, ROOM - 1 - have);
        if (want > 0)
            continue;
        room[have] = '\0';
        head_end = strstr(room, "\r\n\r\n");
        if (head_end) {
            const char *length = strcasestr(room, "\r\nContent-Length: ");

            if (strncmp(room, "HTTP/1.1 200", 12) != 0 || !length)
                give_up("not a list: %.100s", room);
            want = (size_t)(head_end + 4 - room) + strtoull(length + 18, NULL, 10);
        }
    }
    return have;
}

static double timed_list(int fd, char *room)
{
    double began = now_us();

    (void)take_list(fd, room);
    return now_us() - began;
}

/* --- the bare copy --- */

struct copier {
    int fd;
    const char *data;
    size_t len;
};

static void *copy(void *arg)
{
    const struct copier *c = arg;
    char word[sizeof(request)];

    while (recv(c->fd, word, sizeof(request) - 1, MSG_WAITALL) == sizeof(request) - 1)
        stream_send(c->fd, c->data, c->len);
    return NULL;
}

static double timed_copy(int fd, size_t len, char *room)
{
    double began = now_us();

    stream_send(fd, request, sizeof(request) - 1);
    for (size_t have = 0; have < len;)
        have += stream_receive(fd, room + have, ROOM - have);
    return now_us() - began;
}

static void one_client(struct bench *b, char *room)
{
    struct samples lists = {0};
    struct samples copies = {0};
    int fd = stream_connect(b);
    int pair[2];
    size_t len = take_list(fd, room);
    auto_free char *data = memcpy(mem_zalloc(1, len), room, len);
    struct copier copier = {.data = data, .len = len};
    pthread_t thread;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        give_up("socketpair: %m");
    copier.fd = pair[1];
    if (pthread_create(&thread, NULL, copy, &copier) != 0)
        give_up("a thread cannot be made");
    for (int i = 0; i < (b->iterations ? b->iterations : LISTS); i++) {
        samples_add(&lists, timed_list(fd, room));
        samples_add(&copies, timed_copy(pair[0], len, room));
    }
    (void)shutdown(pair[0], SHUT_RDWR);
    pthread_join(thread, NULL);
    close(pair[0]);
    close(pair[1]);
    close(fd);
    bench_row(b, "one_client", "us", &lists);
    bench_row(b, "bare_copy", "us", &copies);
    bench_value(b,
                "one_client_by_bare_copy_p50",
                "ratio",
                samples_percentile(&lists, 0.5) / samples_percentile(&copies, 0.5));
    bench_value(b, "bytes", "B", (double)len);
    samples_free(&lists);
    samples_free(&copies);
}

/* --- many clients --- */

struct client {
    const struct bench *b;
    pthread_t thread;
    struct samples us;
};

static void *lists_in_a_row(void *arg)
{
    struct client *c = arg;
    auto_free char *room = mem_realloc(NULL, ROOM);
    int fd = stream_connect(c->b);

    for (int i = 0; i < LISTS_A_ROUND; i++)
        samples_add(&c->us, timed_list(fd, room));
    close(fd);
    return NULL;
}

/* Adds every list's time; returns the lists a second of all together. */
static double many_clients(const struct bench *b, int n, struct samples *us)
{
    struct client *clients = mem_zalloc((size_t)n, sizeof(*clients));
    double began = now_us();
    double took;

    for (int i = 0; i < n; i++) {
        clients[i].b = b;
        if (pthread_create(&clients[i].thread, NULL, lists_in_a_row, &clients[i]) != 0)
            give_up("a thread cannot be made");
    }
    for (int i = 0; i < n; i++)
        pthread_join(clients[i].thread, NULL);
    took = now_us() - began;
    for (int i = 0; i < n; i++) {
        for (size_t k = 0; k < clients[i].us.n; k++)
            samples_add(us, clients[i].us.v[k]);
        samples_free(&clients[i].us);
    }
    free(clients);
    return n * LISTS_A_ROUND / (took / 1e6);
}

/* --- none and all hung, in turns --- */

static void pause_s(double s)
{
    struct op op = {clock_ms() + (int64_t)(s * 1000) + 1000, -1};
    struct err e = {0};

    must(op_sleep(&op, (int64_t)(s * 1000), &e), &e);
}

struct round {
    struct samples none;
    struct samples all;
};

static void hung_rounds(struct bench *b, int clients)
{
    struct samples by_p50 = {0};
    struct samples by_p99 = {0};
    struct samples none = {0};
    struct samples all = {0};

    doubles_signal(b, SIGSTOP); /* once until the daemon knows */
    for (int i = 0; i < SETTLE_S; i++) {
        (void)api(b, "GET /instances", NULL, 200);
        pause_s(1);
    }
    for (int i = 0; i < ROUNDS; i++) {
        struct round r = {0};

        doubles_signal(b, SIGCONT);
        pause_s(0.3);
        (void)many_clients(b, clients, &r.none);
        doubles_signal(b, SIGSTOP);
        pause_s(0.3);
        (void)many_clients(b, clients, &r.all);
        samples_add(&by_p50, samples_percentile(&r.all, 0.5) / samples_percentile(&r.none, 0.5));
        samples_add(&by_p99, samples_percentile(&r.all, 0.99) / samples_percentile(&r.none, 0.99));
        for (size_t k = 0; k < r.all.n; k++) {
            samples_add(&none, r.none.v[k]);
            samples_add(&all, r.all.v[k]);
        }
        samples_free(&r.none);
        samples_free(&r.all);
    }
    doubles_signal(b, SIGCONT);
    bench_row(b, "none_hung", "us", &none);
    bench_row(b, "all_hung", "us", &all);
    bench_row(b, "all_by_none_hung_p50", "ratio", &by_p50);
    bench_row(b, "all_by_none_hung_p99", "ratio", &by_p99);
    samples_free(&none);
    samples_free(&all);
    samples_free(&by_p50);
    samples_free(&by_p99);
}

void bench_list(struct bench *b)
{
    int instances = b->instances ? b->instances : INSTANCES;
    int hung = b->hung ? b->hung : HUNG;
    int clients = b->clients ? b->clients : CLIENTS;
    auto_free char *room = mem_realloc(NULL, ROOM);
    struct samples us = {0};
    double rate;

    if (hung > instances)
        hung = instances;
    bench_image(b);
    if (instances > hung)
        records_add(b, 0, instances - hung);
    doubles_run(b, 0, hung);
    one_client(b, room);
    rate = many_clients(b, clients, &us);
    bench_row(b, "clients", "us", &us);
    bench_value(b, "clients_requests_per_second", "1/s", rate);
    hung_rounds(b, clients);
    doubles_signal(b, SIGKILL);
    samples_free(&us);
}
