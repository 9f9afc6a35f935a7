/* SPDX-License-Identifier: Apache-2.0 */
#include "net/watch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/netconf.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/links.h"
#include "net/netlink.h"
#include "net/rules.h"

enum { SOON_MS = 20, APART_MS = 1000, EVENT_MAX = 64 * 1024, TURN_MAX = 64, COMM_SIZE = 16 };

struct net_watch {
    struct loop *loop;
    const struct net_plan *plan;
    struct net_watcher to;
    struct watch nft;
    struct watch route;
    struct timer soon;
    int64_t last_ms;
    struct upkeep todo;
    struct upkeep pending; /* of a transaction whose author is not known yet */
    char comm[COMM_SIZE];  /* what the kernel calls us */
};

static void later(struct net_watch *w, const struct upkeep *more)
{
    int64_t apart = w->last_ms + APART_MS - clock_ms();

    if (!more->rules && !more->links && !more->uplink && !more->firewall)
        return;
    w->todo.rules |= more->rules;
    w->todo.links |= more->links;
    w->todo.uplink |= more->uplink;
    w->todo.firewall |= more->firewall;
    if (w->soon.place == 0)
        loop_timer_start(w->loop, &w->soon, w->last_ms && apart > SOON_MS ? apart : SOON_MS);
}

static void do_it(struct timer *t)
{
    struct net_watch *w = container_of(t, struct net_watch, soon);
    struct upkeep todo = w->todo;

    w->todo = (struct upkeep){0};
    w->last_ms = clock_ms();
    w->to.changed(w->to.owner, &todo);
}

/* --- nftables: a transaction's changes come first, then who made it --- */

static bool author_is_us(const struct net_watch *w, const struct nlmsghdr *h)
{
    const struct nlattr *a;

    nl_attributes(a, h, sizeof(struct nfgenmsg))
    {
        if (mnl_attr_get_type(a) == NFTA_GEN_PROC_NAME &&
            mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
            return strcmp(mnl_attr_get_str(a), w->comm) == 0;
    }
    return false;
}

/* Every kind of object has its table as its first attribute. */
static bool is_in_our_table(const struct nlmsghdr *h)
{
    const struct nlattr *a;

    nl_attributes(a, h, sizeof(struct nfgenmsg))
    {
        if (mnl_attr_get_type(a) == NFTA_TABLE_NAME &&
            mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
            return strncmp(mnl_attr_get_str(a), RULES_TABLE, strlen(RULES_TABLE)) == 0;
    }
    return false;
}

static void nft_event(struct net_watch *w, const struct nlmsghdr *h)
{
    int type = h->nlmsg_type & 0xff;

    if (type == NFT_MSG_NEWGEN) {
        if (!author_is_us(w, h))
            later(w, &w->pending);
        w->pending = (struct upkeep){0};
    } else if (is_in_our_table(h)) {
        w->pending.rules = true;
    } else if (type == NFT_MSG_NEWCHAIN || type == NFT_MSG_NEWRULE || type == NFT_MSG_DELRULE ||
               type == NFT_MSG_DELCHAIN || type == NFT_MSG_DELTABLE) {
        w->pending.firewall = true;
    }
}

/* --- TAPs, routes, addresses, and whether the host forwards --- */

static void link_event(struct net_watch *w, const struct nlmsghdr *h)
{
    const struct ifinfomsg *i = mnl_nlmsg_get_payload(h);

    if (i->ifi_family != AF_UNSPEC)
        return;
    if (h->nlmsg_type == RTM_DELLINK)
        w->to.gone(w->to.owner, i->ifi_index);
    else if (link_is_disturbed(h))
        later(w, &(struct upkeep){.links = true});
}

static void route_event(struct net_watch *w, const struct nlmsghdr *h)
{
    const struct rtmsg *m = mnl_nlmsg_get_payload(h);

    if (m->rtm_family != AF_INET || m->rtm_table != RT_TABLE_MAIN)
        return;
    if (m->rtm_dst_len == 0)
        later(w, &(struct upkeep){.uplink = true});
    else if (h->nlmsg_type == RTM_DELROUTE && m->rtm_protocol == NET_ROUTE_PROTOCOL)
        later(w, &(struct upkeep){.links = true});
}

static void address_event(struct net_watch *w, const struct nlmsghdr *h)
{
    const struct nlattr *a;

    nl_attributes(a, h, sizeof(struct ifaddrmsg))
    {
        if (mnl_attr_get_type(a) == IFA_LOCAL && ntohl(mnl_attr_get_u32(a)) == w->plan->gateway)
            later(w, &(struct upkeep){.links = true});
    }
}

static bool is_uplink(const struct net_watch *w, int ifindex)
{
    char name[IFNAMSIZ];

    return if_indextoname((unsigned)ifindex, name) && strcmp(name, w->to.uplink) == 0;
}

/* "sysctl net.ipv4.ip_forward=0" is told for all, and for each interface. */
static void setting_event(struct net_watch *w, const struct nlmsghdr *h)
{
    const struct nlattr *a;
    bool is_off = false;
    int ifindex = 0;

    nl_attributes(a, h, sizeof(struct netconfmsg))
    {
        int type = mnl_attr_get_type(a);

        if (type == NETCONFA_IFINDEX)
            ifindex = (int)mnl_attr_get_u32(a);
        else if (type == NETCONFA_FORWARDING)
            is_off = mnl_attr_get_u32(a) == 0;
    }
    if (is_off && ifindex == NETCONFA_IFINDEX_ALL)
        later(w, &(struct upkeep){.links = true, .uplink = true});
    else if (is_off && is_uplink(w, ifindex))
        later(w, &(struct upkeep){.uplink = true});
}

static void rtnl_event(struct net_watch *w, const struct nlmsghdr *h)
{
    if (nl_is_ours(h))
        return;
    if (h->nlmsg_type == RTM_NEWROUTE || h->nlmsg_type == RTM_DELROUTE)
        route_event(w, h);
    else if (h->nlmsg_type == RTM_DELADDR)
        address_event(w, h);
    else if (h->nlmsg_type == RTM_NEWNETCONF)
        setting_event(w, h);
    else if (h->nlmsg_type == RTM_NEWLINK || h->nlmsg_type == RTM_DELLINK)
        link_event(w, h);
}

typedef void event_fn(struct net_watch *w, const struct nlmsghdr *h);

static void receive(struct net_watch *w, int fd, event_fn *event)
{
    static _Alignas(struct nlmsghdr) char in[EVENT_MAX];
    static const struct upkeep everything = {true, true, true, true};

    for (int i = 0; i < TURN_MAX; i++) {
        ssize_t got = recv(fd, in, sizeof(in), MSG_DONTWAIT);
        const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)in;
        int left = (int)got;

        if (got < 0 && errno == ENOBUFS) { /* more than fits: what was lost may have been ours */
            later(w, &everything);
            continue;
        }
        if (got <= 0)
            return;
        for (; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left))
            event(w, h);
    }
}

static void on_nft(struct watch *watch, uint32_t events)
{
    struct net_watch *w = container_of(watch, struct net_watch, nft);

    (void)events;
    receive(w, watch->fd, nft_event);
}

static void on_route(struct watch *watch, uint32_t events)
{
    struct net_watch *w = container_of(watch, struct net_watch, route);

    (void)events;
    receive(w, watch->fd, rtnl_event);
}

static int follow(struct net_watch *w, struct watch *watch, int fd, struct err *e)
{
    if (fd < 0)
        return -1;
    if (loop_watch(w->loop, watch, fd, EPOLLIN, e) == 0)
        return 0;
    close(fd);
    watch->fd = 0;
    return -1;
}

struct net_watch *net_watch_new(struct loop *loop, const struct net_plan *plan,
                                const struct net_watcher *to, struct err *e)
{
    static const unsigned nft[] = {NFNLGRP_NFTABLES};
    static const unsigned route[] = {
        RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_NETCONF, RTNLGRP_LINK};
    struct net_watch *w = mem_new(struct net_watch);

    w->loop = loop;
    w->plan = plan;
    w->to = *to;
    w->nft.fn = on_nft;
    w->route.fn = on_route;
    w->soon.fn = do_it;
    (void)prctl(PR_GET_NAME, w->comm);
    if (follow(w, &w->nft, nl_follow(NETLINK_NETFILTER, nft, 1, e), e) == 0 &&
        follow(w, &w->route, nl_follow(NETLINK_ROUTE, route, 4, e), e) == 0)
        return w;
    net_watch_free(w);
    return NULL;
}

void net_watch_free(struct net_watch *w)
{
    struct watch *watches[2];

    if (!w)
        return;
    watches[0] = &w->nft;
    watches[1] = &w->route;
    loop_timer_stop(w->loop, &w->soon);
    for (size_t i = 0; i < 2; i++) {
        int fd = watches[i]->fd;

        if (fd <= 0)
            continue;
        loop_unwatch(w->loop, watches[i]);
        close(fd);
    }
    free(w);
}
