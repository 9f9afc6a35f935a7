/* SPDX-License-Identifier: Apache-2.0 */
#include "netpath.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/if_tun.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "bench.h"
#include "net/links.h"
#include "net/net.h"
#include "net/tap.h"

enum {
    PORT = 7,
    VNET_HEADER = 10,
    FRAME_MAX = 70 * 1024,
    PAYLOAD = 64,
    OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN,
    CHUNK = 1 << 16,
};

static const char gateway[] = "192.0.0.1";

static void check(bool ok, const char *what)
{
    if (!ok)
        give_up("%s: %m", what);
}

static void enter(int ns)
{
    check(setns(ns, CLONE_NEWNET) == 0, "enter a network namespace");
}

static void raise_link(const char *name)
{
    auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = {.ifr_flags = IFF_UP};

    (void)snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
    check(ioctl(fd, SIOCSIFFLAGS, &r) == 0, "bring an interface up");
}

static int new_namespace(void)
{
    int fd;

    check(unshare(CLONE_NEWNET) == 0, "make a network namespace");
    raise_link("lo");
    fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    check(fd >= 0, "open a network namespace");
    return fd;
}

static void open_mapped(struct netpath *p)
{
    struct net_settings settings = {
        .enabled = true,
        .subnet = "10.100.0.0/16",
        .inner_address = "192.0.0.2/29",
        .inner_gateway = gateway,
        .dns = "",
        .dnsmasq = "/nonexistent", /* a process is no part of it */
        .uplink = "",
        .host_ports = "udp/7",
        .guest_to_guest = true,
        .ready = 1,
    };
    struct err e = {0};

    p->loop = loop_new(&e);
    p->net = p->loop ? net_open(p->loop, &settings, &e) : NULL;
    must(p->net ? net_start(p->net, &e) : -1, &e);
    p->slot = net_claim(p->net, 0, &e);
    must(p->slot ? net_bind(p->net, p->slot, &e) : -1, &e);
    p->tap_fd = p->slot->fd;
    p->outer = p->slot->address;
    p->inner = net_plan(p->net)->inner;
}

static void open_bare(struct netpath *p)
{
    auto_nl struct nl n = NL_CLOSED;
    struct net_plan plan = {.inner = 0x0a640002};
    struct err e = {0};
    char name[IFNAMSIZ];
    int ifindex;

    (void)address_parse(gateway, &plan.gateway);
    p->outer = p->inner = plan.inner;
    p->tap_fd = tap_open(name, &e);
    must(p->tap_fd, &e);
    ifindex = (int)if_nametoindex(name);
    must(nl_open(&n, NETLINK_ROUTE, &e), &e);
    link_gateway(&n, &plan, true);
    link_prepare(&n, ifindex);
    link_bind(&n, &plan, ifindex, p->outer);
    must(nl_send(&n, &e), &e);
}

void netpath_open(struct netpath *p, bool is_bare)
{
    *p = (struct netpath){.is_bare = is_bare, .guest_fd = -1};
    p->guest_ns = new_namespace();
    p->host_ns = new_namespace();
    if (is_bare)
        open_bare(p);
    else
        open_mapped(p);
}

void netpath_close(struct netpath *p)
{
    if (p->is_bare) {
        close(p->tap_fd);
    } else {
        enter(p->host_ns);
        net_stop(p->net);
        net_release(p->net, p->slot);
        net_free(p->net);
        loop_free(p->loop);
    }
    close(p->host_ns);
    close(p->guest_ns);
}

static double clock_us(clockid_t which)
{
    struct timespec t;

    (void)clock_gettime(which, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static struct sockaddr_in at(uint32_t address)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(address)};
}

double netpath_to_guest_ns(const struct netpath *p, int packets)
{
    struct sockaddr_in to = at(p->outer);
    char frame[FRAME_MAX];
    auto_close int fd = -1;
    double began;

    enter(p->host_ns);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    check(connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0, "connect");
    tap_drain(p->tap_fd);
    began = clock_us(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < packets; i++) {
        check(write(fd, frame, PAYLOAD) == PAYLOAD, "send to the guest");
        check(read(p->tap_fd, frame, sizeof(frame)) > PAYLOAD, "read from the TAP");
    }
    return (clock_us(CLOCK_THREAD_CPUTIME_ID) - began) * 1000 / packets;
}

static uint16_t checksum(const unsigned char *data, size_t n)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < n; i += 2)
        sum += (uint32_t)(data[i] << 8 | data[i + 1]);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static size_t make_frame(const struct netpath *p, unsigned char *frame)
{
    static const unsigned char ethernet[] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0};
    unsigned char *ip = frame + VNET_HEADER + sizeof(ethernet);
    unsigned char *udp = ip + 20;
    uint32_t source = htonl(p->inner);
    uint16_t sum;

    memset(frame, 0, VNET_HEADER + sizeof(ethernet) + 28 + PAYLOAD);
    memcpy(frame + VNET_HEADER, ethernet, sizeof(ethernet));
    ip[0] = 0x45;
    ip[3] = 28 + PAYLOAD;
    ip[8] = 64;
    ip[9] = IPPROTO_UDP;
    memcpy(ip + 12, &source, 4);
    (void)inet_pton(AF_INET, gateway, ip + 16);
    sum = htons(checksum(ip, 20));
    memcpy(ip + 10, &sum, 2);
    udp[1] = 99;
    udp[3] = PORT;
    udp[5] = 8 + PAYLOAD;
    return VNET_HEADER + sizeof(ethernet) + 28 + PAYLOAD;
}

double netpath_to_host_ns(const struct netpath *p, int packets)
{
    struct sockaddr_in here = at(INADDR_ANY);
    unsigned char frame[512];
    size_t len = make_frame(p, frame);
    char data[512];
    auto_close int fd = -1;
    double began;

    enter(p->host_ns);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    check(bind(fd, (const struct sockaddr *)&here, sizeof(here)) == 0, "bind");
    began = clock_us(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < packets; i++) {
        check(write(p->tap_fd, frame, len) == (ssize_t)len, "write to the TAP");
        check(read(fd, data, sizeof(data)) == PAYLOAD, "receive from the guest");
    }
    return (clock_us(CLOCK_THREAD_CPUTIME_ID) - began) * 1000 / packets;
}

/* --- bulk data: a guest's network stack in its namespace, and a thread that plays the VMM --- */

static bool carry(int from, int to, char *frame)
{
    ssize_t n = read(from, frame, FRAME_MAX);

    return n > 0 && write(to, frame, (size_t)n) != 0;
}

static void *be_vmm(void *arg)
{
    struct netpath *p = arg;
    struct pollfd fds[] = {{p->tap_fd, POLLIN, 0}, {p->guest_fd, POLLIN, 0}};
    char *frame = mem_zalloc(1, FRAME_MAX);

    while (!atomic_load(&p->ends)) {
        (void)poll(fds, 2, 20);
        while (carry(p->tap_fd, p->guest_fd, frame) || carry(p->guest_fd, p->tap_fd, frame))
            ;
    }
    free(frame);
    return NULL;
}

static struct ifreq eth0(uint32_t address)
{
    struct ifreq r = {.ifr_name = "eth0"};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};

    memcpy(&r.ifr_addr, &a, sizeof(a));
    return r;
}

/* As the agent does it; with its outer address where nothing maps, and a route to the gateway. */
static void configure_guest(const struct netpath *p)
{
    static const unsigned char mac[] = {2, 0, 0, 0, 0, 2};
    auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq address = eth0(p->inner);
    struct ifreq hardware = {.ifr_name = "eth0", .ifr_hwaddr.sa_family = ARPHRD_ETHER};
    char device[] = "eth0";
    struct rtentry route = {.rt_flags = RTF_UP, .rt_dev = device};
    struct arpreq neighbour = {.arp_flags = ATF_PERM | ATF_COM, .arp_dev = "eth0"};
    struct sockaddr_in any = {.sin_family = AF_INET};
    struct sockaddr_in to = {.sin_family = AF_INET};

    memcpy(hardware.ifr_hwaddr.sa_data, mac, sizeof(mac));
    check(ioctl(fd, SIOCSIFHWADDR, &hardware) == 0, "set the guest's hardware address");
    check(ioctl(fd, SIOCSIFADDR, &address) == 0, "set the guest's address");
    raise_link("eth0");
    memcpy(&route.rt_dst, &any, sizeof(any));
    memcpy(&route.rt_genmask, &any, sizeof(any));
    check(ioctl(fd, SIOCADDRT, &route) == 0, "set the guest's route");
    (void)inet_pton(AF_INET, gateway, &to.sin_addr);
    memcpy(&neighbour.arp_pa, &to, sizeof(to));
    neighbour.arp_ha.sa_family = ARPHRD_ETHER;
    memcpy(neighbour.arp_ha.sa_data, mac, sizeof(mac));
    neighbour.arp_ha.sa_data[5] = 1;
    check(ioctl(fd, SIOCSARP, &neighbour) == 0, "set the guest's neighbour");
}

static void start_guest(struct netpath *p)
{
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, .ifr_name = "eth0"};

    enter(p->guest_ns);
    p->guest_fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    check(p->guest_fd >= 0 && ioctl(p->guest_fd, TUNSETIFF, &r) == 0 &&
              ioctl(p->guest_fd, TUNSETOFFLOAD, OFFLOADS) == 0 &&
              ioctl(p->tap_fd, TUNSETOFFLOAD, OFFLOADS) == 0,
          "make the guest's interface");
    configure_guest(p);
    atomic_store(&p->ends, false);
    check(pthread_create(&p->pump, NULL, be_vmm, p) == 0, "start a thread");
}

static void end_guest(struct netpath *p)
{
    atomic_store(&p->ends, true);
    (void)pthread_join(p->pump, NULL);
    close(p->guest_fd);
    check(ioctl(p->tap_fd, TUNSETOFFLOAD, 0) == 0, "set offloads");
    tap_drain(p->tap_fd);
}

struct sink {
    int listening;
    size_t got;
};

static void *swallow(void *arg)
{
    struct sink *s = arg;
    auto_close int fd = accept4(s->listening, NULL, NULL, SOCK_CLOEXEC);
    char *data = mem_zalloc(1, CHUNK);
    ssize_t n;

    while ((n = read(fd, data, CHUNK)) > 0)
        s->got += (size_t)n;
    free(data);
    return NULL;
}

struct netpath_bulk netpath_bulk(struct netpath *p, int megabytes)
{
    struct sockaddr_in here = at(INADDR_ANY);
    struct sockaddr_in to = at(p->outer);
    struct sink sink = {.listening = -1};
    char *data = mem_zalloc(1, CHUNK);
    size_t left = (size_t)megabytes << 20;
    pthread_t thread;
    double began;
    double cpu;
    int fd;

    start_guest(p);
    sink.listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(bind(sink.listening, (const struct sockaddr *)&here, sizeof(here)) == 0 &&
              listen(sink.listening, 1) == 0 && pthread_create(&thread, NULL, swallow, &sink) == 0,
          "listen in the guest");
    enter(p->host_ns);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0, "connect to the guest");
    began = now_us();
    cpu = clock_us(CLOCK_PROCESS_CPUTIME_ID);
    while (left > 0) {
        ssize_t n = write(fd, data, left < CHUNK ? left : CHUNK);

        check(n > 0, "send to the guest");
        left -= (size_t)n;
    }
    close(fd);
    (void)pthread_join(thread, NULL);
    began = now_us() - began;
    cpu = clock_us(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    close(sink.listening);
    end_guest(p);
    free(data);
    return (struct netpath_bulk){(double)sink.got / began, cpu / megabytes};
}
