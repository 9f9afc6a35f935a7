/* SPDX-License-Identifier: Apache-2.0 */
#include "net/upkeep.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "net/firewall.h"
#include "net/links.h"

static int open_setting(const char *uplink, int flags)
{
    char path[80];

    (void)snprintf(path, sizeof(path), "/proc/sys/net/ipv4/conf/%s/forwarding", uplink);
    return open(path, flags | O_CLOEXEC);
}

void uplink_set_forwarding(const char *uplink, bool on)
{
    auto_close int fd = open_setting(uplink, O_WRONLY);

    if (fd < 0 && errno == ENOENT)
        log_warn("network: there is no interface %s; guests reach nothing outside until there is",
                 uplink);
    else if (fd < 0 || write(fd, on ? "1" : "0", 1) != 1)
        log_warn("network: forwarding on %s: %m", uplink);
}

static bool is_forwarding(const char *uplink)
{
    auto_close int fd = open_setting(uplink, O_RDONLY);
    char value = '0';

    return fd >= 0 && read(fd, &value, 1) == 1 && value == '1';
}

/*
 * Answers from outside come in by the uplink. Only there, not on all the host, forwarding begins;
 * the rules say where, for a daemon that is to end it after us.
 */
static void open_uplink(struct upkeep_work *u)
{
    if (u->opened[0] && strcmp(u->opened, u->uplink) != 0) {
        uplink_set_forwarding(u->opened, false);
        u->opened[0] = '\0';
        u->todo.rules = true;
    }
    if (u->uplink[0] == '\0' || is_forwarding(u->uplink))
        return;
    uplink_set_forwarding(u->uplink, true);
    memcpy(u->opened, u->uplink, sizeof(u->opened));
    u->todo.rules = true;
}

static int find_uplink(struct upkeep_work *u, struct err *e)
{
    struct host_routes routes;

    if (u->plan->uplink[0] == '\0') {
        if (routes_read(u->plan, &routes, e) < 0)
            return -1;
        if (strcmp(routes.uplink, u->uplink) != 0) {
            memcpy(u->uplink, routes.uplink, sizeof(u->uplink));
            u->todo.rules = true;
            log_info("network: guests reach the outside by %s",
                     u->uplink[0] ? u->uplink : "nothing: there is no default route");
        }
    }
    open_uplink(u);
    return 0;
}

static int write_rules(struct upkeep_work *u, struct err *e)
{
    struct rules_input in = {
        .plan = u->plan,
        .uplink = u->uplink,
        .opened = u->opened,
        .bindings = u->bindings,
        .n_bindings = u->n_bindings,
        .open_ports = &u->ports->sets,
    };
    int rc;

    /* What is opened meanwhile would be missing in what is written. */
    pthread_mutex_lock(&u->ports->lock);
    rc = rules_apply(&in, e);
    pthread_mutex_unlock(&u->ports->lock);
    return rc;
}

static int write_links(struct upkeep_work *u, struct err *e)
{
    auto_nl struct nl n = NL_CLOSED;

    if (nl_open(&n, NETLINK_ROUTE, e) < 0)
        return -1;
    link_gateway(&n, u->plan, true);
    link_subnet(&n, u->plan, true);
    for (size_t i = 0; i < u->n_bindings; i++) {
        char name[IFNAMSIZ];

        if (!if_indextoname((unsigned)u->bindings[i].ifindex, name)) /* it ends with its VMM */
            continue;
        link_prepare(&n, u->bindings[i].ifindex);
        link_bind(&n, u->plan, u->bindings[i].ifindex, u->bindings[i].address);
    }
    return nl_send(&n, e);
}

static int look_at_firewalls(struct upkeep_work *u, struct err *e)
{
    auto_buf struct buf commands = BUF(COMMANDS_MAX - 1);

    if (firewall_check(u->plan->opens_firewalls, &commands, e) < 0)
        return -1;
    (void)snprintf(u->commands, sizeof(u->commands), "%s", buf_str(&commands));
    return 0;
}

static void note(struct upkeep_work *u, int rc, struct err *e)
{
    if (rc == 0)
        return;
    if (u->err.code == ERR_NONE)
        u->err = *e;
    err_clear(e);
}

void upkeep_run(struct upkeep_work *u)
{
    struct err e = {0};

    if (u->todo.uplink)
        note(u, find_uplink(u, &e), &e);
    if (u->todo.rules)
        note(u, write_rules(u, &e), &e);
    if (u->todo.links)
        note(u, write_links(u, &e), &e);
    if (u->todo.firewall)
        note(u, look_at_firewalls(u, &e), &e);
}
