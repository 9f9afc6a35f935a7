/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/tar.h"
#include "base/cleanup.h"
#include "base/mem.h"
#include "cli/text.h"
#include "wire/first_names.h"

enum { PART = 64 << 10, HEADERS_MAX = 64 << 10 };

/* --- packing --- */

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int put_buf(const struct pack *p, struct buf *b, struct err *e)
{
    int rc = p->put(p->arg, buf_str(b), b->len, e);

    buf_free(b);
    return rc;
}

static int put_content(const struct pack *p, int fd, const char *path, uint64_t size, struct err *e)
{
    auto_free char *part = mem_zalloc(1, PART);
    struct buf padding = BUF(TAR_BLOCK);

    for (uint64_t left = size; left > 0;) {
        ssize_t n = read(fd, part, left < PART ? (size_t)left : PART);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, "read %s", path);
        if (n == 0)
            return err_set(e, ERR_BUSY, "%s shrank while it was read", path);
        if (p->put(p->arg, part, (size_t)n, e) < 0)
            return -1;
        left -= (uint64_t)n;
    }
    tar_put_padding(&padding, size);
    return put_buf(p, &padding, e);
}

static int put_file(const struct pack *p, struct first_names *names, const char *path,
                    struct guest_entry *entry, bool follow, struct err *e)
{
    auto_close int fd =
        open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (follow ? 0 : O_NOFOLLOW));
    struct buf header = BUF(HEADERS_MAX);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(e, "open %s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_BUSY, "%s changed while it was read", path);
    entry->link_target = first_name(names, &st, entry->path);
    if (entry->link_target)
        entry->kind = GUEST_HARD_LINK;
    else
        entry->size = (uint64_t)st.st_size;
    tar_put_entry(&header, entry);
    if (put_buf(p, &header, e) < 0)
        return -1;
    return put_content(p, fd, path, entry->size, e);
}

static int put_link(const struct pack *p, const char *path, struct guest_entry *entry,
                    struct err *e)
{
    char target[GUEST_NAME_MAX + 1];
    struct buf header = BUF(HEADERS_MAX);
    ssize_t n = readlink(path, target, sizeof(target) - 1);

    if (n < 0)
        return err_errno(e, "read the link %s", path);
    target[n] = '\0';
    entry->link_target = target;
    tar_put_entry(&header, entry);
    return put_buf(p, &header, e);
}

/* The name in the archive, or NULL for a directory whose content alone is wanted. */
static char *name_in_archive(const struct pack *p, const FTSENT *f)
{
    const char *below = f->fts_path + strlen(p->path);

    below += strspn(below, "/");
    if (f->fts_level == FTS_ROOTLEVEL)
        return *p->as ? mem_strdup(p->as) : NULL;
    return *p->as ? mem_printf("%s/%s", p->as, below) : mem_strdup(below);
}

static int put_one(const struct pack *p, struct first_names *names, const FTSENT *f, struct err *e)
{
    const struct stat *st = f->fts_statp;
    auto_free char *name = name_in_archive(p, f);
    struct guest_entry entry = {
        .kind = S_ISREG(st->st_mode)   ? GUEST_FILE
                : S_ISDIR(st->st_mode) ? GUEST_DIRECTORY
                : S_ISLNK(st->st_mode) ? GUEST_SYMLINK
                                       : GUEST_OTHER,
        .path = name,
        .mode = st->st_mode & 07777,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .mtime_s = st->st_mtime,
    };
    struct buf header = BUF(HEADERS_MAX);

    if (!name)
        return 0;
    if (strlen(name) > GUEST_NAME_MAX)
        return err_set(e, ERR_TOO_LARGE, "%.100s...: the name is too long", name);
    switch (entry.kind) {
    case GUEST_FILE:
        return put_file(p, names, f->fts_accpath, &entry, p->follow && f->fts_level == 0, e);
    case GUEST_SYMLINK:
        return put_link(p, f->fts_accpath, &entry, e);
    case GUEST_DIRECTORY:
        tar_put_entry(&header, &entry);
        return put_buf(p, &header, e);
    case GUEST_HARD_LINK: /* found out when it is open */
    case GUEST_OTHER:
        break;
    }
    fputs("hypeman: left out, neither file nor directory: ", stderr);
    text_print(stderr, f->fts_path);
    fputc('\n', stderr);
    return 0;
}

static int walk(const struct pack *p, struct first_names *names, FTS *tree, struct err *e)
{
    FTSENT *f;

    while (errno = 0, (f = fts_read(tree)) != NULL) {
        if (f->fts_info == FTS_DP)
            continue;
        if (f->fts_info == FTS_DNR || f->fts_info == FTS_ERR || f->fts_info == FTS_NS) {
            errno = f->fts_errno;
            return err_errno(e, "read %s", f->fts_path);
        }
        if (put_one(p, names, f, e) < 0)
            return -1;
    }
    return errno ? err_errno(e, "read %s", p->path) : 0;
}

int pack_tree(const struct pack *p, struct err *e)
{
    auto_free char *path = mem_strdup(p->path);
    char *const roots[] = {path, NULL};
    struct buf end = BUF(2 * TAR_BLOCK);
    struct first_names names = {0};
    FTS *tree =
        fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR | (p->follow ? FTS_COMFOLLOW : 0), by_name);
    int rc;

    if (!tree)
        return err_errno(e, "read %s", path);
    rc = walk(p, &names, tree, e);
    first_names_free(&names);
    fts_close(tree);
    tar_put_end(&end);
    return rc < 0 ? rc : put_buf(p, &end, e);
}

/* --- unpacking --- */

struct unpack {
    struct tar_reader *tar;
    struct archive *disk;
    struct unpack_as as;
    bool is_skipped; /* the present entry */
    struct err err;
};

static void fail(struct unpack *u, const char *path)
{
    if (u->err.code == ERR_NONE)
        err_set(&u->err, ERR_INTERNAL, "write %s: %s", path, archive_error_string(u->disk));
}

static char *name_here(const struct unpack *u, const char *path)
{
    const char *rest = strchr(path, '/');

    if (u->as.is_nameless)
        return mem_printf("%s%s%s", u->as.as, *u->as.as ? "/" : "", path);
    if (!*u->as.as)
        return rest ? mem_strdup(rest + 1) : NULL;
    return mem_printf("%s%s", u->as.as, rest ? rest : "");
}

static bool on_entry(void *arg, const struct guest_entry *entry)
{
    struct unpack *u = arg;
    auto_free char *name = name_here(u, entry->path);
    bool is_hard = entry->kind == GUEST_HARD_LINK;
    auto_free char *target = is_hard ? name_here(u, entry->link_target) : NULL;
    struct archive_entry *out;

    u->is_skipped = !name || entry->kind == GUEST_OTHER || (is_hard && !target);
    if (u->is_skipped || u->err.code != ERR_NONE)
        return true;
    out = archive_entry_new();
    archive_entry_set_pathname(out, name);
    archive_entry_set_filetype(out,
                               entry->kind == GUEST_DIRECTORY ? AE_IFDIR
                               : entry->kind == GUEST_SYMLINK ? AE_IFLNK
                                                              : AE_IFREG);
    archive_entry_set_perm(out, entry->mode);
    archive_entry_set_uid(out, entry->uid);
    archive_entry_set_gid(out, entry->gid);
    archive_entry_set_mtime(out, entry->mtime_s, (long)entry->mtime_ns);
    if (entry->kind == GUEST_FILE)
        archive_entry_set_size(out, (int64_t)entry->size);
    if (entry->kind == GUEST_SYMLINK)
        archive_entry_set_symlink(out, entry->link_target);
    if (target)
        archive_entry_set_hardlink(out, target);
    if (archive_write_header(u->disk, out) <= ARCHIVE_FAILED)
        fail(u, name);
    archive_entry_free(out);
    return true;
}

static size_t on_data(void *arg, const void *data, size_t len)
{
    struct unpack *u = arg;

    if (!u->is_skipped && u->err.code == ERR_NONE && archive_write_data(u->disk, data, len) < 0)
        fail(u, "a file");
    return len;
}

static const struct tar_sink sink = {on_entry, on_data};

struct unpack *unpack_new(const struct unpack_as *as, bool keep_owner)
{
    struct unpack *u = mem_new(struct unpack);

    u->as = *as;
    u->tar = tar_reader_new(&sink, u);
    u->disk = archive_write_disk_new();
    if (!u->disk)
        abort();
    archive_write_disk_set_options(
        u->disk,
        ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_UNLINK |
            ARCHIVE_EXTRACT_SPARSE | ARCHIVE_EXTRACT_SECURE_SYMLINKS |
            ARCHIVE_EXTRACT_SECURE_NODOTDOT | ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS |
            (keep_owner ? ARCHIVE_EXTRACT_OWNER : 0));
    return u;
}

int unpack_feed(struct unpack *u, const void *data, size_t len, struct err *e)
{
    if (tar_feed(u->tar, data, len, e) < 0)
        return -1;
    if (u->err.code == ERR_NONE)
        return 0;
    *e = u->err;
    return -1;
}

int unpack_finish(struct unpack *u, struct err *e)
{
    if (tar_reader_finish(u->tar, e) < 0)
        return -1;
    if (archive_write_close(u->disk) <= ARCHIVE_FAILED)
        return err_set(e, ERR_INTERNAL, "write: %s", archive_error_string(u->disk));
    return 0;
}

void unpack_free(struct unpack *u)
{
    if (!u)
        return;
    tar_reader_free(u->tar);
    archive_write_free(u->disk);
    free(u);
}
