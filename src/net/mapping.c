/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The address that every guest has inside becomes the one that it has outside, and
 * back, statelessly; and what guests may reach. The order of the hooks is what
 * makes it right: the source is rewritten before conntrack sees it (raw), the
 * destination after routing and after any NAT (postrouting 300).
 *
 * nft of 1.0 wants the end of a line before a closing brace.
 */
#include "net/rules.h"

#include <string.h>

struct words {
    char outer[SUBNET_TEXT_SIZE];
    char inner[ADDRESS_TEXT_SIZE];
    char gateway[ADDRESS_TEXT_SIZE];
};

static void write_map(struct buf *out, const struct rules_input *in)
{
    char text[ADDRESS_TEXT_SIZE];

    buf_puts(out, " map outer { type ifname : ipv4_addr\n");
    if (in->n_bindings > 0) {
        buf_puts(out, "  elements = {");
        for (size_t i = 0; i < in->n_bindings; i++)
            buf_printf(out,
                       "%s \"%s\" : %s",
                       i ? "," : "",
                       in->bindings[i].tap,
                       address_text(in->bindings[i].address, text));
        buf_puts(out, " }\n");
    }
    buf_puts(out, " }\n");
}

static void write_opened(struct buf *out, const char *opened)
{
    buf_puts(out, " set " RULES_OPENED " { type ifname\n");
    if (opened[0])
        buf_printf(out, "  elements = { \"%s\" }\n", opened);
    buf_puts(out, " }\n");
}

#define ERRORS "destination-unreachable, time-exceeded, parameter-problem"

/*
 * icmp_from and icmp_to are filled by libnftnl (rules.c). send_redirects=0 on the TAPs does not
 * do: the kernel redirects as well when the host's "all" says so, which is its default.
 */
static void write_rewriting(struct buf *out, const struct words *w)
{
    buf_printf(out,
               " chain icmp_from {\n }\n"
               " chain icmp_to {\n  icmp type redirect counter drop\n }\n"
               " chain from_guest { type filter hook prerouting priority raw; policy accept;\n"
               "  iifname != \"" NET_TAPS "*\" return\n"
               "  ip saddr != %s counter drop\n"
               "  ip daddr 127.0.0.0/8 counter drop\n"
               "  icmp type { " ERRORS " } jump icmp_from\n"
               "  ip saddr set iifname map @outer accept\n"
               "  counter drop\n"
               " }\n",
               w->inner);
    buf_printf(out,
               " chain to_guest { type filter hook postrouting priority 300; policy accept;\n"
               "  oifname != \"" NET_TAPS "*\" return\n"
               "  icmp type { " ERRORS ", redirect } jump icmp_to\n"
               "  ip daddr %s ip daddr set %s\n"
               " }\n",
               w->outer,
               w->inner);
}

/* The gateway and its names are for guests: whoever routes to it from outside gets nowhere.
 * A reset rather than silence: a clone's inherited connections end at once. */
static void write_host(struct buf *out, const struct net_plan *plan, const struct words *w)
{
    buf_printf(out,
               " chain from_others {\n"
               "  iifname != \"lo\" ip daddr %s counter drop\n"
               " }\n"
               " chain to_host { type filter hook input priority filter; policy accept;\n"
               "  iifname != \"" NET_TAPS "*\" goto from_others\n"
               "  ct state established,related accept\n",
               w->gateway);
    buf_printf(out,
               "  ip daddr %s icmp type echo-request limit rate 100/second accept\n"
               "  ip daddr %s udp dport 53 accept\n"
               "  ip daddr %s tcp dport 53 accept\n",
               w->gateway,
               w->gateway,
               w->gateway);
    for (unsigned i = 0; i < plan->n_ports; i++)
        buf_printf(out,
                   "  ip daddr %s %s dport %u accept\n",
                   w->gateway,
                   plan->ports[i].is_udp ? "udp" : "tcp",
                   (unsigned)plan->ports[i].number);
    buf_puts(out,
             "  meta l4proto tcp counter reject with tcp reset\n"
             "  counter drop\n"
             " }\n");
}

/* New connections towards guests come from guests and from the host; from elsewhere by a port
 * mapping only. */
static void write_forward(struct buf *out, const struct rules_input *in, const struct words *w)
{
    buf_printf(out,
               " chain forward_guest { type filter hook forward priority filter; policy accept;\n"
               "  iifname \"" NET_TAPS "*\" oifname \"" NET_TAPS "*\" ip daddr %s%s accept\n",
               w->outer,
               in->plan->guest_to_guest ? "" : " ct state established,related");
    if (in->uplink[0])
        buf_printf(out,
                   "  iifname \"" NET_TAPS "*\" oifname \"%s\" ip daddr != %s accept\n",
                   in->uplink,
                   w->outer);
    buf_printf(out,
               "  iifname \"" NET_TAPS "*\" ct direction reply ct status dnat accept\n"
               "  iifname \"" NET_TAPS "*\" meta l4proto tcp counter reject with tcp reset\n"
               "  iifname \"" NET_TAPS "*\" counter reject with icmp type admin-prohibited\n"
               "  oifname \"" NET_TAPS "*\" ip daddr %s ct state established,related accept\n"
               "  oifname \"" NET_TAPS "*\" ip daddr %s ct status dnat accept\n"
               "  oifname \"" NET_TAPS "*\" counter drop\n"
               " }\n",
               w->outer,
               w->outer);
    if (in->uplink[0])
        buf_printf(out,
                   " chain leave { type nat hook postrouting priority srcnat; policy accept;\n"
                   "  ip saddr %s oifname \"%s\" masquerade\n"
                   " }\n",
                   w->outer,
                   in->uplink);
}

/*
 * A guest may ask for the gateway's hardware address and nothing else. The asker's
 * address, which all guests share and no route knows, is blanked, else rp_filter
 * would refuse the question. IPv6 is not offered: a guest could offer the host a route.
 */
static void write_others(struct buf *out, const struct words *w)
{
    buf_printf(
        out,
        "table arp " RULES_TABLE " {\n"
        " chain from_guest { type filter hook input priority filter; policy accept;\n"
        "  iifname != \"" NET_TAPS "*\" return\n"
        "  arp operation request arp saddr ip %s arp daddr ip %s arp saddr ip set 0.0.0.0 accept\n"
        "  counter drop\n"
        " }\n"
        "}\n",
        w->inner,
        w->gateway);
    buf_puts(out,
             "table ip6 " RULES_TABLE " {\n"
             " chain from_guest { type filter hook prerouting priority raw; policy accept;\n"
             "  iifname \"" NET_TAPS "*\" counter drop\n"
             " }\n"
             "}\n");
}

void rules_mapping(struct buf *out, const struct rules_input *in)
{
    struct words w;

    (void)subnet_text(in->plan->outer, w.outer);
    (void)address_text(in->plan->inner, w.inner);
    (void)address_text(in->plan->gateway, w.gateway);
    rules_clear_table(out, "ip", RULES_TABLE);
    rules_clear_table(out, "arp", RULES_TABLE);
    rules_clear_table(out, "ip6", RULES_TABLE);
    buf_puts(out, "table ip " RULES_TABLE " {\n");
    write_map(out, in);
    write_opened(out, in->opened);
    write_rewriting(out, &w);
    write_host(out, in->plan, &w);
    write_forward(out, in, &w);
    buf_puts(out, "}\n");
    write_others(out, &w);
}
