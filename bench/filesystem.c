/* SPDX-License-Identifier: Apache-2.0 */
/* A file system of a chosen kind under the data directory: an image file on a loop device. */
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "bench.h"

enum { HELPER_MS = 60000 };
#define IMAGE_BYTES ((off_t)8 << 30) /* sparse */

static void run_helper(const struct argv *argv)
{
    struct op op = {clock_ms() + HELPER_MS, -1};
    auto_buf struct buf output = BUF(4096);
    struct proc_spec spec = PROC_SPEC(argv);
    struct err e = {0};

    must(proc_run(&op, &spec, &output, &e), &e);
}

static void make_image(const struct bench *b, const char *path)
{
    auto_close int fd =
        openat(b->root_fd, "data.image", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    auto_argv struct argv argv = {0};

    if (fd < 0 || ftruncate(fd, IMAGE_BYTES) < 0)
        give_up("no image file can be made");
    argv_pushf(&argv, "/sbin/mkfs.%s", b->filesystem);
    argv_push(&argv, "-q");
    argv_push(&argv, path);
    run_helper(&argv);
}

void data_mount(struct bench *b)
{
    auto_free char *image = mem_printf("%s/data.image", b->root);
    auto_free char *data = mem_printf("%s/data", b->root);
    auto_argv struct argv argv = {0};
    struct err e = {0};

    make_image(b, image);
    must(dir_ensure(b->root_fd, "data", 0700, &e), &e);
    argv_push(&argv, "/bin/mount");
    argv_push(&argv, "-o");
    argv_push(&argv, "loop");
    argv_push(&argv, image);
    argv_push(&argv, data);
    run_helper(&argv);
    b->is_mounted = true;
}

void data_unmount(struct bench *b)
{
    auto_free char *data = mem_printf("%s/data", b->root);

    if (b->is_mounted)
        (void)umount2(data, MNT_DETACH);
    b->is_mounted = false;
}
