/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "bench.h"

int stream_connect(const struct bench *b)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(to.sun_path, sizeof(to.sun_path), "/proc/self/fd/%d/h.sock", b->root_fd);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        give_up("connect to the daemon: %m");
    return fd;
}

void stream_send(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR)
            give_up("send: %m");
        data += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
}

size_t stream_receive(int fd, char *to, size_t room)
{
    ssize_t n = recv(fd, to, room, 0);

    if (n <= 0)
        give_up("the answer broke off: %m");
    return (size_t)n;
}
