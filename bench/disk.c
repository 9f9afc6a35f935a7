/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the disk takes for itself, bare: the same waits for it as a restore or a fork has,
 * by a program that does nothing else. What is written is written before the clock starts.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/mem.h"
#include "bench.h"
#include "loop/beside.h"
#include "vm/overlay.h"

enum { COMMIT_BYTES = 3 * 4096 }; /* a record of an instance, in SQLite's log */

static int open_log(const struct bench *b)
{
    static const char pages[COMMIT_BYTES];
    int fd = openat(b->root_fd, "data/bare.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    struct err e = {0};

    if (fd < 0)
        give_up("data/bare.log cannot be opened: %m");
    must(file_write_all(fd, pages, sizeof(pages), &e), &e);
    return fd;
}

double bare_commit_ms(const struct bench *b)
{
    auto_close int fd = open_log(b);
    double began = now_us();

    if (fdatasync(fd) < 0)
        give_up("data/bare.log cannot be synced: %m");
    return (now_us() - began) / 1000;
}

static int sync_log(void *arg, struct err *e)
{
    const int *fd = arg;

    return fdatasync(*fd) < 0 ? err_errno(e, "sync data/bare.log") : 0;
}

static void copy(int from_fd, int to_fd, const char *name)
{
    auto_close int fd = openat(from_fd, name, O_RDONLY | O_CLOEXEC);
    struct err e = {0};

    if (fd < 0)
        give_up("%s cannot be opened: %m", name);
    must(sparse_update(fd, to_fd, name, 0600, &e), &e);
}

/* As a fork has it before it is published. */
static int make_directory(const struct bench *b, const char *source)
{
    auto_free char *path = mem_printf("data/instances/%s", source);
    struct err e = {0};
    int from_fd = dir_open(b->root_fd, path, &e);
    int fd;

    must(from_fd, &e);
    must(dir_ensure(b->root_fd, "data/bare.new", 0700, &e), &e);
    fd = dir_open(b->root_fd, "data/bare.new", &e);
    must(fd, &e);
    must(dir_ensure(fd, "snapshot", 0700, &e), &e);
    if (linkat(from_fd, "snapshot/memory", fd, "snapshot/memory", 0) < 0 ||
        linkat(from_fd, "snapshot/state", fd, "snapshot/state", 0) < 0)
        give_up("its snapshot cannot be linked: %m");
    copy(from_fd, fd, VMM_OVERLAY);
    copy(from_fd, fd, VMM_CONFIG_DISK);
    close(from_fd);
    return fd;
}

static void publish(const struct bench *b, int fd)
{
    auto_close int snapshot_fd = -1;
    auto_close int data_fd = -1;
    struct err e = {0};

    must(file_sync(fd, VMM_OVERLAY, &e), &e);
    must(file_sync(fd, VMM_CONFIG_DISK, &e), &e);
    snapshot_fd = dir_open(fd, "snapshot", &e);
    must(snapshot_fd, &e);
    must(dir_sync(snapshot_fd, &e), &e);
    must(dir_sync(fd, &e), &e);
    data_fd = dir_open(b->root_fd, "data", &e);
    must(data_fd, &e);
    if (renameat(data_fd, "bare.new", data_fd, "bare") < 0)
        give_up("data/bare.new cannot be renamed: %m");
    must(dir_sync(data_fd, &e), &e);
}

double bare_fork_ms(const struct bench *b, const char *source)
{
    auto_close int fd = make_directory(b, source);
    auto_close int log_fd = open_log(b);
    struct beside commit = {.fn = sync_log, .arg = &log_fd};
    double began = now_us();
    struct err e = {0};
    double ms;

    beside_begin(&commit);
    publish(b, fd);
    must(beside_end(&commit, &e), &e);
    ms = (now_us() - began) / 1000;
    must(tree_remove(b->root_fd, "data/bare", &e), &e);
    return ms;
}
