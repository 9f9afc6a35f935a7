# SPDX-License-Identifier: Apache-2.0
"""What guests cannot do."""
import select
import socket
import struct

import pytest

from test_packets import OUTSIDE, checksum, fetch, hello, ping, tcp
from world import GATEWAY, INNER, Host

ETH_P_ALL = 3


def packets(ns, device, proto=ETH_P_ALL):
    s = ns.socket(socket.SOCK_RAW, family=socket.AF_PACKET, proto=socket.htons(proto))
    s.bind((device, proto))
    return s


def seen(s, wanted, seconds=0.3):
    """Whether a frame that wanted() knows arrives within a moment."""
    while select.select([s], [], [], seconds)[0]:
        if wanted(s.recv(65535)):
            return True
    return False


def udp_frame(source, destination, text=b"hm-test", mac_to="02:00:00:00:00:01", mac_from="02:00:00:00:00:02"):
    udp = struct.pack("!HHHH", 4000, 4001, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(destination))
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return bytes.fromhex(mac_to.replace(":", "") + mac_from.replace(":", "") + "0800") + head + udp


def arp_frame(operation, sender, target, mac="020000000002"):
    mac = bytes.fromhex(mac)
    return (b"\xff" * 6 + mac + bytes.fromhex("0806") + struct.pack("!HHBBH", 1, 0x800, 6, 4, operation)
            + mac + socket.inet_aton(sender) + b"\0" * 6 + socket.inet_aton(target))


@pytest.mark.parametrize("port", [22, 8080, 7776])
def test_a_guest_reaches_no_port_of_the_host(host, port):
    guest = host.guest()
    host.ns.listen(port, hello("host"))
    for address in (GATEWAY, "198.51.100.1"):
        with pytest.raises(ConnectionRefusedError):  # a reset, not silence
            guest.ns.connect((address, port), 5)


def test_a_guest_reaches_the_port_that_was_opened_on_the_gateways_address_only(host):
    guest = host.guest()
    host.ns.listen(7777, hello("open"))
    assert fetch(guest.ns, GATEWAY, 7777) == "open"
    with pytest.raises(ConnectionRefusedError):
        guest.ns.connect(("198.51.100.1", 7777), 5)


def test_a_guest_reaches_no_udp_port_of_the_host(host):
    guest = host.guest()
    echo = host.ns.echo_udp(5000)
    with guest.ns.socket(socket.SOCK_DGRAM, seconds=0.5) as s:
        for address in (GATEWAY, "198.51.100.1"):
            s.sendto(b"?", (address, 5000))
        with pytest.raises(TimeoutError):
            s.recv(10)
    assert not echo.peers
    assert ping(guest.ns, GATEWAY).returncode == 0
    assert ping(guest.ns, "198.51.100.1").returncode != 0


@pytest.mark.parametrize("to", ["255.255.255.255", "224.0.0.251", "198.51.100.255", "192.0.0.7"])
def test_what_a_guest_tells_everybody_nobody_of_the_host_hears(host, to):
    guest, other = host.guest(), host.guest()
    hearing = host.ns.socket(socket.SOCK_DGRAM, bind=("0.0.0.0", 4001), seconds=0.3)
    hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + socket.inet_aton("198.51.100.1"))
    hearing.setsockopt(socket.IPPROTO_IP, 49, 1)  # IP_MULTICAST_ALL
    raw, neighbour = packets(guest.ns, "eth0"), packets(other.ns, "eth0")
    with hearing, raw, neighbour:
        for mac in ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", "02:00:00:00:00:01"):
            raw.send(udp_frame(INNER, to, mac_to=mac))
        with pytest.raises(TimeoutError):
            hearing.recv(100)
        assert not seen(neighbour, lambda f: b"hm-test" in f)
        with host.ns.socket(socket.SOCK_DGRAM) as s:  # the test can hear
            s.sendto(b"?", ("127.0.0.1", 4001))
            assert hearing.recv(100) == b"?"


@pytest.mark.parametrize("source", ["10.100.0.3", "10.100.7.7", "198.51.100.77", "127.0.0.1", "192.0.0.1", "0.0.0.0"])
def test_a_guest_cannot_send_as_somebody_else(host, source):
    one, two = host.guest(), host.guest()
    outside, other = packets(host.outside, "eth0"), packets(two.ns, "eth0")
    raw = packets(one.ns, "eth0")
    with outside, other, raw:
        for destination in (OUTSIDE, two.address):
            raw.send(udp_frame(source, destination))
            assert not seen(other if destination == two.address else outside, lambda f: b"hm-test" in f)
            raw.send(udp_frame(INNER, destination))  # the test can see
            assert seen(other if destination == two.address else outside, lambda f: b"hm-test" in f, 5)


def test_a_guest_sees_nothing_of_anothers_packets(host):
    one, two, three = host.guest(), host.guest(), host.guest()
    one.ns.listen(80, hello("secret"))
    spy = packets(three.ns, "eth0")
    with spy:
        assert fetch(two.ns, one.address) == "secret"
        assert fetch(host.ns, one.address) == "secret"
        assert not seen(spy, lambda f: f[12:14] == b"\x08\x00")


def test_a_guest_cannot_answer_arp_for_another(host):
    one, two = host.guest(), host.guest()
    two.ns.listen(80, hello("two"))
    raw = packets(one.ns, "eth0")
    with raw:
        for operation in (1, 2):
            for claimed in (two.address, INNER, GATEWAY, "198.51.100.2"):
                raw.send(arp_frame(operation, claimed, claimed, "0200000000ee"))
                raw.send(arp_frame(operation, claimed, GATEWAY, "0200000000ee"))
    assert "02:00:00:00:00:ee" not in host.ns.run("ip neigh").lower()
    assert fetch(host.ns, two.address) == "two"


def test_the_host_answers_arp_for_the_gateway_and_for_nothing_else(host):
    one = host.guest()
    raw = packets(one.ns, "eth0", 0x0806)
    with raw:
        raw.send(arp_frame(1, INNER, "198.51.100.1"))
        assert not seen(raw, lambda f: f[20:22] == b"\0\2")
        raw.send(arp_frame(1, INNER, GATEWAY))
        assert seen(raw, lambda f: f[20:22] == b"\0\2" and f[22:28] == bytes.fromhex("020000000001"), 5)


def test_ipv6_of_a_guest_reaches_nobody(host):
    one, two = host.guest(), host.guest()
    for guest in (one, two):
        guest.ns.run("ip addr add fd00::2/64 dev eth0 nodad", check=False)
    assert host.ns.read(f"/proc/sys/net/ipv6/conf/{one.tap}/disable_ipv6") == "1"
    advert = bytes.fromhex("333300000001" "020000000002" "86dd") + bytes.fromhex(
        "6000000000103aff" "fe80000000000000000000fffe000002" "ff020000000000000000000000000001" "86000000400007080000000000000000")
    raw = packets(one.ns, "eth0")
    with raw:
        raw.send(advert)
    assert "default" not in host.ns.run("ip -6 route")


def test_guests_are_kept_apart_by_the_switch():
    host = Host()
    try:
        host.start("isolated")
        one, two = host.guest(), host.guest()
        two.ns.listen(80, hello("two"))
        host.outside.listen(80, hello("outside"))
        with pytest.raises(ConnectionRefusedError):
            one.ns.connect((two.address, 80), 5)
        assert ping(one.ns, two.address).returncode != 0
        assert fetch(host.ns, two.address) == "two"
        assert fetch(one.ns, OUTSIDE) == "outside"
    finally:
        host.close()


def test_the_outside_opens_no_connection_to_a_guest(host):
    guest = host.guest()
    guest.ns.listen(80, hello("guest"))
    host.router.run("ip route add 10.100.0.0/16 via 198.51.100.1")
    with pytest.raises(OSError):
        host.outside.connect((guest.address, 80), 1)


def test_a_guest_does_not_reach_other_networks_of_the_host(host):
    """Only what the default route leads to is outside; another network of the host's is the host's own."""
    from netns import Ns
    from world import link

    inside = Ns()
    link(host.ns, "corp0", "172.30.0.1/24", inside, "eth0", "172.30.0.2/24")
    inside.run("ip route add default via 172.30.0.1")
    inside.listen(80, hello("internal"))
    guest = host.guest()
    with pytest.raises(OSError):
        guest.ns.connect(("172.30.0.2", 80), 2)
    with pytest.raises(OSError):
        guest.ns.connect(("172.30.0.1", 80), 2)
    inside.close()
