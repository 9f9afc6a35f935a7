/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/datadir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/token.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "loop/op.h"

enum { SECRET_BYTES = 32, LOCK_WAIT_MS = 3000, LOCK_RETRY_MS = 20 };

/* The directory and what leads to it, as mkdir -p does; ours is closed to others. */
static int make_path(const char *path, struct err *e)
{
    auto_free char *copy = mem_strdup(path);

    for (char *slash = copy + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
            return err_errno(e, "create %s", copy);
        *slash = '/';
    }
    if (mkdir(copy, 0700) < 0 && errno != EEXIST)
        return err_errno(e, "create %s", copy);
    return 0;
}

static int subdirectory(const struct datadir *d, const char *name, struct err *e)
{
    return dir_ensure(d->fd, name, 0700, e) < 0 ? -1 : dir_open(d->fd, name, e);
}

static int take_lock(struct datadir *d, const char *path, struct err *e)
{
    struct op op = {clock_ms() + LOCK_WAIT_MS, -1};
    struct err late = {0};

    d->lock_fd = openat(d->fd, ".hypeman.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lock_fd < 0)
        return err_errno(e, "open the lock of %s", path);
    while (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK)
            return err_errno(e, "lock %s", path);
        /* A daemon that was just killed may take a moment to be gone. */
        if (op_sleep(&op, LOCK_RETRY_MS, &late) < 0)
            return err_set(e,
                           ERR_BUSY,
                           "another hypeman works on %s; stop it, or choose another --data-dir",
                           path);
    }
    return 0;
}

int datadir_open(struct datadir *d, const char *path, struct err *e)
{
    *d = (struct datadir){
        .fd = -1, .lock_fd = -1, .instances_fd = -1, .images_fd = -1, .templates_fd = -1};
    if (make_path(path, e) < 0)
        return -1;
    d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->fd < 0)
        return err_errno(e, "open the data directory %s", path);
    if (take_lock(d, path, e) < 0)
        return -1;
    d->instances_fd = subdirectory(d, "instances", e);
    if (d->instances_fd < 0)
        return -1;
    d->images_fd = subdirectory(d, "images", e);
    if (d->images_fd < 0)
        return -1;
    d->templates_fd = subdirectory(d, "templates", e);
    return d->templates_fd < 0 ? -1 : 0;
}

void datadir_close(struct datadir *d)
{
    int *fds[] = {&d->instances_fd, &d->images_fd, &d->templates_fd, &d->lock_fd, &d->fd};

    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        cleanup_close(fds[i]);
        *fds[i] = -1;
    }
}

static int make_secret(const struct datadir *d, struct err *e)
{
    unsigned char bytes[SECRET_BYTES];
    char text[2 * SECRET_BYTES + 2];

    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return err_errno(e, "draw a secret");
    for (size_t i = 0; i < sizeof(bytes); i++)
        (void)snprintf(text + 2 * i, 3, "%02x", (unsigned)bytes[i]);
    text[2 * SECRET_BYTES] = '\n';
    return file_replace(d->fd, "secret", 0600, text, 2 * SECRET_BYTES + 1, e);
}

int datadir_secret(const struct datadir *d, const char *path, struct buf *out, struct err *e)
{
    auto_free char *file = mem_printf("%s/secret", path);

    if (faccessat(d->fd, "secret", F_OK, 0) < 0 && make_secret(d, e) < 0)
        return -1;
    return token_secret_read(file, out, e);
}

int datadir_write_listen(const struct datadir *d, const char *address, int port, struct err *e)
{
    auto_close int run_fd = subdirectory(d, "run", e);
    auto_free char *line = mem_printf("%s:%d\n", address, port);

    return run_fd < 0 ? -1 : file_replace(run_fd, "listen", 0644, line, strlen(line), e);
}
