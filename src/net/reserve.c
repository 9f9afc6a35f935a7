/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "net/publish.h"

struct reserved {
    struct port_map map;
    int fd; /* -1: somebody else has it, and our rules are before him */
};

struct reservation {
    struct list link;
    char *owner;
    size_t n;
    struct reserved v[];
};

const char *port_text(const struct port_map *p, char out[PORT_TEXT_SIZE])
{
    char ip[ADDRESS_TEXT_SIZE + 1] = "";

    if (p->host_ip) {
        (void)address_text(p->host_ip, ip);
        (void)snprintf(ip + strlen(ip), 2, ":");
    }
    (void)snprintf(
        out, PORT_TEXT_SIZE, "%s%u/%s", ip, (unsigned)p->host_port, p->is_udp ? "udp" : "tcp");
    return out;
}

static bool overlaps(const struct port_map *a, const struct port_map *b)
{
    return a->host_port == b->host_port && a->is_udp == b->is_udp &&
           (a->host_ip == 0 || b->host_ip == 0 || a->host_ip == b->host_ip);
}

static const struct reservation *find_owner(const struct list *all, const struct port_map *wanted)
{
    for (const struct list *l = all->next; l != all; l = l->next) {
        const struct reservation *r =
            container_of((struct list *)(uintptr_t)l, struct reservation, link);

        for (size_t i = 0; i < r->n; i++) {
            if (overlaps(&r->v[i].map, wanted))
                return r;
        }
    }
    return NULL;
}

/* Bound and not listening: who connects past our rules is refused, and no datagram piles up. */
static int keep_others_off(const struct port_map *p, struct err *e)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET,
        .sin_port = htons(p->host_port),
        .sin_addr.s_addr = htonl(p->host_ip),
    };
    auto_close int fd =
        socket(AF_INET, (p->is_udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    char text[PORT_TEXT_SIZE];
    int none = 0;

    if (fd < 0)
        return err_errno(e, "open a socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &none, sizeof(none));
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
        return take_fd(&fd);
    (void)port_text(p, text);
    if (errno == EADDRNOTAVAIL)
        return err_set(e, ERR_INVALID, "port %s: this host does not have that address", text);
    if (errno != EADDRINUSE)
        return err_errno(e, "port %s of the host", text);
    err_set(e,
            ERR_EXISTS,
            "port %s of the host is used by a program on it; choose another, or end that program",
            text);
    return err_slug(e, "conflict");
}

static int reserve_one(const struct list *all, struct reservation *r, const struct port_map *p,
                       struct err *e)
{
    const struct reservation *other = find_owner(all, p);
    char text[PORT_TEXT_SIZE];

    r->v[r->n] = (struct reserved){*p, -1};
    if (other) {
        err_set(e,
                ERR_EXISTS,
                "port %s of the host leads to instance %s; choose another, or stop that instance",
                port_text(p, text),
                other->owner);
        return err_slug(e, "conflict");
    }
    r->v[r->n].fd = keep_others_off(p, e);
    return r->v[r->n++].fd < 0 ? -1 : 0;
}

struct reservation *ports_reserve(struct list *all, const char *owner, const struct port_map *v,
                                  size_t n, struct err *e)
{
    struct reservation *r = mem_zalloc(1, sizeof(*r) + n * sizeof(r->v[0]));
    int rc = 0;

    list_init(&r->link);
    r->owner = mem_strdup(owner);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = reserve_one(all, r, &v[i], e);
    if (rc < 0) {
        ports_give_back(r);
        return NULL;
    }
    list_append(all, &r->link);
    return r;
}

void ports_give_back(struct reservation *r)
{
    if (!r)
        return;
    list_remove(&r->link);
    for (size_t i = 0; i < r->n; i++) {
        if (r->v[i].fd >= 0)
            close(r->v[i].fd);
    }
    free(r->owner);
    free(r);
}
