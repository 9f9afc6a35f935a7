/* SPDX-License-Identifier: Apache-2.0 */
/*
 * boot: from POST /instances to Running, in turns with a bare QEMU of the same command
 * line, kernel, init and disks, up to the same report of its guest. The difference of
 * the two is what is ours.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bare.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "bench.h"
#include "vm/overlay.h"
#include "vmm/sock.h"
#include "wire/frame.h"

enum { ITERATIONS = 20 };

static const char create[] = "{\"name\":\"bench\",\"image\":\"bench\",\"size\":\"256MB\",\"vcpus\":"
                             "1,\"overlay_size\":\"1GB\"}";

/* Create to Running; the request alone as well. */
static void ours_once(struct bench *b, struct samples *total, struct samples *request)
{
    double began = now_us();

    (void)api(b, "POST /instances", create, 201);
    samples_add(request, (now_us() - began) / 1000);
    if (!strstr(api(b, "GET /instances/bench/wait?state=Running", NULL, 200), "Running"))
        give_up("the instance did not come up");
    samples_add(total, (now_us() - began) / 1000);
}

/* Greets the agent and waits for its word that the workload runs. */
static void await_started(const struct bare *bare)
{
    static const char hello[] = "{\"version\":1,\"nonce\":\"00000000000000000000000000000000\"}";
    struct op op = {clock_ms() + 60000, -1};
    struct err e = {0};
    auto_close int fd = sock_connect(bare->dir_fd, VMM_AGENT_SOCKET, &e);
    auto_buf struct buf out = BUF(4096);
    struct frame_reader in;
    struct frame f = {0};

    must(fd, &e);
    frame_reader_init(&in);
    buf_append(&out, wire_magic, WIRE_MAGIC_LEN);
    frame_put(&out, FRAME_HELLO, 0, hello, sizeof(hello) - 1);
    if (send(fd, out.data, out.len, MSG_NOSIGNAL) != (ssize_t)out.len)
        give_up("the agent's channel does not take a greeting");
    while (f.type != FRAME_STARTED) {
        size_t room;
        void *space;
        ssize_t n;
        int rc = frame_next(&in, &f, &e);

        must(rc, &e);
        if (rc == 1)
            continue;
        must(op_wait(&op, fd, POLLIN, &e), &e);
        space = frame_reader_space(&in, &room);
        n = recv(fd, space, room, MSG_DONTWAIT);
        if (n <= 0)
            give_up("the bare VM ended before its workload ran");
        frame_reader_filled(&in, (size_t)n);
    }
    frame_reader_free(&in);
}

/* As new as a created instance's: one that was killed has a journal to replay. */
static void renew_overlay(const struct bench *b, const struct bare *bare)
{
    auto_free char *path = mem_printf("%s/data/templates/overlay-1073741824.ext4", b->root);
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct err e = {0};

    if (fd < 0 || unlinkat(bare->dir_fd, VMM_OVERLAY, 0) < 0)
        give_up("the bare VM's disk cannot be made anew");
    must(sparse_copy(fd, bare->dir_fd, VMM_OVERLAY, 0600, &e), &e);
}

static void bare_once(struct bare *bare, struct samples *total)
{
    double began = now_us();

    bare_start(bare);
    await_started(bare);
    samples_add(total, (now_us() - began) / 1000);
    bare_end(bare);
}

void bench_boot(struct bench *b)
{
    int n = b->iterations ? b->iterations : ITERATIONS;
    struct samples ours = {0};
    struct samples request = {0};
    struct samples theirs = {0};
    struct samples difference = {0};
    struct bare bare = {.dir_fd = -1};

    bench_image(b);
    bare_prepare(b, &bare, NULL);
    for (int i = 0; i < n + 1; i++) {
        ours_once(b, &ours, &request);
        if (i == 0)
            bare_keep_disks(b, &bare);
        (void)api(b, "DELETE /instances/bench?graceful_shutdown=false", NULL, 204);
        renew_overlay(b, &bare);
        bare_once(&bare, &theirs);
        if (i == 0) { /* the first of each warms caches and makes the disk's template */
            samples_free(&ours);
            samples_free(&request);
            samples_free(&theirs);
            continue;
        }
        samples_add(&difference, ours.v[ours.n - 1] - theirs.v[theirs.n - 1]);
    }
    bench_row(b, "create_to_running", "ms", &ours);
    bench_row(b, "bare", "ms", &theirs);
    bench_row(b, "difference", "ms", &difference);
    bench_row(b, "create_request", "ms", &request);
    samples_free(&ours);
    samples_free(&request);
    samples_free(&theirs);
    samples_free(&difference);
    close(bare.dir_fd);
}
