/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this host's network for guests is to be. Immutable after start-up: any thread may read it.
 *
 * Every guest is "inner" with the gateway's fixed hardware address (design.md 2.4); the
 * host tells them apart by the TAP that they are behind.
 */
#pragma once

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "net/address.h"

#define NET_GATEWAY_MAC                                                                            \
    "02:00:00:00:00:01"                   /* every TAP's: a clone's cached neighbour stays true    \
                                           */
#define NET_GUEST_MAC "02:00:00:00:00:02" /* every guest's */
#define NET_TAPS "hm"                     /* how our TAPs' names begin: hm0, hm1, ... */
#define NET_UPLOADS "up-" NET_TAPS        /* and those of what limits a TAP's uploads: up-hm3 */

#define NET_DOMAIN "hypeman.internal" /* of instances' names */

enum { NET_PORTS_MAX = 64, NET_DNS_MAX = 3, NET_READY_MAX = 4096 };

struct net_port {
    bool is_udp;
    uint16_t number;
};

struct net_plan {
    struct subnet outer;     /* one address a guest, known to the host and to other guests */
    struct subnet inner_net; /* what a guest believes to be in */
    uint32_t inner;          /* every guest's own address */
    uint32_t gateway;        /* the host, as guests see it */
    char uplink[IFNAMSIZ];   /* where guests reach the outside; empty: nowhere to go */
    bool guest_to_guest;     /* may guests speak to one another */
    bool opens_firewalls;    /* may we put accept rules into somebody else's firewall */
    struct net_port
        ports[NET_PORTS_MAX]; /* of the host, on the gateway's address, open to guests */
    unsigned n_ports;
    uint32_t dns[NET_DNS_MAX]; /* whom guests ask for names */
    unsigned n_dns;
    unsigned ready;          /* so many slots are kept ready */
    uint32_t download_burst; /* see net/rate.h */
    uint32_t upload_burst;
};

/* What the daemon's settings say, as text; everything is borrowed for the call. */
struct net_settings {
    bool enabled;
    const char *subnet;        /* "10.100.0.0/16" */
    const char *inner_address; /* "192.0.0.2/29" */
    const char *inner_gateway; /* "192.0.0.1" */
    const char *dns;           /* "1.1.1.1, 9.9.9.9" */
    const char *uplink;        /* empty: where the default route leads */
    const char *host_ports;    /* "tcp/8080,udp/514": of the host, open to guests */
    bool guest_to_guest;
    bool opens_firewalls;
    unsigned ready;
    uint32_t download_burst;
    uint32_t upload_burst;
    const char *dnsmasq; /* path of the program; empty: where it is usually installed */
};

/* ERR_INVALID: which setting, and why. */
int plan_read(const struct net_settings *settings, struct net_plan *out, struct err *e);
