/* SPDX-License-Identifier: Apache-2.0 */
#include "image/squash.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/path.h"
#include "loop/proc.h"

#define TAR2SQFS "/usr/bin/tar2sqfs"

enum {
    PIPE_BYTES = 1 << 20,
    TAR_BLOCK = 128 * 1024,
    MAX_COMPLAINT = 16 * 1024,
    TRIAL_BYTES = 1 << 20, /* more than the program writes at once */
    KILL_MS = 10 * 1000,
};

struct squash {
    const struct op *op;
    int dirfd;
    const char *name;
    int pidfd;
    int out_fd; /* the file: ours, to see it synced and to know a full disk */
    int stdin_fd;
    int stderr_fd;
    struct archive *tar;
    struct archive_entry *entry;
    struct err failure; /* why the stream could not be written */
    bool closed_on_us;  /* the program ended before the stream: its own words say why */
};

static la_ssize_t write_stream(struct archive *tar, void *arg, const void *data, size_t len)
{
    struct squash *s = arg;

    while (s->failure.code == ERR_NONE) {
        ssize_t n;

        if (op_wait(s->op, s->stdin_fd, POLLOUT, &s->failure) < 0)
            break;
        n = write(s->stdin_fd, data, len);
        if (n >= 0)
            return n;
        s->closed_on_us = errno == EPIPE;
        if (errno != EAGAIN && errno != EINTR)
            err_errno(&s->failure, "write to tar2sqfs");
    }
    archive_set_error(tar, EIO, "%s", s->failure.msg);
    return -1;
}

/* What the program said, as one line. Its end of the pipe does not block, nor does ours. */
static const char *complaint(struct squash *s, char *text, size_t size)
{
    ssize_t n = read(s->stderr_fd, text, size - 1);

    if (n <= 0)
        return "it did not say why";
    text[n] = '\0';
    while (n > 0 && text[n - 1] == '\n')
        text[--n] = '\0';
    for (char *p = text; *p; p++) {
        if (*p == '\n')
            *p = ' ';
    }
    return text;
}

/*
 * Whether the program failed for want of room. It reports every failed write as
 * an "I/O error" and unlinks its file; that we hold it open keeps the disk as
 * full as it was, so we can ask it.
 */
static bool is_disk_full(const struct squash *s)
{
    auto_free char *zeros = mem_zalloc(1, TRIAL_BYTES);
    struct err e = {0};

    return file_write_all(s->out_fd, zeros, TRIAL_BYTES, &e) < 0 && e.code == ERR_NO_SPACE;
}

/* The program has ended or is about to. */
static int await_exit(struct squash *s, struct err *e)
{
    auto_free char *text = mem_zalloc(1, MAX_COMPLAINT);
    struct proc_exit end;

    if (proc_wait(s->op, s->pidfd, &end, e) < 0)
        return err_wrap(e, "wait for tar2sqfs");
    close(take_fd(&s->pidfd));
    if (end.code == 0)
        return 0;
    if (is_disk_full(s))
        return err_set(e,
                       ERR_NO_SPACE,
                       "the disk that holds the data directory is full:"
                       " make room there and import the image again");
    return err_set(e,
                   ERR_INTERNAL,
                   "tar2sqfs ended with status %d: %s",
                   end.code,
                   complaint(s, text, MAX_COMPLAINT));
}

/* Why a call on the tar stream failed. */
static int stream_error(struct squash *s, struct err *e)
{
    if (s->closed_on_us && await_exit(s, e) < 0)
        return -1;
    if (s->failure.code != ERR_NONE) {
        *e = s->failure;
        return -1;
    }
    return err_set(e, ERR_INTERNAL, "write the tar stream: %s", archive_error_string(s->tar));
}

/*
 * lz4 is the fastest to read of what every guest kernel of ours can mount
 * (Debian's has it built into its squashfs).
 */
static int start(struct squash *s, struct err *e)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    auto_close int in_read = -1;
    auto_close int err_write = -1;
    struct proc_id id;
    int fds[2];

    s->out_fd =
        path_open_beneath(s->dirfd, s->name, O_WRONLY | O_APPEND | O_CREAT | O_EXCL, 0600, e);
    if (s->out_fd < 0)
        return -1;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_errno(e, "pipe");
    in_read = fds[0];
    s->stdin_fd = fds[1];
    (void)fcntl(s->stdin_fd, F_SETPIPE_SZ, PIPE_BYTES); /* only for speed */
    if (fcntl(s->stdin_fd, F_SETFL, O_NONBLOCK) < 0)
        return err_errno(e, "pipe");
    /* A program that complains without end loses the rest, and cannot get stuck on it. */
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return err_errno(e, "pipe");
    s->stderr_fd = fds[0];
    err_write = fds[1];

    for (const char *const *arg =
             (const char *const[]){TAR2SQFS, "-q", "-c", "lz4", "-j", "4", "-f", "--no-skip", NULL};
         *arg;
         arg++)
        argv_push(&argv, *arg);
    argv_push(&argv, s->name);
    spec.cwd_fd = s->dirfd;
    spec.stdin_fd = in_read;
    spec.stderr_fd = err_write;
    s->pidfd = proc_spawn(&spec, &id, e);
    return s->pidfd < 0 ? -1 : 0;
}

static int open_stream(struct squash *s, struct err *e)
{
    s->tar = archive_write_new();
    s->entry = archive_entry_new();
    if (!s->tar || !s->entry)
        return err_set(e, ERR_INTERNAL, "libarchive: out of memory");
    /* Names are bytes, not text of some locale. */
    if (archive_write_set_format_pax_restricted(s->tar) != ARCHIVE_OK ||
        archive_write_set_options(s->tar, "hdrcharset=BINARY,xattrheader=SCHILY") != ARCHIVE_OK ||
        archive_write_set_bytes_per_block(s->tar, TAR_BLOCK) != ARCHIVE_OK ||
        archive_write_open(s->tar, s, NULL, write_stream, NULL) != ARCHIVE_OK)
        return stream_error(s, e);
    return 0;
}

struct squash *squash_begin(const struct op *op, int dirfd, const char *name, struct err *e)
{
    struct squash *s = mem_new(struct squash);

    *s = (struct squash){.op = op,
                         .dirfd = dirfd,
                         .name = name,
                         .pidfd = -1,
                         .out_fd = -1,
                         .stdin_fd = -1,
                         .stderr_fd = -1};
    if (start(s, e) < 0 || open_stream(s, e) < 0) {
        squash_free(s);
        return NULL;
    }
    return s;
}

static void copy_capability(struct archive_entry *to, struct archive_entry *from)
{
    const char *name;
    const void *value;
    size_t size;

    archive_entry_xattr_reset(from);
    while (archive_entry_xattr_next(from, &name, &value, &size) == ARCHIVE_OK) {
        if (name && strcmp(name, CAPABILITY_XATTR) == 0)
            archive_entry_xattr_add_entry(to, name, value, size);
    }
}

/* squashfs keeps seconds since 1970 in 32 bits. */
static time_t storable_time(time_t t)
{
    return t < 0 ? 0 : t > UINT32_MAX ? UINT32_MAX : t;
}

static int write_header(struct squash *s, const char *path, struct err *e)
{
    archive_entry_copy_pathname(s->entry, *path ? path : "./");
    /* A warning is about what we left out or about text in another locale. */
    if (archive_write_header(s->tar, s->entry) < ARCHIVE_WARN)
        return stream_error(s, e);
    return 0;
}

int squash_entry(struct squash *s, const char *path, struct archive_entry *from, struct err *e)
{
    mode_t mode = archive_entry_mode(from);

    archive_entry_clear(s->entry);
    archive_entry_set_mode(s->entry, mode);
    archive_entry_set_uid(s->entry, archive_entry_uid(from));
    archive_entry_set_gid(s->entry, archive_entry_gid(from));
    archive_entry_set_mtime(s->entry, storable_time(archive_entry_mtime(from)), 0);
    archive_entry_set_size(s->entry, 0);
    switch (mode & AE_IFMT) {
    case AE_IFREG:
        archive_entry_set_size(s->entry, archive_entry_size(from));
        copy_capability(s->entry, from);
        break;
    case AE_IFLNK:
        archive_entry_copy_symlink(s->entry, archive_entry_symlink(from));
        break;
    case AE_IFCHR:
    case AE_IFBLK:
        archive_entry_set_rdevmajor(s->entry, archive_entry_rdevmajor(from));
        archive_entry_set_rdevminor(s->entry, archive_entry_rdevminor(from));
        break;
    default:
        break;
    }
    return write_header(s, path, e);
}

int squash_link(struct squash *s, const char *path, const char *first, struct err *e)
{
    archive_entry_clear(s->entry);
    archive_entry_set_mode(s->entry, AE_IFREG | 0644);
    archive_entry_set_size(s->entry, 0);
    archive_entry_copy_hardlink(s->entry, first);
    return write_header(s, path, e);
}

int squash_data(struct squash *s, const void *data, size_t len, struct err *e)
{
    return archive_write_data(s->tar, data, len) == (la_ssize_t)len ? 0 : stream_error(s, e);
}

int squash_finish(struct squash *s, struct err *e)
{
    if (archive_write_close(s->tar) < ARCHIVE_WARN)
        return stream_error(s, e);
    close(take_fd(&s->stdin_fd));
    if (await_exit(s, e) < 0)
        return -1;
    return fsync(s->out_fd) < 0 ? err_errno(e, "sync %s", s->name) : 0;
}

void squash_free(struct squash *s)
{
    struct op last_moment = {.deadline_ms = clock_ms() + KILL_MS, .cancel_fd = -1};
    struct err ignored = {0};

    if (!s)
        return;
    if (s->pidfd >= 0) {
        (void)proc_kill(&last_moment, s->pidfd, &ignored);
        close(s->pidfd);
    }
    if (s->tar) {
        /* Nothing is written any more, but only closing frees its buffer after an error. */
        if (s->failure.code == ERR_NONE)
            err_set(&s->failure, ERR_CANCELLED, "given up");
        (void)archive_write_close(s->tar);
        (void)archive_write_free(s->tar);
    }
    archive_entry_free(s->entry);
    cleanup_close(&s->out_fd);
    cleanup_close(&s->stdin_fd);
    cleanup_close(&s->stderr_fd);
    free(s);
}
