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
#include "base/mem.h"
#include "loop/proc.h"

enum { UPDATE_PIECE = 256 * 1024 };

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

bool overlay_can_share(int file_fd, int to_dir_fd)
{
    auto_close int fd = openat(to_dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    return fd >= 0 && ioctl(fd, FICLONE, file_fd) == 0;
}

/* An earlier copy, and room for a piece of either file. */
struct update {
    int from_fd;
    int to_fd;
    unsigned char *now;
    unsigned char *then;
};

static ssize_t read_piece(int fd, unsigned char *out, off_t at, off_t end)
{
    size_t len = end - at < UPDATE_PIECE ? (size_t)(end - at) : UPDATE_PIECE;
    ssize_t n;

    do
        n = pread(fd, out, len, at);
    while (n < 0 && errno == EINTR);
    return n;
}

static int update_data(const struct update *u, off_t at, off_t end, struct err *e)
{
    while (at < end) {
        ssize_t n = read_piece(u->from_fd, u->now, at, end);

        if (n <= 0)
            return n < 0 ? err_errno(e, "read disk")
                         : err_set(e, ERR_INTERNAL, "the disk shrank while it was copied");
        if (read_piece(u->to_fd, u->then, at, at + n) != n || memcmp(u->now, u->then, (size_t)n)) {
            if (lseek(u->to_fd, at, SEEK_SET) < 0)
                return err_errno(e, "copy disk");
            if (file_write_all(u->to_fd, u->now, (size_t)n, e) < 0)
                return -1;
        }
        at += n;
    }
    return 0;
}

/* What the file has given back since, the copy gives back. */
static int update_hole(const struct update *u, off_t at, off_t end, struct err *e)
{
    off_t data = lseek(u->to_fd, at, SEEK_DATA);

    if ((data < 0 && errno == ENXIO) || data >= end)
        return 0;
    if (data < 0 ||
        fallocate(u->to_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, end - at) < 0)
        return err_errno(e, "copy disk");
    return 0;
}

static int update_extents(const struct update *u, off_t size, struct err *e)
{
    off_t at = 0;

    while (at < size) {
        off_t data = lseek(u->from_fd, at, SEEK_DATA);
        off_t hole;

        if (data < 0 && errno != ENXIO)
            return err_errno(e, "read disk");
        if (data < 0)
            data = size;
        hole = data < size ? lseek(u->from_fd, data, SEEK_HOLE) : size;
        if (hole < 0)
            return err_errno(e, "read disk");
        if (update_hole(u, at, data, e) < 0 || update_data(u, data, hole, e) < 0)
            return -1;
        at = hole;
    }
    return 0;
}

int sparse_update(int from_fd, int to_dir_fd, const char *name, mode_t mode, struct err *e)
{
    auto_close int fd = openat(to_dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    auto_free unsigned char *room = NULL;
    struct stat st;

    if (fd < 0 && errno == ENOENT)
        return sparse_copy(from_fd, to_dir_fd, name, mode, e);
    if (fd < 0 || fstat(from_fd, &st) < 0)
        return err_errno(e, "open %s", name);
    room = mem_zalloc(2, UPDATE_PIECE);
    return update_extents(&(struct update){from_fd, fd, room, room + UPDATE_PIECE}, st.st_size, e);
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
