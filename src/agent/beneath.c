/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/beneath.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mem.h"

enum { DIRECTORY_MODE = 0755, NO_MAGICLINKS = 0x02, IN_ROOT = 0x10 };

/* <linux/openat2.h>, which musl's headers do not have. */
struct how {
    uint64_t flags;
    uint64_t mode;
    uint64_t resolve;
};

int beneath_open(int root_fd, const char *path, int flags, mode_t mode)
{
    const struct how how = {
        .flags = (uint64_t)(flags | O_CLOEXEC),
        .mode = flags & O_CREAT ? mode : 0,
        .resolve = IN_ROOT | NO_MAGICLINKS,
    };
    int tries = 16;
    int fd;

    do /* EAGAIN: a rename somewhere, and the kernel is not sure */
        fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
    while (fd < 0 && errno == EAGAIN && tries-- > 0);
    return fd;
}

/* Cuts the last name off; what is left is "" for the root. */
static const char *split(char *path)
{
    size_t n = strlen(path);
    char *slash;

    while (n > 0 && (path[n - 1] == '/' || (path[n - 1] == '.' && (n == 1 || path[n - 2] == '/'))))
        path[--n] = '\0';
    slash = strrchr(path, '/');
    if (!slash)
        return path;
    *slash = '\0';
    return slash + 1;
}

static int open_directory(int root_fd, const char *path)
{
    return beneath_open(root_fd, *path ? path : ".", O_PATH | O_DIRECTORY, 0);
}

/* mkdir -p: each missing directory is made in its parent, which is looked up anew, links and all.
 */
static int make_directory(int root_fd, const char *path)
{
    auto_free char *above = mem_strdup(path);
    const char *name = split(above);
    bool is_top = name == above;
    auto_close int parent_fd = -1;
    int fd = open_directory(root_fd, path);

    if (fd >= 0 || errno != ENOENT || *name == '\0')
        return fd;
    parent_fd = make_directory(root_fd, is_top ? "" : above);
    if (parent_fd < 0 || (mkdirat(parent_fd, name, DIRECTORY_MODE) < 0 && errno != EEXIST))
        return -1;
    return open_directory(root_fd, path);
}

int beneath_parent(int root_fd, const char *path, char base[BASE_SIZE], struct err *e)
{
    auto_free char *above = mem_strdup(path);
    const char *name = split(above);
    bool is_top = name == above;
    int fd;

    if (strcmp(name, "..") == 0)
        return err_set(e, ERR_INVALID, "%s: \"..\" is no name for a file", path);
    if ((size_t)snprintf(base, BASE_SIZE, "%s", name) >= BASE_SIZE) {
        errno = ENAMETOOLONG;
        return err_errno(e, "%s", path);
    }
    fd = make_directory(root_fd, is_top ? "" : above);
    return fd < 0 ? err_errno(e, "make the directory of %s", path) : fd;
}
