/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/sock.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"

enum { BACKLOG = 4 };

static int address_of(int dir_fd, const char *name, struct sockaddr_un *out, struct err *e)
{
    int n;

    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    n = snprintf(out->sun_path, sizeof(out->sun_path), "/proc/self/fd/%d/%s", dir_fd, name);
    if (n < 0 || (size_t)n >= sizeof(out->sun_path))
        return err_set(e, ERR_INTERNAL, "the socket name %s is too long", name);
    return 0;
}

int sock_listen(int dir_fd, const char *name, struct err *e)
{
    auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address;

    if (fd < 0)
        return err_errno(e, "make a socket");
    if (address_of(dir_fd, name, &address, e) < 0)
        return -1;
    /* The file gets the socket's mode; the umask belongs to the whole process. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, BACKLOG) < 0)
        return err_errno(e, "listen on %s", name);
    return take_fd(&fd);
}

int sock_connect(int dir_fd, const char *name, struct err *e)
{
    auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address;

    if (fd < 0)
        return err_errno(e, "make a socket");
    if (address_of(dir_fd, name, &address, e) < 0)
        return -1;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        if (errno == ENOENT || errno == ECONNREFUSED)
            return err_set(e, ERR_NOT_FOUND, "nobody listens on %s", name);
        return err_errno(e, "connect to %s", name);
    }
    return take_fd(&fd);
}
