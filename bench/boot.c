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
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "bench.h"
#include "vm/overlay.h"
#include "vmm/host.h"
#include "vmm/qemu.h"
#include "vmm/sock.h"
#include "wire/frame.h"

enum { MEMORY = 256 << 20, ITERATIONS = 20 };

struct bare {
    int dir_fd;
    struct vmm_host host;
    struct vmm_process vm;
};

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

/* Keeps the disks of the first instance: the bare VM runs on the very same. */
static void keep_disks(struct bench *b, struct bare *bare)
{
    static const char *const disks[] = {VMM_IMAGE, VMM_OVERLAY, VMM_CONFIG_DISK};
    struct err e = {0};
    json_t *row = json_loads(api(b, "GET /instances/bench", NULL, 200), 0, NULL);
    auto_free char *path =
        mem_printf("%s/data/instances/%s", b->root, json_string_value(json_object_get(row, "id")));
    auto_close int from_fd = dir_open(AT_FDCWD, path, &e);

    must(from_fd, &e);
    must(dir_ensure(b->root_fd, "bare", 0700, &e), &e);
    bare->dir_fd = dir_open(b->root_fd, "bare", &e);
    for (size_t i = 0; i < sizeof(disks) / sizeof(disks[0]); i++) {
        auto_close int fd = openat(from_fd, disks[i], O_RDONLY | O_CLOEXEC);

        must(fd < 0 ? -1 : sparse_copy(fd, bare->dir_fd, disks[i], 0600, &e), &e);
    }
    json_decref(row);
}

/* The guest of the build that is measured. */
static void probe(struct bench *b, struct bare *bare)
{
    struct op op = {clock_ms() + 20000, -1};
    struct err e = {0};
    auto_free char *build = mem_strdup(b->binary);
    char *end = strrchr(build, '/');
    auto_free char *kernel = NULL;
    auto_free char *initramfs = NULL;
    struct vmm_host_settings settings = {.accel = ACCEL_AUTO};

    if (end)
        *end = '\0';
    kernel = mem_printf("%s/guest/vmlinux", build);
    initramfs = mem_printf("%s/guest/initramfs.cpio", build);
    settings.kernel = kernel;
    settings.initramfs = initramfs;
    must(vmm_host_probe(&op, &settings, &bare->host, &e), &e);
}

static int memory_fd(void)
{
    int fd = memfd_create("bench", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, MEMORY) < 0)
        give_up("no memory for the guest");
    return fd;
}

static void spawn_bare(struct bare *bare)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct err e = {0};
    struct vmm_boot boot = {.host = &bare->host,
                            .name = "bare",
                            .dir_fd = bare->dir_fd,
                            .vcpus = 1,
                            .memory_bytes = MEMORY,
                            .tap_fd = -1};
    int fds[4];

    must(vmm_clear_sockets(bare->dir_fd, &e), &e);
    fds[0] = sock_listen(bare->dir_fd, VMM_API_SOCKET, &e);
    fds[1] = sock_listen(bare->dir_fd, VMM_EVENTS_SOCKET, &e);
    fds[2] = sock_listen(bare->dir_fd, VMM_AGENT_SOCKET, &e);
    fds[3] = memory_fd();
    must(e.code ? -1 : 0, &e);
    qemu_argv(&argv, &qemu_machine_microvm, &boot, QEMU_BOOT);
    spec.pass_fds = fds;
    spec.n_pass_fds = 4;
    spec.cwd_fd = bare->dir_fd;
    bare->vm.pidfd = proc_spawn(&spec, &bare->vm.id, &e);
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    must(bare->vm.pidfd, &e);
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
    struct op op = {clock_ms() + 10000, -1};
    struct err e = {0};
    double began = now_us();

    spawn_bare(bare);
    await_started(bare);
    samples_add(total, (now_us() - began) / 1000);
    must(proc_kill(&op, bare->vm.pidfd, &e), &e);
    close(take_fd(&bare->vm.pidfd));
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
    probe(b, &bare);
    for (int i = 0; i < n + 1; i++) {
        ours_once(b, &ours, &request);
        if (i == 0)
            keep_disks(b, &bare);
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
