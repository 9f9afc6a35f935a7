/* SPDX-License-Identifier: Apache-2.0 */
#include "image/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/argv.h"
#include "base/cleanup.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/path.h"

enum {
    CHUNK = 128 * 1024,
    MAX_DEPTH = 200,       /* each level holds an fd */
    MAX_ENTRIES = 1 << 20, /* of one directory, and files with several names */
    MAX_CAPABILITY = 64,
};

/* A file with more than one name: the first that we met. */
struct linked {
    struct map_link link;
    char *path;
    char key[40];
};

struct walk {
    struct squash *to;
    uint64_t bytes_left;
    struct map linked;
    struct archive_entry *entry;
    char path[PATH_MAX]; /* of the entry under way */
    unsigned depth;
    char chunk[CHUNK];
};

static int pack_dir(struct walk *w, int fd, struct err *e);

static void free_linked(struct map *m)
{
    for (size_t i = 0; i < m->n_buckets; i++) {
        struct map_link *l = m->buckets[i];

        while (l) {
            struct linked *one = container_of(l, struct linked, link);

            l = l->next;
            free(one->path);
            free(one);
        }
    }
    map_free(m);
}

/* The name under which this file is in the image already, or NULL: then this is the first. */
static const char *first_name(struct walk *w, const struct stat *st, struct err *e)
{
    struct linked *one;
    struct map_link *l;
    char key[sizeof(one->key)];

    (void)snprintf(key, sizeof(key), "%jx:%jx", (uintmax_t)st->st_dev, (uintmax_t)st->st_ino);
    l = map_find(&w->linked, key);
    if (l)
        return container_of(l, struct linked, link)->path;
    if (w->linked.n >= MAX_ENTRIES) {
        err_set(e, ERR_TOO_LARGE, "more than %d files have several names", (int)MAX_ENTRIES);
        return NULL;
    }
    one = mem_new(struct linked);
    one->path = mem_strdup(w->path);
    memcpy(one->key, key, sizeof(key));
    map_put(&w->linked, &one->link, one->key);
    return NULL;
}

static int begin_entry(struct walk *w, const struct stat *st, struct err *e)
{
    archive_entry_copy_stat(w->entry, st);
    return squash_entry(w->to, w->path, w->entry, e);
}

static int copy_data(struct walk *w, int fd, uint64_t left, struct err *e)
{
    while (left > 0) {
        ssize_t n = read(fd, w->chunk, left < CHUNK ? (size_t)left : CHUNK);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, "read");
        if (n == 0)
            return err_set(e, ERR_INVALID, "it became shorter while it was read");
        if (squash_data(w->to, w->chunk, (size_t)n, e) < 0)
            return -1;
        left -= (uint64_t)n;
    }
    return 0;
}

static int pack_file(struct walk *w, int dirfd, const char *name, struct err *e)
{
    /* O_NONBLOCK: should it have become a fifo by now, we do not wait for its writer. */
    auto_close int fd = path_open_beneath(dirfd, name, O_RDONLY | O_NONBLOCK, 0, e);
    char capability[MAX_CAPABILITY];
    struct stat st;
    ssize_t n;

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0)
        return err_errno(e, "stat");
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_INVALID, "it was replaced while it was read");
    if (st.st_nlink > 1) {
        const char *first = first_name(w, &st, e);

        if (first || e->code != ERR_NONE)
            return first ? squash_link(w->to, w->path, first, e) : -1;
    }
    if ((uint64_t)st.st_size > w->bytes_left)
        return err_set(e, ERR_TOO_LARGE, "with it the tree is larger than the limit for an image");
    w->bytes_left -= (uint64_t)st.st_size;
    n = fgetxattr(fd, CAPABILITY_XATTR, capability, sizeof(capability));
    if (n > 0)
        archive_entry_xattr_add_entry(w->entry, CAPABILITY_XATTR, capability, (size_t)n);
    return begin_entry(w, &st, e) < 0 ? -1 : copy_data(w, fd, (uint64_t)st.st_size, e);
}

static int pack_symlink(struct walk *w, int dirfd, const char *name, const struct stat *st,
                        struct err *e)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(dirfd, name, target, sizeof(target));

    if (n < 0 || n == sizeof(target))
        return n < 0 ? err_errno(e, "read link")
                     : err_set(e, ERR_INVALID, "its target is too long");
    target[n] = '\0';
    archive_entry_copy_symlink(w->entry, target);
    return begin_entry(w, st, e);
}

static int pack_one(struct walk *w, int dirfd, const char *name, struct err *e)
{
    auto_close int fd = -1;
    struct stat st;

    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return err_errno(e, "stat");
    archive_entry_clear(w->entry);
    switch (st.st_mode & S_IFMT) {
    case S_IFREG:
        return pack_file(w, dirfd, name, e);
    case S_IFLNK:
        return pack_symlink(w, dirfd, name, &st, e);
    case S_IFDIR:
        fd = path_open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY, 0, e);
        return fd < 0 ? -1 : pack_dir(w, fd, e);
    case S_IFSOCK:
        return 0; /* means nothing without the process that bound it */
    default:
        return begin_entry(w, &st, e);
    }
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_names(int fd, struct argv *names, struct err *e)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    DIR *dir = own < 0 ? NULL : fdopendir(own);
    const struct dirent *entry;
    int rc = 0;

    if (!dir) {
        err_errno(e, "read directory");
        cleanup_close(&own);
        return -1;
    }
    while (rc == 0 && (errno = 0, entry = readdir(dir)) != NULL) {
        if (names->n >= MAX_ENTRIES)
            rc = err_set(e, ERR_TOO_LARGE, "it has more than %d entries", (int)MAX_ENTRIES);
        else if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            argv_push(names, entry->d_name);
    }
    if (rc == 0 && errno)
        rc = err_errno(e, "read directory");
    closedir(dir);
    if (names->n > 1)
        qsort(names->v, names->n, sizeof(*names->v), by_bytes);
    return rc;
}

/* Lengthens the path by a name; false when it does not fit. */
static bool enter(struct walk *w, const char *name)
{
    size_t len = strlen(w->path);
    int n = snprintf(w->path + len, sizeof(w->path) - len, "%s%s", len ? "/" : "", name);

    return n >= 0 && (size_t)n < sizeof(w->path) - len;
}

static int pack_dir(struct walk *w, int fd, struct err *e)
{
    auto_argv struct argv names = {0};
    size_t len = strlen(w->path);
    struct stat st;
    int rc = 0;

    if (w->depth >= MAX_DEPTH)
        return err_set(e, ERR_INVALID, "it is more than %d directories deep", (int)MAX_DEPTH);
    if (fstat(fd, &st) < 0)
        return err_errno(e, "stat");
    if (begin_entry(w, &st, e) < 0 || read_names(fd, &names, e) < 0)
        return -1;
    w->depth++;
    for (size_t i = 0; i < names.n && rc == 0; i++) {
        if (!enter(w, names.v[i]))
            rc = err_set(e, ERR_INVALID, "the path of %s is too long", names.v[i]);
        else
            rc = pack_one(w, fd, names.v[i], e);
        if (rc == 0)
            w->path[len] = '\0'; /* in an error it says where we were */
    }
    w->depth--;
    return rc;
}

int tree_pack(int root_fd, uint64_t max_bytes, struct squash *to, struct err *e)
{
    struct walk *w = mem_new(struct walk);
    int rc = -1;

    w->to = to;
    w->bytes_left = max_bytes;
    w->entry = archive_entry_new();
    if (!w->entry)
        err_set(e, ERR_INTERNAL, "libarchive: out of memory");
    else
        rc = pack_dir(w, root_fd, e);
    if (rc < 0 && w->path[0])
        err_wrap(e, "%s", w->path);
    archive_entry_free(w->entry);
    free_linked(&w->linked);
    free(w);
    return rc;
}
