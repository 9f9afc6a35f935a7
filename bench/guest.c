/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest: what our half of a guest weighs: the agent's memory, its program, and the initramfs;
 * and how long the guest takes from its kernel's start to its program's, beside a busybox that
 * loads the same modules, mounts the same and starts the same program, in turns.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/mem.h"
#include "bench.h"
#include "transport.h"

#define PROGRAM "/bin/clock" /* boot_clock.c */
#define STARTED_AT "started at "

enum { ITERATIONS = 5 };

static char *guest_path(const struct bench *b, const char *name)
{
    auto_free char *path = mem_strdup(b->binary);
    char *slash = strrchr(path, '/');

    if (slash)
        *slash = '\0';
    return mem_printf("%s/guest/%s", path, name);
}

static double size_kib(const struct bench *b, const char *name)
{
    auto_free char *file = guest_path(b, name);
    struct stat st;

    if (stat(file, &st) < 0)
        give_up("there is no %s", file);
    return (double)st.st_size / 1024;
}

/* The agent's VmHWM and VmRSS, by the guest's own word. */
static void agent_memory(struct bench *b)
{
    struct socket s;
    const char *at;

    socket_open(b, &s, "bench/exec", "{\"command\":[\"/bin/cat\",\"/proc/1/status\"]}");
    socket_fill(&s, SIZE_MAX);
    at = strstr(s.first, "VmRSS:");
    if (!at)
        give_up("the guest does not tell of its agent: %s", s.text);
    bench_value(b, "agent_rss", "KiB", strtod(at + strlen("VmRSS:"), NULL));
    socket_close(&s);
}

/* --- from the kernel's start to the program's --- */

static void configure(struct bare *bare, const char *cmd)
{
    auto_free char *config =
        mem_printf("{\"incarnation\":1,\"hostname\":\"bare\",\"entrypoint\":[],"
                   "\"cmd\":[%s],\"env\":{}}",
                   cmd);

    bare_configure(bare, config);
}

static double program_ms(struct bare *bare)
{
    auto_free char *log = NULL;
    const char *at;

    bare_start(bare);
    log = bare_wait_output(bare, " us");
    bare_end(bare);
    at = strstr(log, STARTED_AT);
    if (!at)
        give_up("the guest's program does not tell when it started: %s", log);
    return strtod(at + strlen(STARTED_AT), NULL) / 1000;
}

/* The file of a module that is loaded, whose name has '_' where the file's may have '-'. */
static void put_insmod(struct buf *out, const struct buf *initramfs, const char *module)
{
    static const char folder[] = "modules/";
    size_t len = strcspn(module, " ");
    const char *end = initramfs->data + initramfs->len;
    const char *at = initramfs->data;

    while ((at = memmem(at, (size_t)(end - at), folder, strlen(folder)))) {
        bool is_it = true;

        at += strlen(folder);
        for (size_t i = 0; i < len && is_it; i++)
            is_it = module[i] == (at[i] == '-' ? '_' : at[i]);
        if (is_it && strcmp(at + len, ".ko") == 0)
            buf_printf(out, "$b insmod /modules/%s\n", at);
    }
}

/* In the order in which ours loads them; the kernel tells the newest first. */
static void put_insmods(struct buf *out, struct bench *b, struct bare *bare)
{
    auto_free char *path = guest_path(b, "initramfs.cpio");
    auto_buf struct buf initramfs = BUF(64 << 20);
    auto_free char *log = NULL;
    struct err e = {0};

    configure(bare, "\"/bin/cat\",\"/proc/modules\"");
    bare_start(bare);
    log = bare_wait_output(bare, "virtio_ring ");
    bare_end(bare);
    must(file_read(AT_FDCWD, path, &initramfs, &e), &e);
    for (char *line; (line = strrchr(log, '\n')); *line = '\0')
        put_insmod(out, &initramfs, line + 1);
    put_insmod(out, &initramfs, log);
}

static void busybox_init(struct buf *script, struct bench *b, struct bare *bare)
{
    buf_puts(script,
             "#!/bin/busybox sh\n"
             "b=/bin/busybox\n"
             "$b mount -t proc proc /proc\n"
             "$b mount -t sysfs sys /sys\n"
             "$b mount -t devtmpfs dev /dev\n");
    put_insmods(script, b, bare);
    buf_puts(script,
             "$b mkdir -p /image /disk /new\n"
             "$b mount -o ro /dev/vda /image\n"
             "$b mount /dev/vdb /disk\n"
             "$b mkdir -p /disk/bare/upper /disk/bare/work\n"
             "$b mount -t overlay -o lowerdir=/image,upperdir=/disk/bare/upper,"
             "workdir=/disk/bare/work root /new\n"
             "$b mkdir -p /new/dev\n"
             "$b mount --move /dev /new/dev\n"
             "exec $b switch_root /new " PROGRAM " >/new/dev/console 2>&1\n");
}

static void boots(struct bench *b)
{
    auto_buf struct buf script = BUF(65536);
    auto_buf struct buf busybox = BUF(16 << 20);
    const struct bare_file files[] = {
        {"bin", 040755, NULL}, {"bin/busybox", 0100755, &busybox}, {"init", 0100755, &script}};
    int n = b->iterations ? b->iterations : ITERATIONS;
    struct samples ours = {0};
    struct samples theirs = {0};
    struct samples difference = {0};
    struct bare bare;
    struct bare plain;
    struct err e = {0};

    must(file_read(AT_FDCWD, "/bin/busybox", &busybox, &e), &e);
    bare_prepare(b, &bare, NULL);
    bare_keep_disks(b, &bare);
    busybox_init(&script, b, &bare);
    bare_prepare_with(b, &plain, files, sizeof(files) / sizeof(files[0]));
    plain.dir_fd = bare.dir_fd;
    configure(&bare, "\"" PROGRAM "\"");
    for (int i = 0; i < n; i++) {
        samples_add(&ours, program_ms(&bare));
        samples_add(&theirs, program_ms(&plain));
        samples_add(&difference, ours.v[i] - theirs.v[i]);
    }
    close(bare.dir_fd);
    bench_row(b, "kernel_to_program", "ms", &ours);
    bench_row(b, "kernel_to_program_busybox", "ms", &theirs);
    bench_row(b, "kernel_to_program_difference", "ms", &difference);
    samples_free(&ours);
    samples_free(&theirs);
    samples_free(&difference);
}

/* Into the image, before it is made. */
static void add_program(struct bench *b)
{
    auto_free char *path = guest_path(b, "boot-clock");
    auto_buf struct buf program = BUF(1 << 20);
    auto_close int dir_fd = -1;
    struct err e = {0};

    must(file_read(AT_FDCWD, path, &program, &e), &e);
    must(dir_ensure(b->root_fd, "image", 0755, &e), &e);
    must(dir_ensure(b->root_fd, "image/bin", 0755, &e), &e);
    dir_fd = dir_open(b->root_fd, "image/bin", &e);
    must(file_replace(dir_fd, "clock", 0755, program.data, program.len, &e), &e);
}

void bench_guest(struct bench *b)
{
    auto_free char *id = NULL;

    add_program(b);
    id = bench_vm(b);
    agent_memory(b);
    bench_value(b, "agent_program", "KiB", size_kib(b, "init"));
    bench_value(b, "initramfs_with_modules", "KiB", size_kib(b, "initramfs.cpio"));
    boots(b);
    delete_vm(b, "bench");
}
