/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entries and their content become files. A directory's time is set when the
 * entries below it are done, which works because they follow it directly.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/beneath.h"
#include "agent/sys.h"
#include "agent/worker.h"
#include "base/cleanup.h"
#include "base/mem.h"
#include "wire/entry.h"

enum { BLOCK = 4096 };

/* A directory that is being filled. */
struct open_directory {
    struct open_directory *above;
    char *path; /* as it was sent, without trailing slashes */
    struct timespec mtime;
};

struct copy {
    int root_fd;
    int fd; /* the file that is being written; -1 for none */
    struct guest_entry entry;
    off_t at;
    uint64_t bytes;
    struct open_directory *directories; /* innermost first */
};

static struct timespec mtime_of(const struct guest_entry *entry)
{
    return (struct timespec){.tv_sec = entry->mtime_s, .tv_nsec = entry->mtime_ns};
}

static void set_mtime(int at_fd, const char *name, struct timespec mtime)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, mtime};

    (void)utimensat(at_fd, name, times, AT_SYMLINK_NOFOLLOW);
}

/* Owner first: it takes the set-id bits away. */
static int set_attributes(int fd, const struct guest_entry *entry, struct err *e)
{
    if (entry->has_owner && fchown(fd, entry->uid, entry->gid) < 0)
        return err_errno(e, "set the owner of %s", entry->path);
    if (fchmod(fd, entry->mode) < 0)
        return err_errno(e, "set the mode of %s", entry->path);
    return 0;
}

static int finish_file(struct copy *c, struct err *e)
{
    int rc = 0;

    if (c->fd < 0)
        return 0;
    if (ftruncate(c->fd, c->at) < 0) /* it may end with a hole */
        rc = err_errno(e, "write");
    if (rc == 0)
        rc = set_attributes(c->fd, &c->entry, e);
    if (rc == 0 && c->entry.has_mtime) {
        const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, mtime_of(&c->entry)};

        (void)futimens(c->fd, times);
    }
    if (close(take_fd(&c->fd)) < 0 && rc == 0)
        rc = err_errno(e, "write");
    return rc;
}

static bool is_below(const char *path, const char *directory)
{
    size_t n = strlen(directory);

    return strncmp(path, directory, n) == 0 && (path[n] == '/' || n == 0);
}

/* Leaves the directories that this path (NULL: nothing) is not in. */
static void leave_directories(struct copy *c, const char *path)
{
    while (c->directories && !(path && is_below(path, c->directories->path))) {
        struct open_directory *d = c->directories;
        const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, d->mtime};
        auto_close int fd =
            beneath_open(c->root_fd, *d->path ? d->path : ".", O_RDONLY | O_DIRECTORY, 0);

        if (fd >= 0)
            (void)futimens(fd, times);
        c->directories = d->above;
        free(d->path);
        free(d);
    }
}

static int put_directory(struct copy *c, int parent_fd, const char *name, struct err *e)
{
    const struct guest_entry *entry = &c->entry;
    auto_close int fd = -1;
    struct open_directory *d;
    size_t n = strlen(entry->path);

    if (*name && mkdirat(parent_fd, name, 0755) < 0 && errno != EEXIST)
        return err_errno(e, "cannot create directory %s", entry->path);
    fd = beneath_open(c->root_fd, entry->path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0 && errno == ENOTDIR)
        return err_set(e, ERR_INVALID, "cannot create directory: %s is a file", entry->path);
    if (fd < 0)
        return err_errno(e, "cannot create directory %s", entry->path);
    if (set_attributes(fd, entry, e) < 0)
        return -1;
    if (!entry->has_mtime)
        return 0;
    d = mem_new(struct open_directory);
    d->above = c->directories;
    d->path = mem_strdup(entry->path);
    while (n > 0 && d->path[n - 1] == '/')
        d->path[--n] = '\0';
    d->mtime = mtime_of(entry);
    c->directories = d;
    return 0;
}

static int put_symlink(const struct copy *c, int parent_fd, const char *name, struct err *e)
{
    const struct guest_entry *entry = &c->entry;

    if (unlinkat(parent_fd, name, 0) < 0 && errno == EISDIR)
        return err_set(e, ERR_INVALID, "cannot make a link: %s is a directory", entry->path);
    if (symlinkat(entry->link_target, parent_fd, name) < 0)
        return err_errno(e, "cannot make the link %s", entry->path);
    if (entry->has_owner &&
        fchownat(parent_fd, name, entry->uid, entry->gid, AT_SYMLINK_NOFOLLOW) < 0)
        return err_errno(e, "set the owner of %s", entry->path);
    if (entry->has_mtime)
        set_mtime(parent_fd, name, mtime_of(entry));
    return 0;
}

/* One more name for what came before, whatever had that name. */
static int put_hard_link(const struct copy *c, int parent_fd, const char *name, struct err *e)
{
    const struct guest_entry *entry = &c->entry;
    auto_close int target_fd = beneath_open(c->root_fd, entry->link_target, O_PATH | O_NOFOLLOW, 0);
    struct stat target;
    struct stat st;

    if (target_fd < 0 || fstat(target_fd, &target) < 0)
        return err_errno(e, "cannot link %s to %s", entry->path, entry->link_target);
    if (fstatat(parent_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == target.st_dev &&
        st.st_ino == target.st_ino)
        return 0;
    if (unlinkat(parent_fd, name, 0) < 0 && errno == EISDIR)
        return err_set(e, ERR_INVALID, "cannot make a link: %s is a directory", entry->path);
    if (linkat(target_fd, "", parent_fd, name, AT_EMPTY_PATH) < 0)
        return err_errno(e, "cannot link %s to %s", entry->path, entry->link_target);
    return 0;
}

/* Links are followed, as cp does it; whatever is there and is no file is neither opened nor waited
 * for. */
static int put_file(struct copy *c, struct err *e)
{
    const char *path = c->entry.path;
    struct stat st;

    c->fd =
        beneath_open(c->root_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_NONBLOCK, 0600);
    if (c->fd < 0 && errno == EISDIR)
        return err_set(e, ERR_INVALID, "cannot copy file: %s is a directory", path);
    if (c->fd < 0 && errno == ENXIO)
        return err_set(e, ERR_INVALID, "cannot copy file: %s is no file", path);
    if (c->fd < 0)
        return err_errno(e, "cannot copy file %s", path);
    if (fstat(c->fd, &st) < 0 || !S_ISREG(st.st_mode))
        return err_set(e, ERR_INVALID, "cannot copy file: %s is no file", path);
    c->at = 0;
    return 0;
}

static int put_entry(struct copy *c, const struct frame *f, struct err *e)
{
    auto_close int parent_fd = -1;
    char name[BASE_SIZE];

    if (finish_file(c, e) < 0 || entry_get(f->data, f->len, &c->entry, e) < 0)
        return -1;
    leave_directories(c, c->entry.path);
    parent_fd = beneath_parent(c->root_fd, c->entry.path, name, e);
    if (parent_fd < 0)
        return -1;
    if (c->entry.kind == GUEST_DIRECTORY)
        return put_directory(c, parent_fd, name, e);
    if (*name == '\0')
        return err_set(e, ERR_INVALID, "cannot copy file: %s is a directory", c->entry.path);
    if (c->entry.kind == GUEST_SYMLINK)
        return put_symlink(c, parent_fd, name, e);
    if (c->entry.kind == GUEST_HARD_LINK)
        return put_hard_link(c, parent_fd, name, e);
    if (c->entry.kind == GUEST_FILE)
        return put_file(c, e);
    return err_set(e, ERR_INVALID, "%s is neither a file, a directory nor a link", c->entry.path);
}

static bool is_zero(const unsigned char *p, size_t n)
{
    return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* The length of the run at the front that is all zero blocks, or all others. */
static size_t run_of_blocks(const unsigned char *p, size_t len, off_t at, bool *zero_out)
{
    size_t n = BLOCK - (size_t)(at % BLOCK);

    if (n > len)
        n = len;
    *zero_out = is_zero(p, n);
    while (n < len) {
        size_t next = len - n < BLOCK ? len - n : BLOCK;

        if (is_zero(p + n, next) != *zero_out)
            break;
        n += next;
    }
    return n;
}

static int put_data(struct copy *c, const unsigned char *p, size_t len, struct err *e)
{
    if (c->fd < 0)
        return err_set(e, ERR_INVALID, "content without a file");
    c->bytes += len;
    while (len > 0) {
        bool is_hole;
        size_t n = run_of_blocks(p, len, c->at, &is_hole);
        ssize_t done = is_hole ? (ssize_t)n : pwrite(c->fd, p, n, c->at);

        if (done < 0)
            return err_errno(e, "write %s", c->entry.path);
        c->at += done;
        p += done;
        len -= (size_t)done;
    }
    return 0;
}

/* 1 at the end of the input. The entry's texts must outlive the frame. */
static int take(struct copy *c, const struct frame *f, struct buf *kept, struct err *e)
{
    struct frame own = *f;

    switch (f->type) {
    case FRAME_ENTRY:
        if (finish_file(c, e) < 0)
            return -1;
        buf_reset(kept);
        buf_append(kept, f->data, f->len);
        own.data = (const unsigned char *)kept->data;
        return put_entry(c, &own, e);
    case FRAME_DATA:
        return put_data(c, f->data, f->len, e);
    case FRAME_ZEROS:
        c->at += frame_u32(f, 0);
        c->bytes += frame_u32(f, 0);
        return 0;
    case FRAME_END_INPUT:
        return finish_file(c, e) < 0 ? -1 : 1;
    default:
        return 0;
    }
}

static int take_all(struct copy *c, struct worker *w, struct err *e)
{
    auto_buf struct buf kept = BUF(FRAME_MAX);
    struct frame f;
    int rc = 0;

    while (rc == 0)
        rc = worker_next(w, &f, e) < 0 ? -1 : take(c, &f, &kept, e);
    return rc;
}

void copy_in(struct worker *w, const char *root)
{
    struct copy c = {.root_fd = -1, .fd = -1};
    struct err e = {0};
    int error = 0;

    if (make_dirs(root, &e) == 0) {
        c.root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (c.root_fd < 0)
            err_errno(&e, "%s", root);
    }
    if (e.code == ERR_NONE && take_all(&c, w, &e) < 0)
        error = errno;
    leave_directories(&c, NULL);
    if (c.fd >= 0)
        (void)close(c.fd);
    if (c.root_fd >= 0)
        (void)close(c.root_fd);
    worker_done(w, c.bytes, error, &e);
}
