/* SPDX-License-Identifier: Apache-2.0 */
#include "net/rate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>

#include "net/links.h"
#include "net/plan.h"

enum {
    BURST_MIN = 128 << 10, /* a frame with offloads has 64 KiB: two of them */
    WAIT_MS = 50,          /* longer than that nothing waits for its turn */
    ROOT_HANDLE = 1 << 16,
    INGRESS_HANDLE = (int)0xffff0000,
    PRIORITY = 1,
};

static uint32_t at_most_u32(uint64_t n)
{
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

static uint32_t burst_bytes(uint64_t rate, uint32_t times)
{
    uint64_t n = rate / 1000 * RATE_BURST_MS * times;

    return n < BURST_MIN ? BURST_MIN : at_most_u32(n);
}

static struct nlmsghdr *begin_tc(struct nl *n, uint16_t type, uint16_t flags, int ifindex,
                                 uint32_t parent)
{
    struct nlmsghdr *h = nl_begin(n, type, flags);
    struct tcmsg *t = mnl_nlmsg_put_extra_header(h, sizeof(*t));

    t->tcm_ifindex = ifindex;
    t->tcm_parent = parent;
    return h;
}

/* tc-tbf(8). The kernel takes the rate from RATE64 and the bucket from BURST; the older
 * fields, which hold 32 bits and clock ticks, only have to be there. */
static void put_bucket(struct nl *n, int ifindex, uint64_t rate, uint32_t times)
{
    uint32_t burst = burst_bytes(rate, times);
    struct tc_tbf_qopt q = {
        .rate = {.rate = at_most_u32(rate), .linklayer = TC_LINKLAYER_ETHERNET},
        .limit = at_most_u32(burst + rate * WAIT_MS / 1000),
    };
    struct nlmsghdr *h =
        begin_tc(n, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, ifindex, TC_H_ROOT);
    struct tcmsg *t = mnl_nlmsg_get_payload(h);
    struct nlattr *options;

    t->tcm_handle = ROOT_HANDLE;
    mnl_attr_put_str(h, TCA_KIND, "tbf");
    options = mnl_attr_nest_start(h, TCA_OPTIONS);
    mnl_attr_put(h, TCA_TBF_PARMS, sizeof(q), &q);
    mnl_attr_put_u32(h, TCA_TBF_BURST, burst);
    if (rate > UINT32_MAX)
        mnl_attr_put_u64(h, TCA_TBF_RATE64, rate);
    mnl_attr_nest_end(h, options);
    nl_end(n, h, "limit an interface's rate", 0);
}

static void drop_bucket(struct nl *n, int ifindex)
{
    nl_end(
        n, begin_tc(n, RTM_DELQDISC, 0, ifindex, TC_H_ROOT), "lift an interface's limit", ENOENT);
}

static void drop_detour(struct nl *n, int ifindex)
{
    struct nlmsghdr *h = begin_tc(n, RTM_DELQDISC, 0, ifindex, TC_H_INGRESS);

    nl_end(n, h, "lift a guest's detour", ENOENT);
}

static void put_redirect(struct nlmsghdr *h, int to_ifindex)
{
    struct tc_mirred m = {
        .action = TC_ACT_STOLEN,
        .eaction = TCA_EGRESS_REDIR,
        .ifindex = (uint32_t)to_ifindex,
    };
    struct nlattr *actions = mnl_attr_nest_start(h, TCA_U32_ACT);
    struct nlattr *first = mnl_attr_nest_start(h, 1);
    struct nlattr *options;

    mnl_attr_put_str(h, TCA_ACT_KIND, "mirred");
    options = mnl_attr_nest_start(h, TCA_ACT_OPTIONS);
    mnl_attr_put(h, TCA_MIRRED_PARMS, sizeof(m), &m);
    mnl_attr_nest_end(h, options);
    mnl_attr_nest_end(h, first);
    mnl_attr_nest_end(h, actions);
}

/* Everything that comes from the TAP goes through the other interface, and back to where it was. */
static void put_detour(struct nl *n, int ifindex, int to_ifindex)
{
    struct {
        struct tc_u32_sel sel;
        struct tc_u32_key key; /* that all packets have */
    } match = {.sel = {.flags = TC_U32_TERMINAL, .nkeys = 1}};
    struct nlmsghdr *h =
        begin_tc(n, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, ifindex, TC_H_INGRESS);
    struct nlattr *options;
    struct tcmsg *t;

    t = mnl_nlmsg_get_payload(h);
    t->tcm_handle = (uint32_t)INGRESS_HANDLE;
    mnl_attr_put_str(h, TCA_KIND, "ingress");
    nl_end(n, h, "lead a guest's packets aside", 0);

    h = begin_tc(n, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, ifindex, (uint32_t)INGRESS_HANDLE);
    t = mnl_nlmsg_get_payload(h);
    t->tcm_info = TC_H_MAKE(PRIORITY << 16, htons(ETH_P_ALL));
    mnl_attr_put_str(h, TCA_KIND, "u32");
    options = mnl_attr_nest_start(h, TCA_OPTIONS);
    mnl_attr_put(h, TCA_U32_SEL, sizeof(match), &match);
    put_redirect(h, to_ifindex);
    mnl_attr_nest_end(h, options);
    nl_end(n, h, "lead a guest's packets aside", 0);
}

static void name_of_up(const char *tap, char out[IFNAMSIZ])
{
    (void)snprintf(out, IFNAMSIZ, NET_UPLOADS "%.8s", tap + strlen(NET_TAPS));
}

/* 0 with e set: it cannot be. */
static int make_up(struct nl *n, const char *tap, struct err *e)
{
    char name[IFNAMSIZ];
    int ifindex;

    name_of_up(tap, name);
    link_make_upload(n, name);
    if (nl_send(n, e) < 0)
        return 0;
    ifindex = (int)if_nametoindex(name);
    if (ifindex == 0)
        err_errno(e, "find interface %s", name);
    return ifindex;
}

static void lift_upload(struct nl *n, const char *tap, int ifindex)
{
    char name[IFNAMSIZ];

    name_of_up(tap, name);
    drop_detour(n, ifindex);
    link_delete_upload(n, name);
}

static int limit_upload(struct nl *n, const char *tap, int ifindex, const struct net_rate *rate,
                        struct err *e)
{
    int up = make_up(n, tap, e);

    if (up == 0)
        return -1;
    put_bucket(n, up, rate->upload, rate->upload_burst);
    drop_detour(n, ifindex);
    put_detour(n, ifindex, up);
    return 0;
}

int rate_set(const char *tap, const struct net_rate *rate, struct err *e)
{
    auto_nl struct nl n = NL_CLOSED;
    int ifindex = (int)if_nametoindex(tap);

    if (ifindex == 0)
        return err_set(e,
                       ERR_BAD_STATE,
                       "the guest's interface %s was removed from the host; restart the instance, "
                       "or let it sleep and wake",
                       tap);
    if (nl_open(&n, NETLINK_ROUTE, e) < 0)
        return -1;
    if (rate->download)
        put_bucket(&n, ifindex, rate->download, rate->download_burst);
    else
        drop_bucket(&n, ifindex);
    if (!rate->upload)
        lift_upload(&n, tap, ifindex);
    else if (limit_upload(&n, tap, ifindex, rate, e) < 0)
        return -1;
    return nl_send(&n, e);
}

int rate_clear(const char *tap, struct err *e)
{
    auto_nl struct nl n = NL_CLOSED;
    char name[IFNAMSIZ];

    if (if_nametoindex(tap) != 0)
        return rate_set(tap, &(struct net_rate){0}, e);
    name_of_up(tap, name);
    if (nl_open(&n, NETLINK_ROUTE, e) < 0)
        return -1;
    link_delete_upload(&n, name);
    return nl_send(&n, e);
}

int rate_sweep(struct err *e)
{
    auto_nl struct nl n = NL_CLOSED;
    struct tap_link *v = NULL;
    size_t count = 0;

    if (nl_open(&n, NETLINK_ROUTE, e) < 0 || links_list_upload(&v, &count, e) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        if (if_nametoindex(v[i].name + strlen("up-")) == 0)
            link_delete_upload(&n, v[i].name);
    }
    free(v);
    return nl_send(&n, e);
}
