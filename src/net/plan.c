/* SPDX-License-Identifier: Apache-2.0 */
#include "net/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "base/parse.h"

static int invalid(const char *setting, const char *value, const char *wanted, struct err *e)
{
    return err_set(e,
                   ERR_INVALID,
                   "the setting network.%s cannot be \"%.100s\": it is %s",
                   setting,
                   value,
                   wanted);
}

static int read_outer(const char *text, struct net_plan *p, struct err *e)
{
    if (!subnet_parse(text, &p->outer) || p->outer.prefix < 8 || p->outer.prefix > 29 ||
        !address_is_single(p->outer.base))
        return invalid("subnet_cidr", text, "an IPv4 network like 10.100.0.0/16, /8 to /29", e);
    return 0;
}

static int read_inner(const struct net_settings *s, struct net_plan *p, struct err *e)
{
    auto_free char *address = mem_strdup(s->inner_address);
    char *slash = strchr(address, '/');
    uint64_t prefix;

    if (slash)
        *slash++ = '\0';
    if (!slash || !parse_u64(slash, 8, 30, &prefix) || !address_parse(address, &p->inner) ||
        !address_is_single(p->inner))
        return invalid("inner_address", s->inner_address, "an address like 192.0.0.2/29", e);
    p->inner_net.prefix = (uint8_t)prefix;
    p->inner_net.base = p->inner & subnet_mask(p->inner_net);
    if (!address_parse(s->inner_gateway, &p->gateway) || p->gateway == p->inner ||
        !subnet_has(p->inner_net, p->gateway))
        return invalid(
            "inner_gateway", s->inner_gateway, "another address in the inner network", e);
    if (subnet_overlaps(p->inner_net, p->outer))
        return invalid("inner_address", s->inner_address, "outside network.subnet_cidr", e);
    return 0;
}

static bool read_port(const char *word, struct net_port *out)
{
    uint64_t number;

    out->is_udp = strncmp(word, "udp/", 4) == 0;
    if (!out->is_udp && strncmp(word, "tcp/", 4) != 0)
        return false;
    if (!parse_u64(word + 4, 1, 65535, &number))
        return false;
    out->number = (uint16_t)number;
    return true;
}

static int read_ports(const char *text, struct net_plan *p, struct err *e)
{
    auto_free char *copy = mem_strdup(text);
    char *rest = copy;
    char *word;

    while (*text && (word = strsep(&rest, ",")) != NULL) {
        word += strspn(word, " ");
        if (p->n_ports == NET_PORTS_MAX || !read_port(word, &p->ports[p->n_ports]))
            return invalid("host_ports", text, "a list of at most 64, like tcp/8080,udp/514", e);
        p->n_ports++;
    }
    return 0;
}

static int read_dns(const char *text, struct net_plan *p, struct err *e)
{
    auto_free char *copy = mem_strdup(text);
    char *rest = copy;
    char *word;

    while (*text && (word = strsep(&rest, ",")) != NULL) {
        word += strspn(word, " ");
        if (p->n_dns == NET_DNS_MAX || !address_parse(word, &p->dns[p->n_dns]))
            return invalid("dns_server", text, "a list of at most 3 addresses", e);
        p->n_dns++;
    }
    return 0;
}

int plan_read(const struct net_settings *s, struct net_plan *out, struct err *e)
{
    struct net_plan p = {
        .guest_to_guest = s->guest_to_guest,
        .opens_firewalls = s->opens_firewalls,
        .ready = s->ready,
        .download_burst = s->download_burst,
        .upload_burst = s->upload_burst,
    };
    char ready[16];

    if (strlen(s->uplink) >= sizeof(p.uplink) || strpbrk(s->uplink, "\"*\\/ "))
        return invalid("uplink_interface", s->uplink, "the name of an interface", e);
    if (s->ready > NET_READY_MAX) {
        (void)snprintf(ready, sizeof(ready), "%u", s->ready);
        return invalid("ready_slots", ready, "at most 4096: each is an interface of the host's", e);
    }
    (void)snprintf(p.uplink, sizeof(p.uplink), "%s", s->uplink);
    if (read_outer(s->subnet, &p, e) < 0 || read_inner(s, &p, e) < 0 ||
        read_ports(s->host_ports, &p, e) < 0 || read_dns(s->dns, &p, e) < 0)
        return -1;
    *out = p;
    return 0;
}
