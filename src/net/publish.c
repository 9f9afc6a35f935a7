/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules: where a port of this host is asked for, from outside or by the host itself,
 * its map says which guest is meant. The host's own loopback addresses mean nothing
 * to a guest; it sees the gateway's instead.
 */
#include "net/publish.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/netfilter/nf_tables.h>

#include "base/mem.h"

#define ANYWHERE "ports"
#define AT_ADDRESS "ports_of_address"

struct open_port {
    struct port_map map;
    bool is_ours; /* the element leads to us, and not to who came after */
};

struct port_set {
    struct open_ports *home; /* in whose list it is; NULL: it is not open */
    struct list link;
    uint32_t address;
    size_t n;
    struct open_port v[];
};

struct port_set *port_set_new(uint32_t address, const struct port_map *v, size_t n)
{
    struct port_set *s = mem_zalloc(1, sizeof(*s) + n * sizeof(s->v[0]));

    list_init(&s->link);
    s->address = address;
    s->n = n;
    for (size_t i = 0; i < n; i++)
        s->v[i] = (struct open_port){v[i], true};
    return s;
}

/* Under the lock. */
static void enter(struct open_ports *o, struct port_set *s)
{
    s->home = o;
    list_append(&o->sets, &s->link);
}

static void leave(struct port_set *s)
{
    s->home = NULL;
    list_remove(&s->link);
}

void port_set_free(struct port_set *s)
{
    struct open_ports *home = s ? s->home : NULL;

    if (home) {
        pthread_mutex_lock(&home->lock);
        leave(s);
        pthread_mutex_unlock(&home->lock);
    }
    free(s);
}

void ports_init(struct open_ports *o)
{
    pthread_mutex_init(&o->lock, NULL);
    list_init(&o->sets);
}

static uint8_t protocol(const struct port_map *p)
{
    return p->is_udp ? IPPROTO_UDP : IPPROTO_TCP;
}

/* A concatenation: each part in 4 bytes, from the left. */
static void put_element(struct nl *n, uint16_t type, const struct port_map *p, uint32_t address)
{
    struct {
        uint32_t ip;
        uint8_t protocol, pad[3];
        uint16_t port, pad2;
    } key = {htonl(p->host_ip), protocol(p), {0}, htons(p->host_port), 0};
    struct {
        uint32_t ip;
        uint16_t port, pad;
    } to = {htonl(address), htons(p->guest_port), 0};
    size_t skip = p->host_ip ? 0 : sizeof(key.ip);

    rules_put_element(n,
                      type,
                      &(struct rules_element){
                          .table = RULES_PORTS_TABLE,
                          .set = p->host_ip ? AT_ADDRESS : ANYWHERE,
                          .key = (const char *)&key + skip,
                          .key_len = sizeof(key) - skip,
                          .data = &to,
                          .data_len = sizeof(to),
                      });
}

/* Made first, so that there is one to delete, whatever became of it meanwhile. */
static void drop_element(struct nl *n, const struct port_map *p, uint32_t address)
{
    put_element(n, NFT_MSG_NEWSETELEM, p, address);
    put_element(n, NFT_MSG_DELSETELEM, p, address);
}

static bool is_same(const struct port_map *a, const struct port_map *b)
{
    return a->host_ip == b->host_ip && a->host_port == b->host_port && a->is_udp == b->is_udp;
}

/* Whoever had it keeps it no longer. */
static void take_over(struct open_ports *o, const struct port_map *p, struct nl *nft)
{
    for (struct list *l = o->sets.next; l != &o->sets; l = l->next) {
        struct port_set *other = container_of(l, struct port_set, link);

        for (size_t i = 0; i < other->n; i++) {
            if (!other->v[i].is_ours || !is_same(&other->v[i].map, p))
                continue;
            other->v[i].is_ours = false;
            drop_element(nft, &other->v[i].map, other->address);
        }
    }
}

/* Tables that somebody has just flushed are no error: they are written again, with us. */
static int send_all(struct nl *nft, struct err *e)
{
    nl_batch_end(nft);
    if (nl_send(nft, e) == 0)
        return 0;
    if (nft->error != ENOENT)
        return err_wrap(e, "publish ports");
    err_clear(e);
    return 0;
}

int ports_open(struct open_ports *o, struct port_set *s, struct nl *nft, struct err *e)
{
    int rc;

    pthread_mutex_lock(&o->lock);
    nl_batch_begin(nft);
    for (size_t i = 0; i < s->n; i++) {
        take_over(o, &s->v[i].map, nft);
        put_element(nft, NFT_MSG_NEWSETELEM, &s->v[i].map, s->address);
    }
    rc = send_all(nft, e);
    enter(o, s);
    pthread_mutex_unlock(&o->lock);
    return rc;
}

int ports_close(struct open_ports *o, struct port_set *s, struct nl *nft, struct err *e)
{
    int rc = 0;

    pthread_mutex_lock(&o->lock);
    if (s->home) {
        leave(s);
        nl_batch_begin(nft);
        for (size_t i = 0; i < s->n; i++) {
            if (s->v[i].is_ours)
                drop_element(nft, &s->v[i].map, s->address);
        }
        rc = send_all(nft, e);
    }
    pthread_mutex_unlock(&o->lock);
    return rc;
}

void ports_adopt(struct open_ports *o, struct port_set *s)
{
    pthread_mutex_lock(&o->lock);
    enter(o, s);
    pthread_mutex_unlock(&o->lock);
}

/* --- as text --- */

static void write_elements(struct buf *out, const struct list *sets, bool at_address)
{
    char from[ADDRESS_TEXT_SIZE];
    char to[ADDRESS_TEXT_SIZE];

    for (const struct list *l = sets->next; l != sets; l = l->next) {
        const struct port_set *s = container_of((struct list *)(uintptr_t)l, struct port_set, link);

        for (size_t i = 0; i < s->n; i++) {
            const struct port_map *p = &s->v[i].map;

            if (!s->v[i].is_ours || (p->host_ip != 0) != at_address)
                continue;
            buf_printf(out,
                       "add element ip " RULES_PORTS_TABLE " %s { %s%s%s . %u : %s . %u }\n",
                       at_address ? AT_ADDRESS : ANYWHERE,
                       at_address ? address_text(p->host_ip, from) : "",
                       at_address ? " . " : "",
                       p->is_udp ? "udp" : "tcp",
                       (unsigned)p->host_port,
                       address_text(s->address, to),
                       (unsigned)p->guest_port);
        }
    }
}

void rules_ports(struct buf *out, const struct rules_input *in)
{
    char gateway[ADDRESS_TEXT_SIZE];

    rules_clear_table(out, "ip", RULES_PORTS_TABLE);
    buf_puts(out,
             "table ip " RULES_PORTS_TABLE " {\n"
             " map " ANYWHERE " { type inet_proto . inet_service : ipv4_addr . inet_service\n }\n"
             " map " AT_ADDRESS
             " { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service\n }\n"
             " chain publish {\n"
             "  dnat ip to ip daddr . meta l4proto . th dport map @" AT_ADDRESS "\n"
             "  dnat ip to meta l4proto . th dport map @" ANYWHERE "\n"
             " }\n"
             " chain from_others { type nat hook prerouting priority dstnat; policy accept;\n"
             "  fib daddr type local meta l4proto { tcp, udp } jump publish\n"
             " }\n"
             " chain from_host { type nat hook output priority -100; policy accept;\n"
             "  fib daddr type local meta l4proto { tcp, udp } jump publish\n"
             " }\n");
    buf_printf(out,
               " chain to_guest { type nat hook postrouting priority srcnat; policy accept;\n"
               "  oifname \"" NET_TAPS "*\" ip saddr 127.0.0.0/8 snat to %s\n"
               " }\n"
               "}\n",
               address_text(in->plan->gateway, gateway));
    write_elements(out, in->open_ports, false);
    write_elements(out, in->open_ports, true);
}
