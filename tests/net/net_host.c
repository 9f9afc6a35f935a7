/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of a network test: src/net as the daemon uses it, in the namespace
 * that this program is started in, told what to do by lines on its standard input.
 * It answers each with one line: "ok ..." or "error ...".
 *
 *   guest NETNS ADDRESS|- [plain]
 *                          a slot, and a guest behind it: eth0 in that namespace, without
 *                          offloads if it is plain. "ok TAP ADDRESS"
 *   publish TAP tcp|udp IP PORT GUESTPORT
 *                          a port of the host leads to this guest; IP 0.0.0.0 is all of the host's
 *   stats TAP              "ok TO_GUEST FROM_GUEST" bytes of its present VMM
 *   connections TAP        "ok INBOUND OUTBOUND" that are open
 *   deaf                   hears of nothing until the next line comes.
 *   ended ADDRESS          the guest has come to a stop
 *   end TAP                the guest's VMM ends; its slot goes back
 *   rate TAP DOWN UP       bytes per second; 0 lifts
 *   sweep                  of what limited TAPs that are gone
 *   forget ADDRESS         the instance is gone, the address is free
 *   claim N                N slots at once, without guests. "ok NANOSECONDS" a claim. Those
 *                          of the pool are taken with system calls forbidden
 *   keep                   their VMMs run: until then they are lent to a job
 *   release                gives them back
 *   waiting                "ok N": so many of them hold packets that nobody has read
 *   settle                 waits until the pool is full and nothing is under way
 *   counts                 "ok READY CLAIMED ADDRESSES REPAIRS LISTINGS"
 *   stop                   as at the daemon's end
 *
 * A VMM is played by a thread that carries frames, with their virtio headers, between
 * the TAP of the slot and one in the guest's namespace.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/if_tun.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/parse.h"
#include "loop/loop.h"
#include "net/net.h"
#include "net/rate.h"

enum { GUESTS = 64, SLOTS = 4096, FRAME = 70 * 1024 };

/* What virtio-net offers by default. */
enum { OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN };

struct guest {
    struct net_slot *slot;
    struct port_map ports[PORT_MAPS_MAX]; /* all that it was told to publish */
    size_t n_ports;
    int host_fd;
    int guest_fd;
    atomic_bool ends;
    pthread_t thread;
};

static struct loop *loop;
static struct net *net;
static struct guest guests[GUESTS];
static struct net_slot *claimed[SLOTS];
static size_t n_claimed;
static struct timer again;

static bool carry(int from, int to, char *frame)
{
    ssize_t n = read(from, frame, FRAME);

    return n > 0 && write(to, frame, (size_t)n) >= -1;
}

static void *be_vmm(void *arg)
{
    struct guest *g = arg;
    struct pollfd fds[] = {{g->host_fd, POLLIN, 0}, {g->guest_fd, POLLIN, 0}};
    char *frame = malloc(FRAME);

    while (!atomic_load(&g->ends)) {
        (void)poll(fds, 2, 50);
        while (carry(g->host_fd, g->guest_fd, frame) || carry(g->guest_fd, g->host_fd, frame))
            ;
    }
    free(frame);
    return NULL;
}

struct opening {
    const char *netns;
    int offloads;
    int fd;
};

/* A namespace is a thread's own. */
static void *open_guest_tap(void *arg)
{
    struct opening *o = arg;
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, .ifr_name = "eth0"};
    auto_close int ns = open(o->netns, O_RDONLY | O_CLOEXEC);
    auto_close int fd = -1;

    if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
        return NULL;
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0 || ioctl(fd, TUNSETOFFLOAD, o->offloads) < 0)
        return NULL;
    o->fd = take_fd(&fd);
    return NULL;
}

static void say(const char *text)
{
    printf("%s\n", text);
    (void)fflush(stdout);
}

static void make_guest(const char *netns, const char *address, bool plain)
{
    struct opening o = {netns, plain ? 0 : OFFLOADS, -1};
    struct guest *g = guests;
    uint32_t wanted = 0;
    char text[ADDRESS_TEXT_SIZE];
    struct err e = {0};
    pthread_t t;

    while (g->slot)
        g++;
    if (address && strcmp(address, "-") != 0)
        (void)address_parse(address, &wanted);
    g->slot = net_claim(net, wanted, &e);
    if (!g->slot || net_bind(net, g->slot, &e) < 0) {
        printf("error %s\n", e.msg);
        (void)fflush(stdout);
        return;
    }
    net_settle(net, g->slot);
    pthread_create(&t, NULL, open_guest_tap, &o);
    pthread_join(t, NULL);
    g->host_fd = fcntl(g->slot->fd, F_DUPFD_CLOEXEC, 0);
    g->guest_fd = o.fd;
    (void)ioctl(g->host_fd, TUNSETOFFLOAD, o.offloads);
    atomic_store(&g->ends, false);
    pthread_create(&g->thread, NULL, be_vmm, g);
    printf("ok %s %s\n", g->slot->tap, address_text(g->slot->address, text));
    (void)fflush(stdout);
}

static void end_guest(const char *tap)
{
    for (struct guest *g = guests; g < guests + GUESTS; g++) {
        if (!g->slot || strcmp(g->slot->tap, tap) != 0)
            continue;
        atomic_store(&g->ends, true);
        pthread_join(g->thread, NULL);
        close(g->host_fd);
        close(g->guest_fd);
        net_release(net, g->slot);
        g->slot = NULL;
        g->n_ports = 0;
    }
    say("ok");
}

static void limit(const char *tap, char *rest)
{
    struct net_rate rate = {.download_burst = 4, .upload_burst = 4};
    struct err e = {0};
    int rc;

    (void)parse_u64(strsep(&rest, " "), 0, UINT64_MAX, &rate.download);
    (void)parse_u64(strsep(&rest, " "), 0, UINT64_MAX, &rate.upload);
    rc = rate.download || rate.upload ? rate_set(tap, &rate, &e) : rate_clear(tap, &e);
    if (rc < 0)
        printf("error %s\n", e.msg);
    else
        printf("ok\n");
    (void)fflush(stdout);
}

static void publish(const char *tap, char *rest)
{
    struct guest *g = guests;
    struct port_map *p;
    struct err e = {0};
    uint64_t port = 0;

    while (!g->slot || strcmp(g->slot->tap, tap) != 0)
        g++;
    assert(g->n_ports < PORT_MAPS_MAX);
    p = &g->ports[g->n_ports++];
    p->is_udp = strcmp(strsep(&rest, " "), "udp") == 0;
    (void)address_parse(strsep(&rest, " "), &p->host_ip);
    (void)parse_u64(strsep(&rest, " "), 1, 65535, &port);
    p->host_port = (uint16_t)port;
    (void)parse_u64(strsep(&rest, " "), 1, 65535, &port);
    p->guest_port = (uint16_t)port;
    port_set_free(g->slot->ports); /* what it opened stays open */
    g->slot->ports = port_set_new(g->slot->address, g->ports, g->n_ports);
    if (net_bind(net, g->slot, &e) < 0)
        printf("error %s\n", e.msg);
    else
        printf("ok\n");
    (void)fflush(stdout);
}

/* By the dump of all; that of one has to say the same. */
static void tell_stats(const char *tap)
{
    struct guest *g = guests;
    struct tap_stats *all = NULL;
    struct tap_stats one = {0};
    size_t n = 0;
    struct err e = {0};

    while (!g->slot || strcmp(g->slot->tap, tap) != 0)
        g++;
    if (stats_all(&all, &n, &e) < 0 || stats_of(g->slot->ifindex, &one, &e) < 0)
        printf("error %s\n", e.msg);
    for (size_t i = 0; e.code == ERR_NONE && i < n; i++) {
        if (all[i].ifindex == g->slot->ifindex && all[i].to_guest <= one.to_guest)
            printf("ok %llu %llu\n",
                   (unsigned long long)(one.to_guest - g->slot->before.to_guest),
                   (unsigned long long)(one.from_guest - g->slot->before.from_guest));
    }
    (void)fflush(stdout);
    free(all);
}

static void tell_connections(const char *tap)
{
    struct flow_counts n = {0};
    const struct guest *g = guests;

    while (!g->slot || strcmp(g->slot->tap, tap) != 0)
        g++;
    if (net_connections(net, g->slot->address, &n))
        printf("ok %u %u\n", n.inbound, n.outbound);
    else
        printf("error nobody knows\n");
    (void)fflush(stdout);
}

static void be_deaf(void)
{
    struct pollfd p = {STDIN_FILENO, POLLIN, 0};

    say("ok");
    (void)poll(&p, 1, -1);
}

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* While this says "block", a system call of this thread is a signal that ends the program. */
static _Atomic char calls = SYSCALL_DISPATCH_FILTER_ALLOW;

static char arm(void)
{
    return prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &calls) == 0
               ? SYSCALL_DISPATCH_FILTER_BLOCK
               : SYSCALL_DISPATCH_FILTER_ALLOW;
}

static void claim(uint64_t n)
{
    char forbidden = n <= net_counts(net).ready ? arm() : SYSCALL_DISPATCH_FILTER_ALLOW;
    int64_t began = now_ns();
    struct err e = {0};
    uint64_t i;

    for (i = 0; i < n && n_claimed < SLOTS; i++) {
        struct net_slot *s;

        atomic_store(&calls, forbidden);
        s = net_claim(net, 0, &e);
        atomic_store(&calls, SYSCALL_DISPATCH_FILTER_ALLOW);
        if (!s)
            break;
        claimed[n_claimed++] = s;
    }
    printf("ok %lld\n", i ? (long long)((now_ns() - began) / (int64_t)i) : 0LL);
    (void)fflush(stdout);
}

static void release(void)
{
    while (n_claimed > 0) {
        uint32_t address = claimed[--n_claimed]->address;

        net_release(net, claimed[n_claimed]);
        net_give_back(net, address);
    }
    say("ok");
}

/* Whose TAP holds something that nobody has read. */
static void count_waiting(void)
{
    unsigned n = 0;

    for (size_t i = 0; i < n_claimed; i++) {
        struct pollfd p = {claimed[i]->fd, POLLIN, 0};

        n += poll(&p, 1, 0) == 1;
    }
    printf("ok %u\n", n);
    (void)fflush(stdout);
}

static void keep(void)
{
    for (size_t i = 0; i < n_claimed; i++)
        net_settle(net, claimed[i]);
    say("ok");
}

static void look_again(struct timer *t)
{
    if (net_is_busy(net))
        loop_timer_start(loop, t, 2);
    else
        say("ok");
}

static void obey(char *line)
{
    char *rest = line;
    const char *verb = strsep(&rest, " ");
    const char *first = strsep(&rest, " ");
    uint64_t n = 0;

    if (strcmp(verb, "guest") == 0) {
        const char *address = strsep(&rest, " ");

        make_guest(first, address, rest != NULL);
    } else if (strcmp(verb, "end") == 0) {
        end_guest(first);
    } else if (strcmp(verb, "rate") == 0) {
        limit(first, rest);
    } else if (strcmp(verb, "publish") == 0) {
        publish(first, rest);
    } else if (strcmp(verb, "stats") == 0) {
        tell_stats(first);
    } else if (strcmp(verb, "connections") == 0) {
        tell_connections(first);
    } else if (strcmp(verb, "deaf") == 0) {
        be_deaf();
    } else if (strcmp(verb, "ended") == 0) {
        uint32_t address = 0;

        (void)address_parse(first, &address);
        net_forget_connections(net, address);
        say("ok");
    } else if (strcmp(verb, "sweep") == 0) {
        struct err e = {0};

        say(rate_sweep(&e) < 0 ? e.msg : "ok");
    } else if (strcmp(verb, "claim") == 0) {
        (void)parse_u64(first, 1, SLOTS, &n);
        claim(n);
    } else if (strcmp(verb, "release") == 0) {
        release();
    } else if (strcmp(verb, "keep") == 0) {
        keep();
    } else if (strcmp(verb, "waiting") == 0) {
        count_waiting();
    } else if (strcmp(verb, "settle") == 0) {
        look_again(&again);
    } else if (strcmp(verb, "counts") == 0) {
        struct net_counts c = net_counts(net);

        printf("ok %u %u %u %llu %llu\n",
               c.ready,
               c.claimed,
               c.addresses,
               (unsigned long long)c.repairs,
               (unsigned long long)c.listings);
        (void)fflush(stdout);
    } else {
        loop_stop(loop);
    }
}

static void on_input(struct watch *w, uint32_t events)
{
    static char line[1024];
    static size_t len;
    ssize_t got = read(w->fd, line + len, sizeof(line) - 1 - len);
    char *end;

    (void)events;
    if (got <= 0) {
        loop_stop(loop);
        return;
    }
    len += (size_t)got;
    while ((end = memchr(line, '\n', len)) != NULL) {
        *end = '\0';
        obey(line);
        len -= (size_t)(end + 1 - line);
        memmove(line, end + 1, len);
    }
}

/* Arguments: READY, then any of "isolated", "opens", "subnet=...", "uplink=...". */
int main(int argc, char **argv)
{
    struct net_settings s = {
        .enabled = true,
        .subnet = "10.100.0.0/16",
        .inner_address = "192.0.0.2/29",
        .inner_gateway = "192.0.0.1",
        .uplink = "",
        .host_ports = "tcp/7777",
        .dns = "",
        .dnsmasq = "",
        .guest_to_guest = true,
        .ready = 8,
    };
    struct watch input = {.fn = on_input};
    struct err e = {0};

    again.fn = look_again;
    log_init(LOG_INFO_);
    if (argc > 1)
        s.ready = (unsigned)strtoul(argv[1], NULL, 10);
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "isolated") == 0)
            s.guest_to_guest = false;
        else if (strcmp(argv[i], "opens") == 0)
            s.opens_firewalls = true;
        else if (strncmp(argv[i], "subnet=", 7) == 0)
            s.subnet = argv[i] + 7;
        else if (strncmp(argv[i], "uplink=", 7) == 0)
            s.uplink = argv[i] + 7;
    }
    loop = loop_new(&e);
    net = loop ? net_open(loop, &s, &e) : NULL;
    if (!net || net_start(net, &e) < 0 || loop_watch(loop, &input, STDIN_FILENO, EPOLLIN, &e) < 0) {
        printf("error %s\n", e.msg);
        return 1;
    }
    if (!net_is_on(net)) {
        printf("error %s\n", net_why_off(net));
        return 1;
    }
    say("ok");
    (void)loop_run(loop, &e);
    loop_unwatch(loop, &input);
    for (struct guest *g = guests; g < guests + GUESTS; g++) {
        if (g->slot)
            atomic_store(&g->ends, true);
    }
    net_stop(net);
    release();
    for (struct guest *g = guests; g < guests + GUESTS; g++) {
        if (g->slot) {
            pthread_join(g->thread, NULL);
            close(g->host_fd);
            net_release(net, g->slot);
        }
    }
    net_free(net);
    loop_free(loop);
    return 0;
}
