/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot of a paused Firecracker. It writes both files itself, opened by the
 * path we give, into a directory that is always a new one: a memory file of the
 * right size it would write over in place, and others may be mapping that.
 *
 * A difference holds the pages written since the last snapshot, and holes. What the
 * holes stand for is taken from the base, so a memory file is always whole; where
 * the file system can share extents that costs no copy. The base of a VM that was loaded
 * is the file that it maps, which need not have a name any more.
 */
#include "vmm/firecracker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/mem.h"
#include "trace/trace.h"
#include "vmm/start.h"

#define TRACKED "writes-tracked"

enum { PIECE = 1 << 20, MAPS_MAX = 4 << 20 };

int firecracker_begin_tracking(int dir_fd, struct err *e)
{
    auto_close int fd = openat(dir_fd, TRACKED, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    return fd < 0 ? err_errno(e, "create %s", TRACKED) : 0;
}

bool firecracker_end_tracking(int dir_fd)
{
    return unlinkat(dir_fd, TRACKED, 0) == 0;
}

/* "START-END" of the first mapping of a snapshot's memory, in the text of /proc/PID/maps. */
static bool find_mapping(char *maps, char out[64])
{
    char *rest = NULL;

    for (char *line = strtok_r(maps, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        const char *path = strchr(line, '/');

        if (!path || !strstr(path, "/" VMM_SNAPSHOT_MEMORY))
            continue;
        (void)snprintf(out, 64, "%.*s", (int)strcspn(line, " "), line);
        return true;
    }
    return false;
}

/* The memory that the process was loaded from; -1: it cannot be had, so all is saved. */
static int open_base(const struct vmm_handle *vm)
{
    auto_buf struct buf maps = BUF(MAPS_MAX);
    auto_close int proc_fd = -1;
    struct err e = {0};
    char range[64];
    char path[96];
    pid_t pid = proc_pid(vm->pidfd, &e);

    (void)snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    proc_fd = pid > 0 ? dir_open(AT_FDCWD, path, &e) : -1;
    if (proc_fd < 0 || file_read(proc_fd, "maps", &maps, &e) < 0 || !maps.data ||
        !find_mapping(maps.data, range))
        return -1;
    (void)snprintf(path, sizeof(path), "map_files/%s", range);
    return openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
}

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
    auto_span span = op_span(op, "complete_memory");
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

static int create(const struct op *op, const struct vmm_handle *vm, const char *dir,
                  bool is_difference, struct err *e)
{
    auto_buf struct buf body = BUF(16 * 1024);
    struct http_client *c = vmm_api_client(vm->dir_fd);
    int rc;

    firecracker_snapshot(&body, dir, is_difference);
    rc = firecracker_call(op, c, "PUT /snapshot/create", buf_str(&body), NULL, e);
    http_client_free(c);
    return rc;
}

int firecracker_save(const struct op *op, const struct vmm_handle *vm, const struct vmm_save *save,
                     struct err *e)
{
    auto_close int mapped_fd = -1;
    struct vmm_save how = *save;
    char dir[4096];

    if (save->ahead)
        return 0; /* it writes nothing while its guest runs */
    if (path_of(save->snapshot_dir_fd, dir, e) < 0)
        return -1;
    if (firecracker_end_tracking(vm->dir_fd) && !save->is_difference) {
        mapped_fd = open_base(vm);
        how.is_difference = mapped_fd >= 0;
        how.base_memory_fd = mapped_fd;
    }
    if (create(op, vm, dir, how.is_difference, e) < 0 ||
        close_to_others(save->snapshot_dir_fd, e) < 0)
        return -1;
    return how.is_difference ? complete(op, &how, e) : 0;
}
