/* SPDX-License-Identifier: Apache-2.0 */
#include "net/conntrack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include "base/cleanup.h"
#include "base/mem.h"

#define SETTING "/proc/sys/net/netfilter/nf_conntrack_events"

enum { NEW = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW };
enum { GET = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET };
enum { DELETE = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE };

static bool is_turned_off(void)
{
    auto_close int fd = open(SETTING, O_RDONLY | O_CLOEXEC);
    char value = '1';

    return fd >= 0 && read(fd, &value, 1) == 1 && value == '0';
}

int conntrack_follow(struct err *e)
{
    static const unsigned groups[] = {
        NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE, NFNLGRP_CONNTRACK_DESTROY};
    int fd = nl_follow(NETLINK_NETFILTER, groups, sizeof(groups) / sizeof(groups[0]), e);

    if (fd < 0 || !is_turned_off())
        return fd;
    close(fd);
    return err_set(e, ERR_UNSUPPORTED, "net.netfilter.nf_conntrack_events is 0");
}

/* --- reading --- */

static uint32_t address_of(const struct nlattr *a)
{
    return mnl_attr_get_payload_len(a) == 4 ? ntohl(mnl_attr_get_u32(a)) : 0;
}

static uint16_t port_of(const struct nlattr *a)
{
    return mnl_attr_get_payload_len(a) == 2 ? ntohs(mnl_attr_get_u16(a)) : 0;
}

/* False: it is not TCP over IPv4. */
static bool read_tuple(const struct nlattr *tuple, struct flow_key *out)
{
    const struct nlattr *part;
    const struct nlattr *a;
    bool is_tcp = false;

    nl_nested(part, tuple)
    {
        int type = mnl_attr_get_type(part);

        if (type != CTA_TUPLE_IP && type != CTA_TUPLE_PROTO)
            continue;
        nl_nested(a, part)
        {
            int what = mnl_attr_get_type(a);

            if (type == CTA_TUPLE_IP && what == CTA_IP_V4_SRC)
                out->from = address_of(a);
            else if (type == CTA_TUPLE_IP && what == CTA_IP_V4_DST)
                out->to = address_of(a);
            else if (type == CTA_TUPLE_PROTO && what == CTA_PROTO_NUM)
                is_tcp = mnl_attr_get_u8(a) == IPPROTO_TCP;
            else if (type == CTA_TUPLE_PROTO && what == CTA_PROTO_SRC_PORT)
                out->from_port = port_of(a);
            else if (type == CTA_TUPLE_PROTO && what == CTA_PROTO_DST_PORT)
                out->to_port = port_of(a);
        }
    }
    return is_tcp && out->from && out->to;
}

/* -1: nothing is said of it. */
static int read_state(const struct nlattr *info)
{
    const struct nlattr *part;
    const struct nlattr *a;

    nl_nested(part, info)
    {
        if (mnl_attr_get_type(part) != CTA_PROTOINFO_TCP)
            continue;
        nl_nested(a, part)
        {
            if (mnl_attr_get_type(a) == CTA_PROTOINFO_TCP_STATE)
                return mnl_attr_get_u8(a);
        }
    }
    return -1;
}

/* From the first packet on, until both sides have said that they are done, or one is gone. */
static bool is_open(int state)
{
    return state != TCP_CONNTRACK_LAST_ACK && state != TCP_CONNTRACK_TIME_WAIT &&
           state != TCP_CONNTRACK_CLOSE;
}

static uint32_t guest_of(uint32_t address, struct subnet guests)
{
    return (address & subnet_mask(guests)) == guests.base ? address : 0;
}

bool conntrack_read(const struct nlmsghdr *h, struct subnet guests, struct flow_news *out)
{
    struct flow_key answers = {0};
    bool is_known = false;
    bool is_answered = false;
    int state = -1;
    const struct nlattr *a;

    *out = (struct flow_news){0};
    if (h->nlmsg_type != NEW && h->nlmsg_type != DELETE)
        return false;
    nl_attributes(a, h, sizeof(struct nfgenmsg))
    {
        int type = mnl_attr_get_type(a);

        if (type == CTA_TUPLE_ORIG)
            is_known = read_tuple(a, &out->key);
        else if (type == CTA_TUPLE_REPLY)
            is_answered = read_tuple(a, &answers);
        else if (type == CTA_PROTOINFO)
            state = read_state(a);
    }
    out->guests[0] = guest_of(out->key.from, guests);
    out->guests[1] = guest_of(answers.from, guests);
    out->is_open = h->nlmsg_type == NEW && is_open(state);
    out->is_new = state == TCP_CONNTRACK_SYN_SENT;
    if (h->nlmsg_type == NEW && state < 0 && !(h->nlmsg_flags & NLM_F_CREATE))
        return false; /* something else of it has changed */
    return is_known && is_answered && (out->guests[0] || out->guests[1]);
}

/* --- asking and telling --- */

struct listing {
    struct subnet guests;
    struct flow_news *v;
    size_t n;
    size_t room;
};

static int take(void *arg, const struct nlmsghdr *h, struct err *e)
{
    struct listing *list = arg;
    struct flow_news news;

    (void)e;
    if (!conntrack_read(h, list->guests, &news))
        return 0;
    if (list->n == list->room) {
        list->room = list->room ? list->room * 2 : 256;
        list->v = mem_realloc(list->v, list->room * sizeof(*list->v));
    }
    list->v[list->n++] = news;
    return 0;
}

static struct nlmsghdr *begin(struct nl *n, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *h = nl_begin(n, type, flags);
    struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));

    g->nfgen_family = AF_INET;
    g->version = NFNETLINK_V0;
    return h;
}

int conntrack_list(struct subnet guests, struct flow_news **out, size_t *n_out, struct err *e)
{
    auto_nl struct nl n = NL_CLOSED;
    struct listing list = {.guests = guests};

    if (nl_open(&n, NETLINK_NETFILTER, e) < 0)
        return -1;
    nl_end(&n, begin(&n, GET, NLM_F_DUMP), "list connections", 0);
    if (nl_dump(&n, take, &list, e) < 0) {
        free(list.v);
        return err_wrap(e, "list connections");
    }
    *out = list.v;
    *n_out = list.n;
    return 0;
}

void conntrack_put_tuple(struct nlmsghdr *h, uint16_t which, const struct flow_key *k)
{
    struct nlattr *tuple = mnl_attr_nest_start(h, which);
    struct nlattr *part = mnl_attr_nest_start(h, CTA_TUPLE_IP);

    mnl_attr_put_u32(h, CTA_IP_V4_SRC, htonl(k->from));
    mnl_attr_put_u32(h, CTA_IP_V4_DST, htonl(k->to));
    mnl_attr_nest_end(h, part);
    part = mnl_attr_nest_start(h, CTA_TUPLE_PROTO);
    mnl_attr_put_u8(h, CTA_PROTO_NUM, IPPROTO_TCP);
    mnl_attr_put_u16(h, CTA_PROTO_SRC_PORT, htons(k->from_port));
    mnl_attr_put_u16(h, CTA_PROTO_DST_PORT, htons(k->to_port));
    mnl_attr_nest_end(h, part);
    mnl_attr_nest_end(h, tuple);
}

int conntrack_forget(const struct flow_key *v, size_t n, struct err *e)
{
    auto_nl struct nl nl = NL_CLOSED;

    if (nl_open(&nl, NETLINK_NETFILTER, e) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        struct nlmsghdr *h = begin(&nl, DELETE, 0);

        conntrack_put_tuple(h, CTA_TUPLE_ORIG, &v[i]);
        nl_end(&nl, h, "forget a connection", ENOENT);
    }
    return nl_send(&nl, e);
}
