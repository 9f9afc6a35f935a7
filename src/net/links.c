/* SPDX-License-Identifier: Apache-2.0 */
#include "net/links.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include "base/mem.h"

#define ALIAS "hypeman " /* then the outer address */

enum {
    DOOMED_GROUP = 0x686d, /* what is deleted together is put into it first */
    SUBNET_METRIC = 0x686d,
};

static const unsigned char gateway_mac[6] = {2, 0, 0, 0, 0, 1};
static const unsigned char guest_mac[6] = {2, 0, 0, 0, 0, 2};

static struct nlmsghdr *begin_link(struct nl *n, uint16_t type, int ifindex, unsigned up)
{
    struct nlmsghdr *h = nl_begin(n, type, 0);
    struct ifinfomsg *i = mnl_nlmsg_put_extra_header(h, sizeof(*i));

    i->ifi_index = ifindex;
    i->ifi_flags = up;
    i->ifi_change = up;
    return h;
}

/*
 * A spoofed source is our rules' business; a redirect would tell a guest of another's TAP. What
 * the host sends from 127.0.0.1 to a published port leaves by a TAP.
 */
static void put_settings(struct nlmsghdr *h)
{
    struct nlattr *spec = mnl_attr_nest_start(h, IFLA_AF_SPEC);
    struct nlattr *inet = mnl_attr_nest_start(h, AF_INET);
    struct nlattr *conf = mnl_attr_nest_start(h, IFLA_INET_CONF);

    mnl_attr_put_u32(h, IPV4_DEVCONF_FORWARDING, 1);
    mnl_attr_put_u32(h, IPV4_DEVCONF_RP_FILTER, 0);
    mnl_attr_put_u32(h, IPV4_DEVCONF_ROUTE_LOCALNET, 1);
    mnl_attr_put_u32(h, IPV4_DEVCONF_SEND_REDIRECTS, 0);
    mnl_attr_put_u32(h, IPV4_DEVCONF_ACCEPT_REDIRECTS, 0);
    mnl_attr_nest_end(h, conf);
    mnl_attr_nest_end(h, inet);
    mnl_attr_nest_end(h, spec);
}

void link_prepare(struct nl *n, int ifindex)
{
    struct nlmsghdr *h = begin_link(n, RTM_NEWLINK, ifindex, 0);

    mnl_attr_put(h, IFLA_ADDRESS, sizeof(gateway_mac), gateway_mac);
    put_settings(h);
    nl_end(n, h, "set up a TAP", 0);
    h = begin_link(n, RTM_NEWLINK, ifindex, IFF_UP);
    nl_end(n, h, "bring a TAP up", 0);
}

static void put_alias(struct nlmsghdr *h, uint32_t address)
{
    char alias[sizeof(ALIAS) + ADDRESS_TEXT_SIZE];
    char text[ADDRESS_TEXT_SIZE];

    (void)snprintf(alias, sizeof(alias), ALIAS "%s", address_text(address, text));
    mnl_attr_put_str(h, IFLA_IFALIAS, alias);
}

void link_make_upload(struct nl *n, const char *name)
{
    struct nlmsghdr *h = nl_begin(n, RTM_NEWLINK, NLM_F_CREATE);
    struct ifinfomsg *i = mnl_nlmsg_put_extra_header(h, sizeof(*i));
    struct nlattr *info;

    i->ifi_flags = IFF_UP;
    i->ifi_change = IFF_UP;
    mnl_attr_put_str(h, IFLA_IFNAME, name);
    put_alias(h, 0);
    info = mnl_attr_nest_start(h, IFLA_LINKINFO);
    mnl_attr_put_str(h, IFLA_INFO_KIND, "ifb");
    mnl_attr_nest_end(h, info);
    nl_end(n, h, "make the interface that limits uploads", 0);
}

void link_delete_upload(struct nl *n, const char *name)
{
    struct nlmsghdr *h = begin_link(n, RTM_DELLINK, 0, 0);

    mnl_attr_put_str(h, IFLA_IFNAME, name);
    nl_end(n, h, "remove the interface that limits uploads", ENODEV);
}

static void set_alias(struct nl *n, int ifindex, uint32_t address)
{
    struct nlmsghdr *h = begin_link(n, RTM_NEWLINK, ifindex, 0);

    put_alias(h, address);
    nl_end(n, h, "name a TAP's address", 0);
}

static struct nlmsghdr *begin_route(struct nl *n, uint16_t type, uint16_t flags, struct subnet to,
                                    uint8_t kind)
{
    struct nlmsghdr *h = nl_begin(n, type, flags);
    struct rtmsg *r = mnl_nlmsg_put_extra_header(h, sizeof(*r));

    r->rtm_family = AF_INET;
    r->rtm_dst_len = to.prefix;
    r->rtm_table = RT_TABLE_MAIN;
    r->rtm_protocol = NET_ROUTE_PROTOCOL;
    r->rtm_scope = kind == RTN_UNICAST ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
    r->rtm_type = kind;
    mnl_attr_put_u32(h, RTA_DST, htonl(to.base));
    return h;
}

static struct nlmsghdr *begin_guest_route(struct nl *n, uint16_t type, uint16_t flags, int ifindex,
                                          uint32_t address)
{
    struct nlmsghdr *h = begin_route(n, type, flags, (struct subnet){address, 32}, RTN_UNICAST);

    mnl_attr_put_u32(h, RTA_OIF, (uint32_t)ifindex);
    return h;
}

/* Of a metric that is nobody else's: a route of theirs is never replaced. */
void link_subnet(struct nl *n, const struct net_plan *plan, bool present)
{
    struct nlmsghdr *h = begin_route(n,
                                     present ? RTM_NEWROUTE : RTM_DELROUTE,
                                     present ? NLM_F_CREATE | NLM_F_EXCL : 0,
                                     plan->outer,
                                     RTN_UNREACHABLE);

    mnl_attr_put_u32(h, RTA_PRIORITY, SUBNET_METRIC);
    nl_end(n,
           h,
           present ? "add the route of addresses that no guest has"
                   : "remove the route of addresses that no guest has",
           present ? EEXIST : ESRCH);
}

void link_route(struct nl *n, const struct net_plan *plan, int ifindex, uint32_t address)
{
    struct nlmsghdr *h =
        begin_guest_route(n, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, ifindex, address);

    mnl_attr_put_u32(h, RTA_PREFSRC, htonl(plan->gateway));
    nl_end(n, h, "add a guest's route", 0);
}

static struct nlmsghdr *begin_neighbour(struct nl *n, uint16_t type, uint16_t flags, int ifindex,
                                        uint32_t address)
{
    struct nlmsghdr *h = nl_begin(n, type, flags);
    struct ndmsg *d = mnl_nlmsg_put_extra_header(h, sizeof(*d));

    d->ndm_family = AF_INET;
    d->ndm_ifindex = ifindex;
    d->ndm_state = NUD_PERMANENT;
    mnl_attr_put_u32(h, NDA_DST, htonl(address));
    return h;
}

static void set_neighbour(struct nl *n, int ifindex, uint32_t address)
{
    struct nlmsghdr *h =
        begin_neighbour(n, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, ifindex, address);

    mnl_attr_put(h, NDA_LLADDR, sizeof(guest_mac), guest_mac);
    nl_end(n, h, "add a guest's neighbour entry", 0);
}

static void drop_neighbour(struct nl *n, int ifindex, uint32_t address)
{
    struct nlmsghdr *h = begin_neighbour(n, RTM_DELNEIGH, 0, ifindex, address);

    nl_end(n, h, "remove a guest's neighbour entry", NL_ANY_ERROR); /* it goes with its TAP */
}

void link_bind(struct nl *n, const struct net_plan *plan, int ifindex, uint32_t address)
{
    set_neighbour(n, ifindex, plan->inner);
    set_neighbour(n, ifindex, address);
    link_route(n, plan, ifindex, address);
    set_alias(n, ifindex, address);
}

void link_unbind(struct nl *n, int ifindex, uint32_t address)
{
    struct nlmsghdr *h = begin_guest_route(n, RTM_DELROUTE, 0, ifindex, address);

    nl_end(n, h, "remove a guest's route", ESRCH);
    drop_neighbour(n, ifindex, address);
}

void link_gateway(struct nl *n, const struct net_plan *plan, bool present)
{
    struct nlmsghdr *h = nl_begin(
        n, present ? RTM_NEWADDR : RTM_DELADDR, present ? NLM_F_CREATE | NLM_F_REPLACE : 0);
    struct ifaddrmsg *a = mnl_nlmsg_put_extra_header(h, sizeof(*a));

    a->ifa_family = AF_INET;
    a->ifa_prefixlen = 32;
    a->ifa_scope = RT_SCOPE_HOST; /* never the source of anything that did not ask for it */
    a->ifa_index = if_nametoindex("lo");
    mnl_attr_put_u32(h, IFA_LOCAL, htonl(plan->gateway));
    mnl_attr_put_u32(h, IFA_ADDRESS, htonl(plan->gateway));
    nl_end(n,
           h,
           present ? "add the gateway's address to lo" : "remove the gateway's address from lo",
           present ? EEXIST : EADDRNOTAVAIL);
}

void links_delete(struct nl *n, const int *ifindexes, size_t count)
{
    struct nlmsghdr *h;

    if (count == 0)
        return;
    for (size_t i = 0; i < count; i++) {
        h = begin_link(n, RTM_NEWLINK, ifindexes[i], 0);
        mnl_attr_put_u32(h, IFLA_GROUP, DOOMED_GROUP);
        nl_end(n, h, "mark a TAP for removal", ENODEV);
    }
    h = begin_link(n, RTM_DELLINK, 0, 0);
    mnl_attr_put_u32(h, IFLA_GROUP, DOOMED_GROUP);
    nl_end(n, h, "remove TAPs", ENODEV);
}

/* --- what is there --- */

struct listing {
    const char *prefix; /* of the names that are ours, before a number */
    const char *kind;
    struct tap_link *v;
    size_t n;
};

static bool is_of_kind(const struct nlattr *info, const char *kind)
{
    const struct nlattr *a;

    nl_nested(a, info)
    {
        if (mnl_attr_get_type(a) == IFLA_INFO_KIND)
            return strcmp(mnl_attr_get_str(a), kind) == 0;
    }
    return false;
}

/* "hm" and a number: hmm, hmail or hm-lan are somebody else's. */
static bool is_numbered(const char *name, const char *prefix)
{
    size_t n = strlen(prefix);
    size_t digits = strncmp(name, prefix, n) == 0 ? strspn(name + n, "0123456789") : 0;

    return digits > 0 && name[n + digits] == '\0';
}

static int take_link(void *arg, const struct nlmsghdr *h, struct err *e)
{
    struct listing *list = arg;
    const struct ifinfomsg *i = mnl_nlmsg_get_payload(h);
    struct tap_link found = {.ifindex = i->ifi_index};
    bool has_kind = false;
    bool has_alias = false;
    const struct nlattr *a;

    (void)e;
    nl_attributes(a, h, sizeof(*i))
    {
        int type = mnl_attr_get_type(a);

        if (type == IFLA_IFNAME)
            (void)snprintf(found.name, sizeof(found.name), "%s", mnl_attr_get_str(a));
        else if (type == IFLA_CARRIER)
            found.has_carrier = mnl_attr_get_u8(a) != 0;
        else if (type == IFLA_IFALIAS && strncmp(mnl_attr_get_str(a), ALIAS, strlen(ALIAS)) == 0)
            has_alias = address_parse(mnl_attr_get_str(a) + strlen(ALIAS), &found.address);
        else if (type == IFLA_LINKINFO)
            has_kind = is_of_kind(a, list->kind);
    }
    if (!has_kind || !has_alias || !is_numbered(found.name, list->prefix))
        return 0;
    list->v = mem_realloc(list->v, (list->n + 1) * sizeof(*list->v));
    list->v[list->n++] = found;
    return 0;
}

/* The alias comes last when one is made, the group first when it is removed. */
bool link_is_disturbed(const struct nlmsghdr *h)
{
    const struct ifinfomsg *i = mnl_nlmsg_get_payload(h);
    bool is_disturbed = !(i->ifi_flags & IFF_UP);
    bool is_ours = false;
    const struct nlattr *a;

    nl_attributes(a, h, sizeof(*i))
    {
        int type = mnl_attr_get_type(a);

        if (type == IFLA_IFALIAS)
            is_ours = strncmp(mnl_attr_get_str(a), ALIAS, strlen(ALIAS)) == 0;
        else if (type == IFLA_GROUP && mnl_attr_get_u32(a) == DOOMED_GROUP)
            return false;
        else if (type == IFLA_IFNAME && !is_numbered(mnl_attr_get_str(a), NET_TAPS))
            return false;
        else if (type == IFLA_ADDRESS && mnl_attr_get_payload_len(a) == sizeof(gateway_mac))
            is_disturbed |= memcmp(mnl_attr_get_payload(a), gateway_mac, sizeof(gateway_mac)) != 0;
    }
    return is_ours && is_disturbed;
}

static int dump(uint16_t type, uint8_t family, nl_each *each, void *arg, struct err *e)
{
    auto_nl struct nl n = NL_CLOSED;
    struct nlmsghdr *h;
    struct rtgenmsg *g;

    if (nl_open(&n, NETLINK_ROUTE, e) < 0)
        return -1;
    h = nl_begin(&n, type, NLM_F_DUMP);
    g = mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
    g->rtgen_family = family;
    nl_end(&n, h, "list", 0);
    return nl_dump(&n, each, arg, e);
}

static int list_links(struct listing list, struct tap_link **out, size_t *n_out, struct err *e)
{
    if (dump(RTM_GETLINK, AF_UNSPEC, take_link, &list, e) < 0) {
        free(list.v);
        return err_wrap(e, "list the interfaces");
    }
    *out = list.v;
    *n_out = list.n;
    return 0;
}

int links_list(struct tap_link **out, size_t *n_out, struct err *e)
{
    return list_links((struct listing){NET_TAPS, "tun", NULL, 0}, out, n_out, e);
}

int links_list_upload(struct tap_link **out, size_t *n_out, struct err *e)
{
    return list_links((struct listing){NET_UPLOADS, "ifb", NULL, 0}, out, n_out, e);
}

struct reading {
    const struct net_plan *plan;
    struct host_routes *out;
    uint32_t best; /* metric of the default route that was taken */
};

static void consider(struct reading *r, const struct rtmsg *m, struct subnet dst, unsigned oif,
                     uint32_t metric)
{
    struct host_routes *out = r->out;
    char name[IFNAMSIZ];

    if (!if_indextoname(oif, name))
        return;
    if (m->rtm_dst_len == 0) {
        if (out->uplink[0] == '\0' || metric < r->best) {
            memcpy(out->uplink, name, sizeof(name));
            r->best = metric;
        }
    } else if (m->rtm_protocol != NET_ROUTE_PROTOCOL && subnet_overlaps(dst, r->plan->outer)) {
        memcpy(out->overlap_dev, name, sizeof(name));
        out->overlap = dst;
    }
}

static int take_route(void *arg, const struct nlmsghdr *h, struct err *e)
{
    struct reading *r = arg;
    const struct rtmsg *m = mnl_nlmsg_get_payload(h);
    struct subnet dst = {.prefix = m->rtm_dst_len};
    uint32_t metric = 0;
    unsigned oif = 0;
    const struct nlattr *a;

    (void)e;
    if (m->rtm_type != RTN_UNICAST && m->rtm_type != RTN_LOCAL)
        return 0;
    nl_attributes(a, h, sizeof(*m))
    {
        int type = mnl_attr_get_type(a);

        if (type == RTA_DST)
            dst.base = ntohl(mnl_attr_get_u32(a));
        else if (type == RTA_OIF)
            oif = mnl_attr_get_u32(a);
        else if (type == RTA_PRIORITY)
            metric = mnl_attr_get_u32(a);
    }
    if (oif != 0)
        consider(r, m, dst, oif, metric);
    return 0;
}

int routes_read(const struct net_plan *plan, struct host_routes *out, struct err *e)
{
    struct reading r = {.plan = plan, .out = out};

    *out = (struct host_routes){0};
    return dump(RTM_GETROUTE, AF_INET, take_route, &r, e) < 0 ? err_wrap(e, "list the routes") : 0;
}
