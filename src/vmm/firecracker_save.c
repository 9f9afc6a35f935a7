/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot of a paused Firecracker. It writes both files itself, opened by the
 * path we give, into a directory that is always a new one: a memory file of the
 * right size it would write over in place, and others may be mapping that.
 *
 * A difference holds the pages written since the last snapshot, and holes. What the
 * holes stand for is taken from the base, so a memory file is always whole; where
 * the file system can share extents that costs no copy.
 */
#include "vmm/firecracker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "vmm/start.h"

enum { PIECE = 1 << 20 };

/* From base to the same place, as far as one call goes. */
static ssize_t copy_some(int base_fd, int memory_fd, off_t at, size_t len, char *piece)
{
    off_t from = at;
    off_t to = at;
    ssize_t n = copy_file_range(base_fd, &from, memory_fd, &to, len, 0);

    if (n > 0 || (n < 0 && errno != EXDEV && errno != EOPNOTSUPP && errno != EINVAL))
        return n;
    n = pread(base_fd, piece, len < PIECE ? len : PIECE, at);
    return n <= 0 ? n : pwrite(memory_fd, piece, (size_t)n, at);
}

/* The data that base has between here and there. */
static int fill(const struct op *op, int base_fd, int memory_fd, off_t at, off_t end, struct err *e)
{
    auto_free char *piece = mem_zalloc(PIECE, 1);

    while (at < end) {
        off_t stop;
        ssize_t n;

        at = lseek(base_fd, at, SEEK_DATA);
        if (at < 0 && errno == ENXIO)
            return 0;
        if (at < 0)
            return err_errno(e, "read the last snapshot's memory");
        stop = lseek(base_fd, at, SEEK_HOLE);
        if (stop < 0 || stop > end)
            stop = end;
        while (at < stop) {
            n = copy_some(base_fd, memory_fd, at, (size_t)(stop - at), piece);
            if (n < 0)
                return err_errno(e, "take over the last snapshot's memory");
            if (n == 0)
                return err_set(e, ERR_INTERNAL, "the last snapshot's memory was cut short");
            at += n;
            if (op_sleep(op, 0, e) < 0)
                return -1;
        }
    }
    return 0;
}

static int fill_holes(const struct op *op, int base_fd, int memory_fd, struct err *e)
{
    off_t size = lseek(memory_fd, 0, SEEK_END);
    off_t at = 0;

    while (at < size) {
        off_t hole = lseek(memory_fd, at, SEEK_HOLE);
        off_t data = hole < 0 ? -1 : lseek(memory_fd, hole, SEEK_DATA);

        if (hole < 0 || hole >= size)
            break;
        at = data < 0 ? size : data;
        if (fill(op, base_fd, memory_fd, hole, at, e) < 0)
            return -1;
    }
    return 0;
}

/* The base may only serve a machine of the same size. */
static int check_base(int base_fd, int memory_fd, struct err *e)
{
    struct stat base;
    struct stat now;

    if (fstat(base_fd, &base) < 0 || fstat(memory_fd, &now) < 0)
        return err_errno(e, "look at the snapshot's memory");
    return base.st_size == now.st_size
               ? 0
               : err_set(e, ERR_INTERNAL, "the last snapshot was of a machine of another size");
}

static int complete(const struct op *op, const struct vmm_save *save, struct err *e)
{
    auto_close int memory_fd =
        openat(save->snapshot_dir_fd, "memory", O_RDWR | O_CLOEXEC | O_NOFOLLOW);

    if (memory_fd < 0)
        return err_errno(e, "open the snapshot's memory");
    if (check_base(save->base_memory_fd, memory_fd, e) < 0)
        return -1;
    return fill_holes(op, save->base_memory_fd, memory_fd, e);
}

/* They come with the umask's mode. */
static int close_to_others(int dir_fd, struct err *e)
{
    if (fchmodat(dir_fd, "state", 0600, 0) < 0 || fchmodat(dir_fd, "memory", 0600, 0) < 0)
        return err_errno(e, "close the snapshot to others");
    return 0;
}

static int path_of(int dir_fd, char out[4096], struct err *e)
{
    char link[64];
    ssize_t n;

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", dir_fd);
    n = readlink(link, out, 4095);
    if (n < 0)
        return err_errno(e, "find the snapshot's directory");
    out[n] = '\0';
    return 0;
}

int firecracker_save(const struct op *op, const struct vmm_handle *vm, const struct vmm_save *save,
                     struct err *e)
{
    auto_buf struct buf body = BUF(16 * 1024);
    struct http_client *c;
    char dir[4096];
    int rc;

    if (save->ahead)
        return 0; /* it writes nothing while its guest runs */
    if (path_of(save->snapshot_dir_fd, dir, e) < 0)
        return -1;
    firecracker_snapshot(&body, dir, save->is_difference);
    c = vmm_api_client(vm->dir_fd);
    rc = firecracker_call(op, c, "PUT /snapshot/create", buf_str(&body), NULL, e);
    http_client_free(c);
    if (rc < 0 || close_to_others(save->snapshot_dir_fd, e) < 0)
        return -1;
    return save->is_difference ? complete(op, save, e) : 0;
}
