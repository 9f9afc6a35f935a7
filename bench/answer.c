/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fork to its first answer over HTTP, asked by the host: as it is, and, in turns with
 * that, with a guest that is given its network by its agent first, which is what a fork
 * needs where guests know their own addresses.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "bench.h"
#include "net/address.h"
#include "transport.h"

enum { FORKS = 10, ANSWER_MS = 30000 };

static void web_image(struct bench *b)
{
    struct err e = {0};
    auto_close int bin_fd = -1;
    auto_buf struct buf busybox = BUF(16 << 20);
    auto_free char *body = mem_printf(
        "{\"name\":\"web\",\"source\":\"dir:%s/web\",\"cmd\":[\"/bin/busybox\",\"httpd\","
        "\"-f\",\"-p\",\"80\",\"-h\",\"/bin\"]}",
        b->root);

    must(dir_ensure(b->root_fd, "web", 0755, &e), &e);
    must(dir_ensure(b->root_fd, "web/bin", 0755, &e), &e);
    bin_fd = openat(b->root_fd, "web/bin", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    must(file_read(AT_FDCWD, "/bin/busybox", &busybox, &e), &e);
    must(file_replace(bin_fd, "busybox", 0755, busybox.data, busybox.len, &e), &e);
    must(file_replace(bin_fd, "index.html", 0644, "hello\n", 6, &e), &e);
    (void)api(b, "POST /images/import", body, 201);
}

static uint32_t address_in(const char *answer)
{
    json_auto_t *row = json_loads(answer, 0, NULL);
    const char *ip = json_string_value(json_object_get(json_object_get(row, "network"), "ip"));
    uint32_t address;

    if (!ip || !address_parse(ip, &address))
        give_up("the instance has no address; has this host no network to offer?");
    return address;
}

/* One request; false if it came to nothing. */
static bool ask(uint32_t address)
{
    static const char request[] = "GET /index.html HTTP/1.0\r\n\r\n";
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(80), .sin_addr.s_addr = htonl(address)};
    auto_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char answer[512];

    return connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0 &&
           write(fd, request, sizeof(request) - 1) == (ssize_t)sizeof(request) - 1 &&
           read(fd, answer, sizeof(answer)) > 0;
}

static void until_answer(uint32_t address)
{
    int64_t end = clock_ms() + ANSWER_MS;

    while (!ask(address)) {
        if (clock_ms() > end)
            give_up("no answer over HTTP");
        (void)poll(NULL, 0, 5);
    }
}

struct answers {
    struct samples request, reconfigured, answer, total, deleted;
    struct phases phases;
};

/* What changes an address in a guest; it is the same one again, for the mapping's sake. */
static void reconfigure(struct bench *b)
{
    struct socket s;

    socket_open(b,
                &s,
                "fork/exec",
                "{\"command\":[\"/bin/busybox\",\"sh\",\"-c\",\""
                "busybox ip addr flush dev eth0 && busybox ip addr add 192.0.0.2/29 dev eth0 && "
                "busybox ip route add default via 192.0.0.1\"]}");
    socket_fill(&s, SIZE_MAX);
    if (!strstr(s.text, "\"exitCode\":0"))
        give_up("the guest was not reconfigured: %s %s", s.text, s.first);
    socket_close(&s);
}

static void fork_and_ask(struct bench *b, struct answers *a, bool reconfigures)
{
    double began = now_us();
    const char *row =
        api(b, "POST /instances/web/fork", "{\"name\":\"fork\",\"target_state\":\"Running\"}", 201);
    double forked = now_us();
    json_auto_t *doc = json_loads(row, 0, NULL);
    uint32_t address = address_in(row);
    double ready;

    if (reconfigures)
        reconfigure(b);
    ready = now_us();
    until_answer(address);
    samples_add(&a->request, (forked - began) / 1000);
    samples_add(&a->reconfigured, (ready - forked) / 1000);
    samples_add(&a->answer, (now_us() - ready) / 1000);
    samples_add(&a->total, (now_us() - began) / 1000);
    phases_add(b, &a->phases, "instances.fork", json_string_value(json_object_get(doc, "id")));
    began = now_us();
    delete_vm(b, "fork");
    samples_add(&a->deleted, (now_us() - began) / 1000);
}

static void answers_free(struct answers *a)
{
    samples_free(&a->request);
    samples_free(&a->reconfigured);
    samples_free(&a->answer);
    samples_free(&a->total);
    samples_free(&a->deleted);
    phases_free(&a->phases);
}

static void print_answers(struct bench *b, struct answers *ours, struct answers *agents)
{
    struct samples ratio = {0};

    for (size_t i = 0; i < ours->total.n; i++)
        samples_add(&ratio, agents->total.v[i] / ours->total.v[i]);
    bench_row(b, "reconfigured_to_ours", "x", &ratio);
    bench_row(b, "fork_request", "ms", &ours->request);
    bench_row(b, "fork_to_first_answer", "ms", &ours->answer);
    bench_row(b, "fork_and_answer", "ms", &ours->total);
    bench_row(b, "reconfigured_fork_request", "ms", &agents->request);
    bench_row(b, "reconfigured_agent_call", "ms", &agents->reconfigured);
    bench_row(b, "reconfigured_to_first_answer", "ms", &agents->answer);
    bench_row(b, "reconfigured_fork_and_answer", "ms", &agents->total);
    bench_row(b, "delete_request", "ms", &ours->deleted);
    phases_rows(b, &ours->phases);
    samples_free(&ratio);
}

void measure_first_answers(struct bench *b)
{
    struct answers ours = {0};
    struct answers agents = {0};
    int n = b->iterations ? b->iterations : FORKS;

    web_image(b);
    until_answer(
        address_in(api(b,
                       "POST /instances",
                       "{\"name\":\"web\",\"image\":\"web\",\"size\":\"256MB\",\"vcpus\":1}",
                       201)));
    measure_usage_calls(b, "web");
    (void)api(b, "POST /instances/web/standby", NULL, 200);
    for (int i = 0; i < n; i++) { /* who is first takes turns */
        fork_and_ask(b, i % 2 ? &agents : &ours, i % 2);
        fork_and_ask(b, i % 2 ? &ours : &agents, i % 2 == 0);
    }
    delete_vm(b, "web");
    print_answers(b, &ours, &agents);
    answers_free(&ours);
    answers_free(&agents);
}
