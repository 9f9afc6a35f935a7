/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

int file_read(int dirfd, const char *name, struct buf *out, struct err *e)
{
    auto_close int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char chunk[16384];
    ssize_t n;

    if (fd < 0)
        return err_errno(e, "open %s", name);
    while ((n = read(fd, chunk, sizeof(chunk))) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, "read %s", name);
        buf_append(out, chunk, (size_t)n);
        if (!buf_ok(out))
            return err_set(e, ERR_TOO_LARGE, "%s is larger than %zu bytes", name, out->max);
    }
    return 0;
}

int file_write_all(int fd, const void *data, size_t len, struct err *e)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = write(fd, p, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, "write");
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int dir_sync(int dirfd, struct err *e)
{
    return fsync(dirfd) < 0 ? err_errno(e, "sync directory") : 0;
}

static int write_new(int dirfd, const char *name, mode_t mode, const void *data, size_t len,
                     struct err *e)
{
    auto_close int fd =
        openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);

    if (fd < 0)
        return err_errno(e, "create %s", name);
    if (file_write_all(fd, data, len, e) < 0)
        return err_wrap(e, "%s", name);
    if (fsync(fd) < 0)
        return err_errno(e, "sync %s", name);
    return 0;
}

int file_replace(int dirfd, const char *name, mode_t mode, const void *data, size_t len,
                 struct err *e)
{
    char temporary[NAME_MAX + 1];

    if ((size_t)snprintf(temporary, sizeof(temporary), ".%s.new", name) >= sizeof(temporary))
        return err_set(e, ERR_INTERNAL, "the file name %s is too long", name);
    if (write_new(dirfd, temporary, mode, data, len, e) < 0) {
        (void)unlinkat(dirfd, temporary, 0);
        return -1;
    }
    if (renameat(dirfd, temporary, dirfd, name) < 0) {
        err_errno(e, "rename %s", temporary);
        (void)unlinkat(dirfd, temporary, 0);
        return -1;
    }
    return dir_sync(dirfd, e);
}

int file_sync(int dirfd, const char *name, struct err *e)
{
    auto_close int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return err_errno(e, "open %s", name);
    return fdatasync(fd) < 0 ? err_errno(e, "sync %s", name) : 0;
}

int dir_open(int dirfd, const char *name, struct err *e)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

    return fd < 0 ? err_errno(e, "open directory %s", name) : fd;
}

int dir_ensure(int dirfd, const char *name, mode_t mode, struct err *e)
{
    if (mkdirat(dirfd, name, mode) < 0 && errno != EEXIST)
        return err_errno(e, "create directory %s", name);
    return 0;
}

int dir_clear(int dirfd, struct err *e)
{
    auto_close int own = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = own < 0 ? NULL : fdopendir(own);
    const struct dirent *entry;
    int fd = own;
    int rc = 0;

    if (!dir)
        return err_errno(e, "read a directory");
    (void)take_fd(&own);
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = tree_remove(fd, entry->d_name, e);
    }
    closedir(dir);
    return rc;
}

/* Gone meanwhile is fine: somebody else may be removing it too. */
static int empty_dir(int dirfd, const char *name, struct err *e)
{
    auto_close int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return errno == ENOENT ? 0 : err_errno(e, "open directory %s", name);
    return dir_clear(fd, e);
}

int tree_remove(int dirfd, const char *name, struct err *e)
{
    if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return err_errno(e, "remove %s", name);
    /* Somebody may still write into it; once it is gone nobody can. */
    for (int tries = 0; tries < 1000; tries++) {
        if (empty_dir(dirfd, name, e) < 0)
            return -1;
        if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
            return 0;
        if (errno != ENOTEMPTY)
            break;
    }
    return err_errno(e, "remove directory %s", name);
}
