/* SPDX-License-Identifier: Apache-2.0 */
#include "net/stats.h"

#include <stdlib.h>
#include <string.h>

#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include "base/mem.h"
#include "net/netlink.h"

struct reading {
    struct tap_stats *v;
    size_t n;
    size_t room;
};

static int take(void *arg, const struct nlmsghdr *h, struct err *e)
{
    struct reading *r = arg;
    const struct if_stats_msg *m = mnl_nlmsg_get_payload(h);
    struct rtnl_link_stats64 s = {0};
    const struct nlattr *a;

    (void)e;
    if (h->nlmsg_type != RTM_NEWSTATS)
        return 0;
    nl_attributes(a, h, sizeof(*m))
    {
        size_t len = mnl_attr_get_payload_len(a);

        if (mnl_attr_get_type(a) == IFLA_STATS_LINK_64)
            memcpy(&s, mnl_attr_get_payload(a), len < sizeof(s) ? len : sizeof(s));
    }
    if (r->n == r->room) {
        r->room = r->room ? r->room * 2 : 64;
        r->v = mem_realloc(r->v, r->room * sizeof(*r->v));
    }
    r->v[r->n++] = (struct tap_stats){(int)m->ifindex, s.tx_bytes, s.rx_bytes};
    return 0;
}

static int ask(int ifindex, struct reading *r, struct err *e)
{
    auto_nl struct nl n = NL_CLOSED;
    struct if_stats_msg *m;
    struct nlmsghdr *h;

    if (nl_open(&n, NETLINK_ROUTE, e) < 0)
        return -1;
    h = nl_begin(&n, RTM_GETSTATS, ifindex ? NLM_F_ACK : NLM_F_DUMP);
    m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
    m->ifindex = (uint32_t)ifindex;
    m->filter_mask = IFLA_STATS_FILTER_BIT(IFLA_STATS_LINK_64);
    nl_end(&n, h, "read counters", 0);
    return nl_dump(&n, take, r, e) < 0 ? err_wrap(e, "read the network's counters") : 0;
}

int stats_all(struct tap_stats **out, size_t *n_out, struct err *e)
{
    struct reading r = {0};

    if (ask(0, &r, e) < 0) {
        free(r.v);
        return -1;
    }
    *out = r.v;
    *n_out = r.n;
    return 0;
}

int stats_of(int ifindex, struct tap_stats *out, struct err *e)
{
    struct reading r = {0};
    int rc = ask(ifindex, &r, e);

    if (rc == 0 && r.n == 0)
        rc = err_set(e, ERR_NOT_FOUND, "the kernel has no counters of interface %d", ifindex);
    if (rc == 0)
        *out = r.v[0];
    free(r.v);
    return rc;
}
