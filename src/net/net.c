/* SPDX-License-Identifier: Apache-2.0 */
#include "net/net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/firewall.h"
#include "net/private.h"
#include "net/rate.h"
#include "net/tap.h"

static const struct job_limit limits[] = {{"network", 1, 4}};

/* --- coming up --- */

static int off(struct net *n, const char *why)
{
    n->is_on = false;
    (void)snprintf(n->why_off, sizeof(n->why_off), "%.*s", (int)sizeof(n->why_off) - 1, why);
    return 0;
}

/* An abstract socket belongs to the network namespace and ends with us. */
static int lock_namespace(struct net *n)
{
    static const char name[] = "\0hypeman-network";
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    auto_close int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    memcpy(a.sun_path, name, sizeof(name) - 1);
    if (fd < 0 || bind(fd,
                       (const struct sockaddr *)&a,
                       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof(name) - 1)) < 0)
        return -1;
    n->lock_fd = take_fd(&fd);
    return 0;
}

static void open_names(struct net *n, const struct net_settings *settings)
{
    struct err e = {0};

    n->names = names_new(n->loop, &n->plan, settings->dnsmasq, &e);
    if (n->names)
        return;
    log_warn("network: names of instances are off, guests ask network.dns_server itself: %s",
             e.msg);
    (void)snprintf(n->why_no_names, sizeof(n->why_no_names), "%.*s", 299, e.msg);
}

static int set_gateway(const struct net *n, bool present, struct err *e)
{
    auto_nl struct nl route = NL_CLOSED;

    if (nl_open(&route, NETLINK_ROUTE, e) < 0)
        return -1;
    link_gateway(&route, &n->plan, present);
    if (!present)
        link_subnet(&route, &n->plan, false);
    return nl_send(&route, e);
}

/* 1: this host lets us; 0: it does not, and why is noted. */
static int may_we(struct net *n)
{
    struct err e = {0};

    if (lock_namespace(n) < 0)
        return off(n,
                   "another hypeman daemon has the network of this host; give this one a network "
                   "namespace of its own");
    if (access("/dev/net/tun", R_OK | W_OK) < 0)
        return off(n,
                   "/dev/net/tun cannot be opened; load the module tun, and grant CAP_NET_ADMIN");
    if (set_gateway(n, true, &e) < 0)
        return off(n, e.msg);
    return 1;
}

static int look_at_host(struct net *n, struct err *e)
{
    struct host_routes routes;
    char ours[SUBNET_TEXT_SIZE];
    char theirs[SUBNET_TEXT_SIZE];

    if (routes_read(&n->plan, &routes, e) < 0 || links_list(&n->found, &n->n_found, e) < 0)
        return -1;
    if (routes.overlap_dev[0])
        return err_set(e,
                       ERR_INVALID,
                       "the guests' network %s overlaps this host's route %s by %s; set "
                       "network.subnet_cidr (SUBNET_CIDR) to a network that nobody uses",
                       subnet_text(n->plan.outer, ours),
                       subnet_text(routes.overlap, theirs),
                       routes.overlap_dev);
    memcpy(n->uplink, *n->plan.uplink ? n->plan.uplink : routes.uplink, sizeof(n->uplink));
    return 0;
}

struct net *net_open(struct loop *loop, const struct net_settings *settings, struct err *e)
{
    struct net *n = mem_new(struct net);

    n->loop = loop;
    n->lock_fd = -1;
    n->refill.fn = pool_refill;
    n->retry.fn = pool_retry;
    list_init(&n->ready);
    list_init(&n->claimed);
    list_init(&n->returned);
    list_init(&n->reserved);
    ports_init(&n->tools.ports);
    n->jobs = jobs_new(loop, limits, 1);
    if (plan_read(settings, &n->plan, e) < 0) {
        net_free(n);
        return NULL;
    }
    n->tools.plan = &n->plan;
    addresses_init(&n->addresses, n->plan.outer);
    n->is_wanted = settings->enabled;
    n->is_on = settings->enabled ? may_we(n) == 1 : off(n, "network.enabled is false") == 1;
    if (n->is_on && look_at_host(n, e) < 0) {
        net_free(n);
        return NULL;
    }
    if (n->is_on)
        open_names(n, settings);
    else
        memcpy(n->why_no_names, n->why_off, sizeof(n->why_no_names));
    return n;
}

void net_name(struct net *n, const char *id, const char *name, uint32_t address)
{
    if (n->names)
        names_set(n->names, id, name, address);
}

void net_unname(struct net *n, const char *id)
{
    if (n->names)
        names_remove(n->names, id);
}

const char *net_why_no_names(const struct net *n)
{
    return n->why_no_names[0] ? n->why_no_names : NULL;
}

bool net_is_on(const struct net *n)
{
    return n->is_on;
}

bool net_leaves_it_to_vmm(const struct net *n)
{
    return n->is_wanted && !n->is_on;
}

const char *net_why_off(const struct net *n)
{
    return n->why_off;
}

const struct net_plan *net_plan(const struct net *n)
{
    return &n->plan;
}

bool net_connections(const struct net *n, uint32_t address, struct flow_counts *out)
{
    return n->connections && connections_of(n->connections, address, out);
}

void net_forget_connections(struct net *n, uint32_t address)
{
    if (n->connections && address)
        connections_forget(n->connections, address, FLOWS_ALL);
}

bool net_adopt_address(struct net *n, uint32_t address)
{
    return addresses_take_this(&n->addresses, address);
}

struct net_slot *net_adopt_slot(struct net *n, uint32_t address, int pidfd)
{
    for (size_t i = 0; i < n->n_found; i++) {
        struct tap_link *found = &n->found[i];
        struct err e = {0};
        struct net_slot *s;

        if (found->address != address || !found->has_carrier)
            continue;
        s = slot_new(address);
        memcpy(s->tap, found->name, sizeof(s->tap));
        s->ifindex = found->ifindex;
        s->bound = address;
        (void)stats_of(s->ifindex, &s->before, &e); /* what was counted for whom, nobody knows */
        err_clear(&e);
        s->is_limited = true;  /* by an earlier daemon, perhaps */
        slot_return(s, pidfd); /* persistent, if the daemon ended before it took it back */
        found->address = 0;
        list_append(&n->claimed, &s->link);
        n->n_claimed++;
        return s;
    }
    return NULL;
}

void net_adopt_ports(struct net *n, struct net_slot *s, const struct port_map *v, size_t count)
{
    s->ports = port_set_new(s->address, v, count);
    ports_adopt(&n->tools.ports, s->ports);
}

struct reservation *net_reserve(struct net *n, const char *owner, const struct port_map *v,
                                size_t count, struct err *e)
{
    return ports_reserve(&n->reserved, owner, v, count, e);
}

/*
 * Whoever had it may have been a stray VMM of ours, which has been ended since; then it is
 * only there still if it was left to that VMM (net/tap.h), and can be had.
 */
static bool is_held(const struct tap_link *found)
{
    struct err ignored = {0};
    auto_close int fd = found->has_carrier ? tap_return(found->name, &ignored) : -1;

    return found->has_carrier && fd < 0;
}

/* A TAP that nobody holds is a left-over. One that is held by a stranger keeps its address. */
static void sweep(struct net *n)
{
    int *doomed = mem_zalloc(n->n_found + 1, sizeof(*doomed));
    auto_nl struct nl route = NL_CLOSED;
    struct err e = {0};
    size_t count = 0;

    for (size_t i = 0; i < n->n_found; i++) {
        const struct tap_link *found = &n->found[i];

        if (found->address == 0)
            continue;
        if (!is_held(found))
            doomed[count++] = found->ifindex;
        else if (addresses_take_this(&n->addresses, found->address))
            log_warn("network: %s belongs to no instance, but some process has it; it stays",
                     found->name);
    }
    if (count > 0 && nl_open(&route, NETLINK_ROUTE, &e) == 0) {
        links_delete(&route, doomed, count);
        (void)nl_send(&route, &e);
    }
    if (e.code == ERR_NONE)
        (void)rate_sweep(&e);
    if (e.code != ERR_NONE)
        log_warn("network: left-over TAPs stay: %s", e.msg);
    free(doomed);
    free(n->found);
    n->found = NULL;
    n->n_found = 0;
}

void net_note_firewall(struct net *n, const char *commands)
{
    if (*commands)
        log_warn("network: this host's firewall drops what guests send and receive; to let it pass "
                 "run: %s; or set network.open_firewalls to true",
                 commands);
    else if (n->commands[0])
        log_info("network: this host's firewall lets guests' packets pass now");
    (void)snprintf(n->commands, sizeof(n->commands), "%s", commands);
}

const char *net_firewall_commands(const struct net *n)
{
    return n->commands;
}

static void on_change(void *owner, const struct upkeep *todo)
{
    pool_want(owner, todo);
}

static void on_gone(void *owner, int ifindex)
{
    pool_lost(owner, ifindex);
}

int net_start(struct net *n, struct err *e)
{
    struct net_watcher watcher = {n, on_change, on_gone, n->uplink};
    struct upkeep_work u = {
        .todo = {.rules = true, .links = true, .uplink = true, .firewall = true},
        .plan = &n->plan,
        .ports = &n->tools.ports};

    if (!n->is_on)
        return 0;
    /* First the events, then the look: what changes in between is not missed. */
    n->watch = net_watch_new(n->loop, &n->plan, &watcher, e);
    if (!n->watch || nl_park_open(&n->tools.parked, e) < 0)
        return err_wrap(e, "network");
    memcpy(u.uplink, n->uplink, sizeof(u.uplink));
    rules_read_opened(u.opened);
    u.bindings = pool_bindings(n, &u.n_bindings);
    upkeep_run(&u);
    free(u.bindings);
    if (u.err.code != ERR_NONE) {
        *e = u.err;
        return err_wrap(e, "network");
    }
    memcpy(n->opened, u.opened, sizeof(n->opened));
    if (u.commands[0])
        net_note_firewall(n, u.commands);
    if (n->uplink[0] == '\0')
        log_warn("network: this host has no default route; guests reach nothing outside");
    sweep(n);
    n->connections = connections_new(n->loop, n->jobs, &n->plan, e);
    if (!n->connections)
        log_warn("network: connections of guests are not counted: %s", e->msg);
    err_clear(e);
    pool_kick(n);
    return 0;
}

/* --- going down --- */

static void remove_all(struct net *n)
{
    struct err e = {0};

    if (firewall_restore(&e) < 0 || rules_remove(&e) < 0 || set_gateway(n, false, &e) < 0)
        log_warn("network: not all that was made is removed: %s", e.msg);
    if (n->opened[0])
        uplink_set_forwarding(n->opened, false);
}

void net_stop(struct net *n)
{
    n->is_stopping = true;
    names_free(take_ptr(&n->names));
    loop_timer_stop(n->loop, &n->refill);
    loop_timer_stop(n->loop, &n->retry);
    net_watch_free(n->watch);
    n->watch = NULL;
    jobs_stop(n->jobs);
    loop_drain(n->loop);
    connections_free(take_ptr(&n->connections));
    if (!n->is_on)
        return;
    pool_empty(n);
    if (n->n_claimed == 0)
        remove_all(n);
}

void net_free(struct net *n)
{
    if (!n)
        return;
    names_free(n->names);
    jobs_free(n->jobs);
    addresses_free(&n->addresses);
    nl_park_close(&n->tools.parked);
    free(n->found);
    if (n->lock_fd >= 0)
        close(n->lock_fd);
    free(n);
}
