/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/parse.h"
#include "loop/proc.h"

enum {
    PAGE = 4096,
    PIECE = 1 << 20,
    PIECE_PAGES = PIECE / PAGE,
    MAPS_MAX = 4 << 20,
};

/* Of a page map's entries; see the kernel's pagemap.rst. */
#define PAGE_PRESENT (UINT64_C(1) << 63)
#define PAGE_SWAPPED (UINT64_C(1) << 62)
#define PAGE_OF_FILE (UINT64_C(1) << 61)

struct ram {
    pid_t pid;
    int file_fd;
    off_t size;
    off_t next_data;  /* the file has none between the last piece and here */
    uint64_t address; /* where the process maps the file */
    int pagemap_fd;   /* -1 when it is mapped shared */
    unsigned char *piece;
    unsigned char *old; /* of an earlier copy; NULL when there is none */
    off_t next_old;     /* that has none between the last piece and here */
};

#define auto_ram __attribute__((cleanup(ram_fini)))

static void ram_fini(struct ram *r)
{
    cleanup_close(&r->file_fd);
    cleanup_close(&r->pagemap_fd);
    free(r->piece);
    free(r->old);
}

/* A pid that was looked up means something only while the process behind the pidfd lives. */
static int check_alive(int pidfd, struct err *e)
{
    struct pollfd gone = {.fd = pidfd, .events = POLLIN};

    return poll(&gone, 1, 0) == 0 ? 0 : err_set(e, ERR_INTERNAL, "the process is gone");
}

int ram_file(int pidfd, int vmm_fd, struct err *e)
{
    int fd = (int)syscall(SYS_pidfd_getfd, pidfd, vmm_fd, 0);

    return fd < 0 ? err_errno(e, "get the file behind the guest's memory") : fd;
}

static int open_file(struct ram *r, int pidfd, int vmm_fd, ino_t *inode_out, struct err *e)
{
    struct stat st;

    r->file_fd = ram_file(pidfd, vmm_fd, e);
    if (r->file_fd < 0)
        return -1;
    if (fstat(r->file_fd, &st) < 0)
        return err_errno(e, "stat the file behind the guest's memory");
    if (!S_ISREG(st.st_mode) || st.st_size == 0 || st.st_size % PAGE != 0)
        return err_set(e, ERR_INTERNAL, "fd %d is not the guest's memory", vmm_fd);
    r->size = st.st_size;
    *inode_out = st.st_ino;
    return 0;
}

/* Takes a number and the character after it. */
static uint64_t take_number(const char **p, unsigned base)
{
    static const char digits[] = "0123456789abcdef";
    const char *digit;
    uint64_t v = 0;

    while (**p && (digit = memchr(digits, **p, base))) {
        v = v * base + (uint64_t)(digit - digits);
        (*p)++;
    }
    if (**p)
        (*p)++;
    return v;
}

/*
 * A line is "START-END PERMS OFFSET MAJOR:MINOR INODE PATH". The device is not
 * compared: on btrfs it is another one than stat() names.
 */
static bool is_mapping(const char *line, const struct ram *r, ino_t inode, uint64_t *start_out,
                       bool *shared_out)
{
    uint64_t start = take_number(&line, 16);
    uint64_t end = take_number(&line, 16);
    const char *perms = line;
    uint64_t offset;

    if (strnlen(line, 5) < 5)
        return false;
    line += 5;
    offset = take_number(&line, 16);
    (void)take_number(&line, 16);
    (void)take_number(&line, 16);
    if (take_number(&line, 10) != inode || offset != 0 || end - start != (uint64_t)r->size)
        return false;
    *start_out = start;
    *shared_out = perms[3] == 's';
    return true;
}

static int find_mapping(struct ram *r, ino_t inode, struct err *e)
{
    auto_buf struct buf maps = BUF(MAPS_MAX);
    char path[64];
    bool shared;

    (void)snprintf(path, sizeof(path), "/proc/%d/maps", (int)r->pid);
    if (file_read(AT_FDCWD, path, &maps, e) < 0)
        return -1;
    for (const char *line = buf_str(&maps); line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!is_mapping(line, r, inode, &r->address, &shared))
            continue;
        if (shared)
            return 0;
        (void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)r->pid);
        r->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
        return r->pagemap_fd < 0 ? err_errno(e, "open %s", path) : 0;
    }
    return err_set(e, ERR_INTERNAL, "the guest's memory is not mapped as one");
}

static int read_at(int fd, void *out, size_t len, off_t at, struct err *e)
{
    char *p = out;

    while (len > 0) {
        ssize_t n = pread(fd, p, len, at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? err_errno(e, "read the guest's memory")
                         : err_set(e, ERR_INTERNAL, "the guest's memory was cut short");
        p += n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* *next: where the first data at or after a place is; size for none. Kept from piece to piece. */
static int find_data(int fd, off_t at, off_t size, off_t *next, struct err *e)
{
    if (*next >= at)
        return 0;
    *next = lseek(fd, at, SEEK_DATA);
    if (*next < 0 && errno != ENXIO)
        return err_errno(e, "look for data in the guest's memory");
    if (*next < 0)
        *next = size;
    return 0;
}

/* Takes what the file holds of this piece. *any_out: there is something, so the piece is filled. */
static int take_file(struct ram *r, off_t at, size_t len, bool *any_out, struct err *e)
{
    if (find_data(r->file_fd, at, r->size, &r->next_data, e) < 0)
        return -1;
    *any_out = r->next_data < at + (off_t)len;
    return *any_out ? read_at(r->file_fd, r->piece, len, at, e) : 0;
}

static bool was_written(uint64_t entry)
{
    return (entry & (PAGE_PRESENT | PAGE_SWAPPED)) && !(entry & PAGE_OF_FILE);
}

static int take_run(struct ram *r, off_t at, size_t first, size_t end, struct err *e)
{
    struct iovec here = {.iov_base = r->piece + first * PAGE, .iov_len = (end - first) * PAGE};
    struct iovec there = {.iov_len = here.iov_len};
    uint64_t address = r->address + (uint64_t)at + first * PAGE;
    ssize_t n;

    memcpy(&there.iov_base, &address, sizeof(address)); /* another process's: never a pointer */
    n = process_vm_readv(r->pid, &here, 1, &there, 1, 0);
    if (n < 0)
        return err_errno(e, "read the guest's memory");
    return (size_t)n == here.iov_len ? 0 : err_set(e, ERR_INTERNAL, "the process is gone");
}

/* Lays over the piece the pages that the guest has written. */
static int take_written(struct ram *r, off_t at, size_t len, bool *any, struct err *e)
{
    uint64_t entries[PIECE_PAGES];
    size_t n = len / PAGE;
    off_t place = (off_t)((r->address + (uint64_t)at) / PAGE * sizeof(entries[0]));

    if (read_at(r->pagemap_fd, entries, n * sizeof(entries[0]), place, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        size_t first = i;

        while (i < n && was_written(entries[i]))
            i++;
        if (i == first)
            continue;
        if (!*any)
            memset(r->piece, 0, len);
        *any = true;
        if (take_run(r, at, first, i, e) < 0)
            return -1;
    }
    return 0;
}

static bool is_zero(const unsigned char *page)
{
    return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

static int write_at(int fd, const unsigned char *p, size_t len, off_t at, struct err *e)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, "write the guest's memory");
        p += n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Whether a page need not be written: it is there already. */
static bool is_there(const struct ram *r, size_t at)
{
    return r->old ? memcmp(r->piece + at, r->old + at, PAGE) == 0 : is_zero(r->piece + at);
}

static int put_piece(const struct ram *r, int out_fd, off_t at, size_t len, struct err *e)
{
    for (size_t i = 0; i < len; i += PAGE) {
        size_t first = i;

        while (i < len && !is_there(r, i))
            i += PAGE;
        if (i > first && write_at(out_fd, r->piece + first, i - first, at + (off_t)first, e) < 0)
            return -1;
    }
    return 0;
}

/* What the earlier copy holds of this piece. *any: the piece, or the copy, is not all zero. */
static int take_old(struct ram *r, int out_fd, off_t at, size_t len, bool *any, struct err *e)
{
    bool has_old;

    if (find_data(out_fd, at, r->size, &r->next_old, e) < 0)
        return -1;
    has_old = r->next_old < at + (off_t)len;
    if (!has_old && !*any)
        return 0;
    if (!*any)
        memset(r->piece, 0, len);
    *any = true;
    if (has_old)
        return read_at(out_fd, r->old, len, at, e);
    memset(r->old, 0, len);
    return 0;
}

static int begin_copy(struct ram *r, int out_fd, struct err *e)
{
    struct stat st;

    if (fstat(out_fd, &st) < 0 || ftruncate(out_fd, r->size) < 0)
        return err_errno(e, "size the memory file");
    r->piece = mem_zalloc(PIECE, 1);
    if (st.st_size > 0)
        r->old = mem_zalloc(PIECE, 1);
    return 0;
}

static int copy(const struct op *op, struct ram *r, int out_fd, struct err *e)
{
    if (begin_copy(r, out_fd, e) < 0)
        return -1;
    for (off_t at = 0; at < r->size; at += PIECE) {
        size_t len = r->size - at < PIECE ? (size_t)(r->size - at) : PIECE;
        bool any = false;

        if (op_sleep(op, 0, e) < 0 || take_file(r, at, len, &any, e) < 0)
            return -1;
        if (r->pagemap_fd >= 0 && take_written(r, at, len, &any, e) < 0)
            return -1;
        if (r->old && take_old(r, out_fd, at, len, &any, e) < 0)
            return -1;
        if (!any)
            continue;
        if (put_piece(r, out_fd, at, len, e) < 0)
            return -1;
        /* The disk works while we copy on: the caller's fsync then finds little left to do. */
        (void)sync_file_range(out_fd, at, (off_t)len, SYNC_FILE_RANGE_WRITE);
    }
    return 0;
}

int ram_save(const struct op *op, int pidfd, int vmm_fd, int out_fd, struct err *e)
{
    auto_ram struct ram r = {.file_fd = -1, .pagemap_fd = -1, .next_data = -1, .next_old = -1};
    ino_t inode;

    r.pid = proc_pid(pidfd, e);
    if (r.pid < 0 || open_file(&r, pidfd, vmm_fd, &inode, e) < 0 ||
        find_mapping(&r, inode, e) < 0 || check_alive(pidfd, e) < 0 || copy(op, &r, out_fd, e) < 0)
        return -1;
    return check_alive(pidfd, e);
}

int ram_save_shared(const struct op *op, int pidfd, int vmm_fd, int out_fd, struct err *e)
{
    auto_ram struct ram r = {.file_fd = -1, .pagemap_fd = -1, .next_data = -1, .next_old = -1};
    ino_t inode;

    if (open_file(&r, pidfd, vmm_fd, &inode, e) < 0 || copy(op, &r, out_fd, e) < 0)
        return -1;
    return check_alive(pidfd, e);
}

static int dig_piece(int fd, const unsigned char *piece, off_t at, size_t len, struct err *e)
{
    for (size_t i = 0; i < len; i += PAGE) {
        size_t first = i;

        while (i < len && is_zero(piece + i))
            i += PAGE;
        if (i > first &&
            fallocate(fd,
                      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      at + (off_t)first,
                      (off_t)(i - first)) < 0 &&
            errno != EOPNOTSUPP)
            return err_errno(e, "make holes in the guest's memory");
    }
    return 0;
}

int ram_dig_holes(const struct op *op, int fd, struct err *e)
{
    auto_free unsigned char *piece = mem_zalloc(PIECE, 1);
    off_t next_data = -1;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_errno(e, "stat the guest's memory");
    for (off_t at = 0; at < st.st_size; at += PIECE) {
        size_t len = st.st_size - at < PIECE ? (size_t)(st.st_size - at) : PIECE;

        if (op_sleep(op, 0, e) < 0 || find_data(fd, at, st.st_size, &next_data, e) < 0)
            return -1;
        if (next_data >= at + (off_t)len)
            continue;
        if (read_at(fd, piece, len, at, e) < 0 || dig_piece(fd, piece, at, len, e) < 0)
            return -1;
    }
    return 0;
}
