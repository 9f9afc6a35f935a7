/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/sys.h"
#include "base/cleanup.h"

#define ETH "eth0"
#define NETWORKD "/run/systemd/network"
#define NETWORK_MANAGER "/run/NetworkManager/conf.d"

enum { HOSTS_MAX = 64 * 1024 };

static int set_address(struct sockaddr *where, const char *text, struct err *e)
{
    struct sockaddr_in in = {.sin_family = AF_INET};

    if (!text || inet_pton(AF_INET, text, &in.sin_addr) != 1)
        return err_set(e, ERR_INVALID, "\"%s\" is not an IPv4 address", text ? text : "");
    memcpy(where, &in, sizeof(in));
    return 0;
}

static struct ifreq request(const char *interface)
{
    struct ifreq r = {0};

    memcpy(r.ifr_name, interface, strlen(interface));
    return r;
}

static int link_up(int fd, const char *interface, struct err *e)
{
    struct ifreq r = request(interface);

    r.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(fd, SIOCSIFFLAGS, &r) < 0)
        return err_errno(e, "bring %s up", interface);
    return 0;
}

static int assign(int fd, const struct guest_network *n, struct err *e)
{
    struct ifreq r = request(ETH);
    struct sockaddr_in mask = {.sin_family = AF_INET};

    if (n->prefix < 1 || n->prefix > 32)
        return err_set(e, ERR_INVALID, "%u is not an IPv4 prefix length", n->prefix);
    if (set_address(&r.ifr_addr, n->address, e) < 0)
        return -1;
    if (ioctl(fd, SIOCSIFADDR, &r) < 0)
        return err_errno(e, "set the address %s", n->address);
    mask.sin_addr.s_addr = htonl(UINT32_MAX << (32 - n->prefix));
    memcpy(&r.ifr_netmask, &mask, sizeof(mask));
    if (ioctl(fd, SIOCSIFNETMASK, &r) < 0)
        return err_errno(e, "set the prefix length %u", n->prefix);
    return 0;
}

static bool parse_mac(const char *s, char out[6])
{
    for (int i = 0; i < 6; i++, s += 3) {
        int high = hex_digit(s[0]);
        int low = high < 0 ? -1 : hex_digit(s[1]);

        if (low < 0 || s[2] != (i < 5 ? ':' : '\0'))
            return false;
        out[i] = (char)(high << 4 | low);
    }
    return true;
}

/* A fixed neighbour never has to be asked for, so a restored guest's first packet goes out at once.
 */
static int fix_gateway(int fd, const struct guest_network *n, struct err *e)
{
    struct arpreq a = {.arp_flags = ATF_PERM | ATF_COM, .arp_dev = ETH};

    if (!n->gateway_mac || *n->gateway_mac == '\0')
        return 0;
    a.arp_ha.sa_family = ARPHRD_ETHER;
    if (!parse_mac(n->gateway_mac, a.arp_ha.sa_data))
        return err_set(e, ERR_INVALID, "\"%s\" is not a hardware address", n->gateway_mac);
    if (set_address(&a.arp_pa, n->gateway, e) < 0)
        return -1;
    return ioctl(fd, SIOCSARP, &a) < 0 ? err_errno(e, "fix the gateway's hardware address") : 0;
}

static int route(int fd, const struct guest_network *n, struct err *e)
{
    char interface[] = ETH;
    struct rtentry r = {.rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = interface};

    if (!n->gateway || *n->gateway == '\0')
        return 0;
    if (set_address(&r.rt_gateway, n->gateway, e) < 0)
        return -1;
    r.rt_dst.sa_family = AF_INET;
    r.rt_genmask.sa_family = AF_INET;
    if (ioctl(fd, SIOCADDRT, &r) < 0)
        return err_errno(e, "set the default route");
    return fix_gateway(fd, n, e);
}

int network_up(const struct guest_network *n, struct err *e)
{
    auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return err_errno(e, "open a socket");
    if (link_up(fd, "lo", e) < 0)
        return -1;
    if (!n->enabled)
        return 0;
    if (if_nametoindex(ETH) == 0) {
        say("the network is enabled and there is no " ETH);
        return 0;
    }
    /* The host carries IPv4 only; a link-local address would be one that leads nowhere. */
    (void)write_text("/proc/sys/net/ipv6/conf/" ETH "/disable_ipv6", "1");
    if (assign(fd, n, e) < 0 || link_up(fd, ETH, e) < 0 || route(fd, n, e) < 0)
        return err_wrap(e, "network");
    return 0;
}

/*
 * To systemd-networkd the address is told again rather than kept from it: what waits for the
 * network to be online waits for an interface that it manages. 00: the first file that matches
 * counts, of all directories.
 */
int network_pin(const struct guest_network *n, struct err *e)
{
    auto_buf struct buf text = BUF(4096);

    if (!n->enabled || !n->address || !n->gateway)
        return 0;
    if (make_dirs(NETWORKD, e) < 0 || make_dirs(NETWORK_MANAGER, e) < 0)
        return -1;
    buf_printf(&text,
               "[Match]\nName=" ETH "\n\n[Network]\nAddress=%s/%u\nGateway=%s\n",
               n->address,
               n->prefix,
               n->gateway);
    for (size_t i = 0; i < n->dns.n; i++)
        buf_printf(&text, "DNS=%s\n", n->dns.v[i]);
    buf_puts(&text, "DHCP=no\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nKeepConfiguration=yes\n");
    if (n->gateway_mac && *n->gateway_mac)
        buf_printf(
            &text, "\n[Neighbor]\nAddress=%s\nLinkLayerAddress=%s\n", n->gateway, n->gateway_mac);
    if (!replace_text(NETWORKD "/00-hypeman.network", buf_str(&text)) ||
        !replace_text(NETWORK_MANAGER "/00-hypeman.conf",
                      "[keyfile]\nunmanaged-devices+=interface-name:" ETH "\n"))
        return err_errno(e, "pin the address");
    return 0;
}

/* Images carry an empty /etc/hosts where their builder mounted its own. */
static bool hosts_is_ours(void)
{
    auto_buf struct buf text = BUF(HOSTS_MAX);

    return !slurp("/etc/hosts", &text) ? buf_ok(&text)
                                       : text.len == 0 || strstr(text.data, "# hypeman\n");
}

void set_hostname(const char *name, const char *address)
{
    auto_buf struct buf text = BUF(4096);

    if (!name || *name == '\0')
        return;
    if (sethostname(name, strlen(name)) < 0)
        say("set the host name %s: %m", name);
    buf_printf(&text, "%s\n", name);
    (void)replace_text("/etc/hostname", buf_str(&text));
    if (!hosts_is_ours())
        return;
    buf_reset(&text);
    buf_printf(
        &text,
        "# hypeman\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n%s\t%s\n",
        address && *address ? address : "127.0.1.1",
        name);
    (void)replace_text("/etc/hosts", buf_str(&text));
}

void network_files(const struct guest_network *n)
{
    auto_buf struct buf text = BUF(4096);

    for (size_t i = 0; i < n->dns.n; i++)
        buf_printf(&text, "nameserver %s\n", n->dns.v[i]);
    if (n->dns.n > 0)
        (void)replace_text("/etc/resolv.conf", buf_str(&text));
    set_outer_address(n->outer_address);
}

void set_outer_address(const char *address)
{
    auto_buf struct buf text = BUF(256);

    if (!address || *address == '\0')
        return;
    (void)mkdir("/run", 0755);
    (void)mkdir("/run/hypeman", 0755);
    buf_printf(&text, "%s\n", address);
    (void)replace_text("/run/hypeman/address", buf_str(&text));
}
