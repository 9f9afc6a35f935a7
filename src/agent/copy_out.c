/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A walk over a file or a tree: parents first, names sorted, one FRAME_ENTRY each
 * and a file's content behind it. Devices, sockets and pipes are passed over
 * before anything opens them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent/worker.h"
#include "base/argv.h"
#include "base/cleanup.h"
#include "base/mem.h"
#include "wire/entry.h"
#include "wire/first_names.h"

enum { DEPTH_MAX = 256, ZEROS_MAX = WINDOW_OF_COPY / 4 };

struct walk {
    struct worker *to;
    bool follow;
    bool hard_links; /* as such */
    struct first_names names;
    uint64_t bytes;
    size_t depth;
    struct {
        dev_t dev;
        ino_t ino;
    } above[DEPTH_MAX]; /* the directories that we are in */
    char *path;         /* as the host hears it */
};

static void fill_entry(struct guest_entry *entry, const struct stat *st, const char *path,
                       const char *target)
{
    *entry = (struct guest_entry){
        .kind = S_ISREG(st->st_mode)   ? GUEST_FILE
                : S_ISDIR(st->st_mode) ? GUEST_DIRECTORY
                : S_ISLNK(st->st_mode) ? GUEST_SYMLINK
                                       : GUEST_OTHER,
        .path = path,
        .link_target = S_ISLNK(st->st_mode) ? target : NULL,
        .mode = st->st_mode & 07777,
        .has_owner = true,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .has_mtime = true,
        .mtime_s = st->st_mtim.tv_sec,
        .mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
        .size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0,
    };
}

static int put_entry(struct worker *to, const struct guest_entry *entry, struct err *e)
{
    auto_buf struct buf content = BUF(FRAME_MAX);
    auto_buf struct buf frame = BUF(FRAME_MAX + FRAME_HEADER);

    entry_put(&content, entry);
    if (!buf_ok(&content)) {
        errno = ENAMETOOLONG;
        return err_errno(e, "%.200s...", entry->path);
    }
    frame_put(&frame, FRAME_ENTRY, 0, content.data, content.len);
    if (!worker_say(to, &frame))
        return err_errno(e, "send");
    return 0;
}

static int put_zeros(struct walk *w, uint64_t n, struct err *e)
{
    for (; n > 0; n -= n < ZEROS_MAX ? n : ZEROS_MAX) {
        auto_buf struct buf frame = BUF(64);

        frame_put_u32(&frame, FRAME_ZEROS, 0, (uint32_t)(n < ZEROS_MAX ? n : ZEROS_MAX));
        if (!worker_say(w->to, &frame))
            return err_errno(e, "send");
    }
    return 0;
}

/* From at to end, where there is data as far as the file system knows: straight to where the agent
 * takes it. */
static int put_data(struct walk *w, int fd, off_t at, off_t end, struct err *e)
{
    auto_buf struct buf head = BUF(64);

    while (at < end) {
        size_t want = end - at < FRAME_DATA_MAX ? (size_t)(end - at) : FRAME_DATA_MAX;
        unsigned char *frame = worker_room(w->to, FRAME_HEADER + want);
        ssize_t n = frame ? pread(fd, frame + FRAME_HEADER, want, at) : -1;

        if (!frame)
            return err_errno(e, "send");
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, "read %s", w->path);
        if (n == 0)
            return 0; /* it has become shorter */
        buf_reset(&head);
        frame_put_head(&head, (struct frame_head){.type = FRAME_DATA, .len = (uint32_t)n});
        memcpy(frame, head.data, FRAME_HEADER);
        worker_put(w->to, FRAME_HEADER + (size_t)n);
        at += n;
    }
    return 0;
}

static int put_content(struct walk *w, int fd, off_t size, struct err *e)
{
    off_t at = 0;

    while (at < size) {
        off_t data = lseek(fd, at, SEEK_DATA);
        off_t hole;

        if (data < 0 && errno != ENXIO)
            data = at; /* a file system without holes */
        if (data < 0 || data > size)
            data = size;
        if (data > at && put_zeros(w, (uint64_t)(data - at), e) < 0)
            return -1;
        hole = data < size ? lseek(fd, data, SEEK_HOLE) : size;
        if (hole <= data || hole > size)
            hole = size;
        if (put_data(w, fd, data, hole, e) < 0)
            return -1;
        at = hole;
    }
    w->bytes += (uint64_t)size;
    return 0;
}

/* Since its directory was read; errno says why it cannot be had. */
static bool is_gone(const struct walk *w)
{
    return w->depth > 0 && (errno == ENOENT || errno == ESRCH);
}

/* What is mounted here is the running kernel's word, and no files. <linux/magic.h> */
static bool is_kernels(int fd)
{
    static const unsigned long magics[] = {
        0x9fa0,     /* proc */
        0x62656572, /* sysfs */
        0x63677270, /* cgroup2 */
        0x1cd1,     /* devpts */
        0x64626720, /* debugfs */
        0x74726163, /* tracefs */
        0x73636673, /* securityfs */
        0xcafe4a11, /* bpf */
    };
    struct statfs fs;

    for (size_t i = 0; fstatfs(fd, &fs) == 0 && i < sizeof(magics) / sizeof(magics[0]); i++) {
        if ((unsigned long)fs.f_type == magics[i])
            return true;
    }
    return false;
}

static int put_file(struct walk *w, int dir_fd, const char *name, struct err *e)
{
    /* It was a file a moment ago; should it be a pipe by now, nobody waits for it. */
    auto_close int fd = openat(
        dir_fd, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (w->follow ? 0 : O_NOFOLLOW));
    struct guest_entry entry;
    const char *first;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return is_gone(w) ? 0 : err_errno(e, "open %s", w->path);
    if (!S_ISREG(st.st_mode))
        return 0;
    first = w->hard_links ? first_name(&w->names, &st, w->path) : NULL;
    fill_entry(&entry, &st, w->path, NULL);
    if (first) {
        entry.kind = GUEST_HARD_LINK;
        entry.link_target = first;
        entry.size = 0;
        return put_entry(w->to, &entry, e);
    }
    if (put_entry(w->to, &entry, e) < 0)
        return -1;
    return put_content(w, fd, st.st_size, e);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_names(int dir_fd, struct argv *names, const char *path, struct err *e)
{
    int own_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = own_fd >= 0 ? fdopendir(own_fd) : NULL;
    const struct dirent *d;

    if (!dir)
        return err_errno(e, "read %s", path);
    while ((d = readdir(dir))) {
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
            argv_push(names, d->d_name);
    }
    (void)closedir(dir);
    if (names->n > 1)
        qsort(names->v, names->n, sizeof(*names->v), by_name);
    return 0;
}

static int put_any(struct walk *w, int dir_fd, const char *name, struct err *e);

static int put_directory(struct walk *w, int parent_fd, const char *name, struct err *e)
{
    auto_close int fd =
        openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (w->follow ? 0 : O_NOFOLLOW));
    auto_argv struct argv names = {0};
    struct guest_entry entry;
    struct stat st;
    int rc = 0;

    if (fd < 0 || fstat(fd, &st) < 0)
        return is_gone(w) ? 0 : err_errno(e, "open %s", w->path);
    if (w->depth == DEPTH_MAX)
        return err_set(e, ERR_LIMIT, "more than %d levels deep: %s", DEPTH_MAX, w->path);
    fill_entry(&entry, &st, w->path, NULL);
    if (put_entry(w->to, &entry, e) < 0)
        return -1;
    if (w->depth > 0 && st.st_dev != w->above[w->depth - 1].dev && is_kernels(fd))
        return 0;
    if (read_names(fd, &names, w->path, e) < 0)
        return -1;
    w->above[w->depth].dev = st.st_dev;
    w->above[w->depth++].ino = st.st_ino;
    for (size_t i = 0; i < names.n && rc == 0; i++) {
        char *here = w->path;

        w->path = mem_printf("%s/%s", here, names.v[i]);
        rc = put_any(w, fd, names.v[i], e);
        free(w->path);
        w->path = here;
    }
    w->depth--;
    return rc;
}

static bool is_above(const struct walk *w, const struct stat *st)
{
    for (size_t i = 0; i < w->depth; i++) {
        if (w->above[i].dev == st->st_dev && w->above[i].ino == st->st_ino)
            return true;
    }
    return false;
}

/* A link that leads nowhere, or back to where we came from, stays a link. */
static int look(const struct walk *w, int dir_fd, const char *name, struct stat *st)
{
    if (w->follow && fstatat(dir_fd, name, st, 0) == 0 &&
        !(S_ISDIR(st->st_mode) && is_above(w, st)))
        return 0;
    return fstatat(dir_fd, name, st, AT_SYMLINK_NOFOLLOW);
}

static int put_link(struct walk *w, int dir_fd, const char *name, const struct stat *st,
                    struct err *e)
{
    char target[GUEST_NAME_MAX + 1] = {0};
    struct guest_entry entry;

    if (readlinkat(dir_fd, name, target, GUEST_NAME_MAX) <= 0)
        return err_errno(e, "read the link %s", w->path);
    fill_entry(&entry, st, w->path, target);
    return put_entry(w->to, &entry, e);
}

static int put_any(struct walk *w, int dir_fd, const char *name, struct err *e)
{
    struct stat st;

    if (look(w, dir_fd, name, &st) < 0)
        return is_gone(w) ? 0 : err_errno(e, "%s", w->path);
    if (S_ISDIR(st.st_mode))
        return put_directory(w, dir_fd, name, e);
    if (S_ISLNK(st.st_mode))
        return put_link(w, dir_fd, name, &st, e);
    if (S_ISREG(st.st_mode))
        return put_file(w, dir_fd, name, e);
    return 0;
}

/* The last name of a path, "." where it has none that could be one. */
static char *base_name(const char *path)
{
    auto_free char *copy = mem_strdup(path);
    size_t n = strlen(copy);
    const char *slash;

    while (n > 0 && (copy[n - 1] == '/' || (copy[n - 1] == '.' && n > 1 && copy[n - 2] == '/')))
        copy[--n] = '\0';
    slash = strrchr(copy, '/');
    slash = slash ? slash + 1 : copy;
    return mem_strdup(*slash == '\0' || strcmp(slash, "..") == 0 ? "." : slash);
}

void copy_out(struct worker *to, const char *path, bool follow_links, bool hard_links)
{
    struct walk w = {
        .to = to, .follow = follow_links, .hard_links = hard_links, .path = base_name(path)};
    struct err e = {0};
    int error = 0;

    if (put_any(&w, AT_FDCWD, path, &e) < 0) {
        error = errno;
        if (w.depth == 0 && error == ENOENT) {
            err_clear(&e);
            err_set(&e, ERR_NOT_FOUND, "%s: no such file or directory", path);
        }
    }
    free(w.path);
    first_names_free(&w.names);
    worker_done(to, w.bytes, error, &e);
}

void stat_path(struct worker *to, const char *path, bool follow_links)
{
    char target[GUEST_NAME_MAX + 1] = {0};
    struct guest_entry entry;
    struct err e = {0};
    struct stat st;
    int error = 0;

    if (fstatat(AT_FDCWD, path, &st, follow_links ? 0 : AT_SYMLINK_NOFOLLOW) < 0 ||
        (S_ISLNK(st.st_mode) && readlink(path, target, GUEST_NAME_MAX) <= 0)) {
        error = errno;
        err_errno(&e, "%s", path);
    } else {
        fill_entry(&entry, &st, path, target);
        if (put_entry(to, &entry, &e) < 0)
            error = errno;
    }
    worker_done(to, 0, error, &e);
}
