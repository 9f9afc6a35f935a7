/* SPDX-License-Identifier: Apache-2.0 */
#include "net/slot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/links.h"
#include "net/rate.h"
#include "net/rules.h"
#include "net/tap.h"

struct net_slot *slot_new(uint32_t address)
{
    struct net_slot *s = mem_new(struct net_slot);

    s->fd = -1;
    s->address = address;
    list_init(&s->link);
    return s;
}

void slot_free(struct net_slot *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    port_set_free(s->ports);
    free(s);
}

/* The kernel has no message for it. Without it the TAP would give itself an IPv6 address. */
static void disable_ipv6(const char *tap)
{
    char path[80];
    auto_close int fd = -1;

    (void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", tap);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        (void)!write(fd, "1", 1); /* a host that refuses has our ip6 table all the same */
}

static int make(struct nl *route, struct net_slot *s, struct err *e)
{
    s->fd = tap_open(s->tap, e);
    if (s->fd < 0)
        return -1;
    s->ifindex = (int)if_nametoindex(s->tap);
    disable_ipv6(s->tap);
    link_prepare(route, s->ifindex);
    return 0;
}

struct batches {
    struct slot_tools *tools;
    struct nl route;
    struct nl nft;
};

#define auto_batches __attribute__((cleanup(batches_close)))

static void batches_close(struct batches *b)
{
    nl_close(&b->route);
    nl_park(&b->nft, &b->tools->parked);
}

static int batches_open(struct batches *b, struct slot_tools *tools, struct err *e)
{
    *b = (struct batches){.tools = tools, .route = NL_CLOSED, .nft = NL_CLOSED};
    if (nl_open(&b->route, NETLINK_ROUTE, e) < 0 || nl_open_parked(&b->nft, &tools->parked, e) < 0)
        return -1;
    nl_batch_begin(&b->nft);
    return 0;
}

/*
 * Tables that somebody has just flushed are no error: whoever puts them back (net/watch.h)
 * knows of this slot by then.
 */
static int batches_send(struct batches *b, struct err *e)
{
    nl_batch_end(&b->nft);
    if (nl_send(&b->nft, e) < 0) {
        if (b->nft.error != ENOENT)
            return -1;
        err_clear(e);
    }
    return nl_send(&b->route, e);
}

int slots_bind(struct slot_tools *tools, struct net_slot *const *v, size_t n, struct err *e)
{
    auto_batches struct batches b;

    if (batches_open(&b, tools, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        struct net_slot *s = v[i];

        if (s->ifindex == 0 && make(&b.route, s, e) < 0)
            return -1;
        if (s->bound && s->bound != s->address)
            link_unbind(&b.route, s->ifindex, s->bound);
        link_bind(&b.route, tools->plan, s->ifindex, s->address);
        rules_bind(&b.nft, s->tap, s->bound, s->address);
    }
    if (batches_send(&b, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        v[i]->bound = v[i]->address;
    return 0;
}

int slot_leave(const struct op *op, struct net_slot *s, struct err *e)
{
    if (tap_leave(s->fd, e) < 0)
        return -1;
    close(take_fd(&s->fd));
    return tap_await_free(op, s->tap, e);
}

/* Nobody but us deletes it; if somebody did, what has its name now is none of ours. */
static int return_unused(const struct net_slot *s, struct err *e)
{
    auto_close int fd = tap_return(s->tap, e);

    if (fd >= 0 && (int)if_nametoindex(s->tap) != s->ifindex)
        return err_set(e, ERR_NOT_FOUND, "it was deleted");
    return take_fd(&fd);
}

void slot_return(struct net_slot *s, int pidfd)
{
    struct err e = {0};

    if (s->fd >= 0)
        return;
    s->fd = pidfd >= 0 ? tap_of_process(pidfd, s->tap, &e) : return_unused(s, &e);
    if (s->fd < 0)
        log_info("network: %s is not used again after its VMM: %s", s->tap, e.msg);
    else
        tap_bind_to_file(s->fd);
}

int slot_publish(struct slot_tools *tools, struct net_slot *s, struct err *e)
{
    struct nl nft = NL_CLOSED;
    int rc = nl_open_parked(&nft, &tools->parked, e);

    if (rc == 0)
        rc = ports_open(&tools->ports, s->ports, &nft, e);
    nl_park(&nft, &tools->parked);
    return rc;
}

static int unpublish(struct batches *b, struct net_slot *s, struct err *e)
{
    if (ports_close(&b->tools->ports, s->ports, &b->nft, e) < 0)
        return -1;
    port_set_free(take_ptr(&s->ports));
    return 0;
}

/* A TAP that ended with its VMM has no counters, and nobody comes after it. */
static void count_from_here(struct net_slot *s)
{
    struct err ignored = {0};

    if (s->fd >= 0)
        (void)stats_of(s->ifindex, &s->before, &ignored);
}

int slots_unbind(struct slot_tools *tools, struct net_slot *const *v, size_t n, struct err *e)
{
    auto_batches struct batches b;

    if (batches_open(&b, tools, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (v[i]->bound == 0)
            continue;
        link_unbind(&b.route, v[i]->ifindex, v[i]->bound);
        rules_unbind(&b.nft, v[i]->tap, v[i]->bound);
    }
    if (batches_send(&b, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (v[i]->ports && unpublish(&b, v[i], e) < 0)
            return -1;
        if (v[i]->is_limited && rate_clear(v[i]->tap, e) < 0)
            return -1;
        v[i]->is_limited = false;
        v[i]->left = v[i]->bound;
        v[i]->bound = 0;
        count_from_here(v[i]);
        if (v[i]->fd >= 0)
            tap_drain(v[i]->fd);
    }
    return 0;
}

int slots_delete(struct slot_tools *tools, struct net_slot *const *v, size_t n, struct err *e)
{
    auto_nl struct nl route = NL_CLOSED;
    auto_free int *indexes = mem_zalloc(n, sizeof(*indexes));
    size_t count = 0;

    if (slots_unbind(tools, v, n, e) < 0 || nl_open(&route, NETLINK_ROUTE, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (v[i]->ifindex)
            indexes[count++] = v[i]->ifindex;
    }
    links_delete(&route, indexes, count);
    return nl_send(&route, e);
}
