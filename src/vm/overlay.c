/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/id.h"
#include "loop/proc.h"

/* Copies [from, to) by the kernel, which shares blocks or copies without passing through us. */
static int copy_extent(int from_fd, int to_fd, off_t from, off_t to, struct err *e)
{
    off_t out = from;

    while (from < to) {
        ssize_t n = copy_file_range(from_fd, &from, to_fd, &out, (size_t)(to - from), 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, "copy disk");
        if (n == 0)
            return err_set(e, ERR_INTERNAL, "the disk shrank while it was copied");
    }
    return 0;
}

static int copy_extents(int from_fd, int to_fd, off_t size, struct err *e)
{
    off_t data = 0;

    while ((data = lseek(from_fd, data, SEEK_DATA)) >= 0) {
        off_t hole = lseek(from_fd, data, SEEK_HOLE);

        if (hole < 0)
            return err_errno(e, "read disk");
        if (copy_extent(from_fd, to_fd, data, hole < size ? hole : size, e) < 0)
            return -1;
        data = hole;
    }
    return errno == ENXIO ? 0 : err_errno(e, "read disk");
}

int sparse_copy(int from_fd, int to_dir_fd, const char *name, mode_t mode, struct err *e)
{
    auto_close int fd =
        openat(to_dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    struct stat st;

    if (fd < 0)
        return err_errno(e, "create %s", name);
    if (fstat(from_fd, &st) < 0)
        return err_errno(e, "read the source of %s", name);
    if (ioctl(fd, FICLONE, from_fd) < 0 &&
        (ftruncate(fd, st.st_size) < 0 ? err_errno(e, "size %s", name)
                                       : copy_extents(from_fd, fd, st.st_size, e)) < 0)
        return -1;
    return 0;
}

static int run_mke2fs(const struct op *op, int dir_fd, const char *name, struct err *e)
{
    auto_argv struct argv argv = {0};
    auto_buf struct buf output = BUF(4096);
    struct proc_spec spec = PROC_SPEC(&argv);

    argv_push(&argv, "/sbin/mke2fs");
    argv_push(&argv, "-q");
    argv_push(&argv, "-F");
    argv_push(&argv, "-t");
    argv_push(&argv, "ext4");
    argv_push(&argv, "-m");
    argv_push(&argv, "0");
    argv_push(&argv, "-O");
    argv_push(&argv, "^resize_inode"); /* reserves 4 MiB that every copy would carry */
    argv_push(&argv, "-E");
    argv_push(&argv, "lazy_itable_init=0,lazy_journal_init=1");
    argv_push(&argv, name);
    spec.cwd_fd = dir_fd;
    if (proc_run(op, &spec, &output, e) == 0)
        return 0;
    if (strstr(e->msg, strerrordesc_np(ENOSPC))) /* a program's words are all it leaves us */
        e->code = ERR_NO_SPACE;
    return -1;
}

/* Under a name of its own, renamed last: two starts may make the same template at once. */
static int make_template(const struct op *op, int templates_fd, uint64_t bytes, const char *name,
                         struct err *e)
{
    char unique[ID_SIZE];
    char temporary[ID_SIZE + 8];
    auto_close int fd = -1;
    int rc = -1;

    id_new(unique);
    (void)snprintf(temporary, sizeof(temporary), ".%s", unique);
    fd = openat(templates_fd, temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(e, "create %s", temporary);
    if (ftruncate(fd, (off_t)bytes) < 0)
        err_errno(e, "size a disk of %" PRIu64 " bytes", bytes);
    else if (run_mke2fs(op, templates_fd, temporary, e) < 0)
        err_wrap(e, "make a file system of %" PRIu64 " bytes", bytes);
    else if (fsync(fd) < 0 || renameat(templates_fd, temporary, templates_fd, name) < 0)
        err_errno(e, "keep %s", name);
    else
        rc = 0;
    if (rc < 0)
        (void)unlinkat(templates_fd, temporary, 0);
    return rc;
}

int overlay_create(const struct op *op, int templates_fd, uint64_t bytes, int dir_fd,
                   const char *name, struct err *e)
{
    char template[64];
    auto_close int fd = -1;

    (void)snprintf(template, sizeof(template), "overlay-%" PRIu64 ".ext4", bytes);
    fd = openat(templates_fd, template, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        if (make_template(op, templates_fd, bytes, template, e) < 0)
            return -1;
        fd = openat(templates_fd, template, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    }
    if (fd < 0)
        return err_errno(e, "open %s", template);
    return sparse_copy(fd, dir_fd, name, 0600, e) < 0 ? -1 : file_sync(dir_fd, name, e);
}
