/* SPDX-License-Identifier: Apache-2.0 */
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "http/private.h"

/*
 * A host that vanished without a word is noticed by the kernel, also under a
 * stream that is idle for days. Accepted sockets inherit these.
 */
static int prepare_tcp(int fd, struct err *e)
{
    static const struct {
        int level;
        int option;
        int value;
    } options[] = {
        {SOL_SOCKET, SO_REUSEADDR, 1},
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 60},
        {IPPROTO_TCP, TCP_KEEPINTVL, 15},
        {IPPROTO_TCP, TCP_KEEPCNT, 4},
    };

    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (setsockopt(fd, options[i].level, options[i].option, &options[i].value, sizeof(int)) < 0)
            return err_errno(e, "set socket option");
    }
    return 0;
}

static int port_of(int fd)
{
    struct sockaddr_storage name = {0};
    socklen_t len = sizeof(name);

    if (getsockname(fd, (struct sockaddr *)&name, &len) < 0)
        return -1;
    return ntohs(name.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&name)->sin6_port
                                            : ((struct sockaddr_in *)&name)->sin_port);
}

static int bind_tcp(const struct addrinfo *ai, struct err *e)
{
    auto_close int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return err_errno(e, "socket");
    if (prepare_tcp(fd, e) < 0)
        return -1;
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0)
        return err_errno(e, "bind");
    if (listen(fd, SOMAXCONN) < 0)
        return err_errno(e, "listen");
    return take_fd(&fd);
}

int http_listen_tcp(struct http_server *s, const char *address, const char *port, int *port_out,
                    struct err *e)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
                             .ai_socktype = SOCK_STREAM};
    struct addrinfo *ai;
    int bound_port;
    int fd;

    if (getaddrinfo(strcmp(address, "localhost") == 0 ? "127.0.0.1" : address, port, &hints, &ai))
        return err_set(e, ERR_INVALID, "listen on %s:%s: not an address and port", address, port);
    fd = bind_tcp(ai, e);
    freeaddrinfo(ai);
    if (fd < 0)
        return err_wrap(e, "listen on %s:%s", address, port);
    bound_port = port_of(fd);
    if (listener_add(s, fd, NULL, e) < 0)
        return err_wrap(e, "listen on %s:%s", address, port);
    if (port_out)
        *port_out = bound_port;
    return 0;
}

/* Removes what an earlier daemon left behind; one that still answers is left alone. */
static int remove_stale(const struct sockaddr_un *name, struct err *e)
{
    auto_close int fd = -1;
    struct stat st;

    if (lstat(name->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : err_errno(e, "look for an old socket");
    if (!S_ISSOCK(st.st_mode))
        return err_set(e, ERR_EXISTS, "there is a file of that name, and it is no socket");
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(e, "socket");
    if (connect(fd, (const struct sockaddr *)name, sizeof(*name)) == 0 || errno == EAGAIN)
        return err_set(e, ERR_EXISTS, "another daemon is listening");
    if (errno != ECONNREFUSED)
        return err_errno(e, "ask whether another daemon is listening");
    if (unlink(name->sun_path) < 0 && errno != ENOENT)
        return err_errno(e, "remove the old socket");
    return 0;
}

/* Who is not in the group still has root and the daemon's user, so this is not an error. */
static void give_to_group(const char *path, const char *group)
{
    const struct group *found = getgrnam(group);

    if (!found)
        log_info("http: no group %s on this system; %s keeps the daemon's own", group, path);
    else if (lchown(path, (uid_t)-1, found->gr_gid) < 0)
        log_info("http: may not give %s to group %s: %m", path, group);
}

/* A socket refuses connections until listen(), so its owner and mode are right before that. */
static int bind_unix(const struct sockaddr_un *name, mode_t mode, const char *group, struct err *e)
{
    auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return err_errno(e, "socket");
    if (fchmod(fd, 0600) < 0) /* what bind() makes the file with; unlike umask, this socket only */
        return err_errno(e, "fchmod");
    if (bind(fd, (const struct sockaddr *)name, sizeof(*name)) < 0)
        return err_errno(e, "bind");
    if (group)
        give_to_group(name->sun_path, group);
    if (chmod(name->sun_path, mode) < 0 || listen(fd, SOMAXCONN) < 0) {
        err_errno(e, "open the socket to clients");
        (void)unlink(name->sun_path);
        return -1;
    }
    return take_fd(&fd);
}

int http_listen_unix(struct http_server *s, const char *path, mode_t mode, const char *group,
                     struct err *e)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    int fd;

    if (len == 0 || len >= sizeof(name.sun_path))
        return err_set(e,
                       ERR_INVALID,
                       "listen on %s: a socket's path has 1 to %zu bytes",
                       path,
                       sizeof(name.sun_path) - 1);
    memcpy(name.sun_path, path, len);
    if (remove_stale(&name, e) < 0)
        return err_wrap(e, "listen on %s", path);
    fd = bind_unix(&name, mode, group, e);
    if (fd < 0)
        return err_wrap(e, "listen on %s", path);
    if (listener_add(s, fd, path, e) < 0)
        return err_wrap(e, "listen on %s", path);
    return 0;
}
