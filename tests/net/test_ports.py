# SPDX-License-Identifier: Apache-2.0
"""Ports of the host that lead to guests."""
import socket

import pytest

from test_host import until_repaired
from test_packets import INNER, fetch, hello
from world import GATEWAY

HOST = "198.51.100.1"


def publish(host, guest, port, to=80, protocol="tcp", ip="0.0.0.0"):
    host.tell(f"publish {guest.tap} {protocol} {ip} {port} {to}")


def elements(host):
    text = host.ns.run("nft list table ip hypeman_ports")
    return [line.strip() for line in text.splitlines() if "elements" in line or " : 10." in line]


def test_a_published_port_is_reached_from_outside_from_the_host_and_from_guests(filtering_host):
    host = filtering_host
    one, two = host.guest(), host.guest()
    server = one.ns.listen(80, hello("one"))
    publish(host, one, 8080)
    assert fetch(host.outside, HOST, 8080) == "one"
    assert server.peers[-1] == "203.0.113.2"  # the client's own address
    for address in ("127.0.0.1", "127.9.9.9", HOST, GATEWAY):
        assert fetch(host.ns, address, 8080) == "one"
    assert server.peers[1] == GATEWAY  # for a guest 127.0.0.1 is itself
    for guest in (two, one):
        assert fetch(guest.ns, HOST, 8080) == "one"
        assert fetch(guest.ns, GATEWAY, 8080) == "one"


def test_udp_is_published_apart_from_tcp(host):
    guest = host.guest()
    guest.ns.echo_udp(7)
    publish(host, guest, 7000, 7, "udp")
    for ns, address in ((host.outside, HOST), (host.ns, "127.0.0.1"), (host.ns, HOST)):
        with ns.socket(socket.SOCK_DGRAM) as s:
            s.connect((address, 7000))
            s.send(b"x" * 4000)
            assert s.recv(65535) == b"x" * 4000
    with pytest.raises(ConnectionRefusedError):
        host.outside.connect((HOST, 7000))


def test_a_port_of_one_address_is_not_the_others(host):
    guest, other = host.guest(), host.guest()
    guest.ns.listen(80, hello("loopback"))
    other.ns.listen(80, hello("uplink"))
    publish(host, guest, 8080, ip="127.0.0.1")
    publish(host, other, 8080, ip=HOST)
    assert fetch(host.ns, "127.0.0.1", 8080) == "loopback"
    assert fetch(host.ns, HOST, 8080) == "uplink"
    assert fetch(host.outside, HOST, 8080) == "uplink"
    with pytest.raises(ConnectionRefusedError):
        host.ns.connect((GATEWAY, 8080))


def test_what_is_not_published_stays_the_hosts(host):
    guest = host.guest()
    guest.ns.listen(80, hello("guest"))
    host.ns.listen(9090, hello("host"))
    host.outside.listen(8080, hello("outside"))
    publish(host, guest, 8080)
    assert fetch(host.outside, HOST, 9090) == "host"
    assert fetch(guest.ns, "203.0.113.2", 8080) == "outside"
    assert fetch(host.ns, "203.0.113.2", 8080) == "outside"
    with pytest.raises(OSError):
        host.outside.connect((guest.address, 80), 1)


def test_a_guest_reaches_nothing_of_the_hosts_loopback(host):
    guest = host.guest()
    server = host.ns.listen(8080, hello("the host's own"))
    guest.ns.run("ip route add 127.0.0.0/8 via 192.0.0.1 table 7")
    guest.ns.run("ip rule add pref 0 to 127.0.0.0/8 lookup 7")
    guest.ns.write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")
    raw = guest.ns.socket(socket.SOCK_RAW, proto=socket.IPPROTO_RAW)
    from test_isolation import packets, seen, udp_frame

    lo, wire = packets(host.ns, "lo"), packets(guest.ns, "eth0")
    with raw, lo, wire:
        wire.send(udp_frame(INNER, "127.0.0.1"))
        assert not seen(lo, lambda f: b"hm-test" in f)
    drops = [line for line in host.ns.run("nft list chain ip hypeman from_guest").splitlines() if "127.0.0.0/8" in line]
    assert "packets 1 " in drops[0], drops
    assert not server.peers


def test_a_port_closes_with_its_guest_and_may_lead_to_another_at_once(host):
    one, two = host.guest(), host.guest()
    one.ns.listen(80, hello("one"))
    two.ns.listen(80, hello("two"))
    publish(host, one, 8080)
    publish(host, two, 8080)  # before the pool has closed it for the first
    assert fetch(host.outside, HOST, 8080) == "two"
    one.end()
    host.settle()
    assert fetch(host.outside, HOST, 8080) == "two"
    two.end()
    host.settle()
    assert elements(host) == []
    with pytest.raises(ConnectionRefusedError):
        host.outside.connect((HOST, 8080))


@pytest.mark.parametrize("change", ["nft flush ruleset", "nft delete table ip hypeman_ports", "nft flush map ip hypeman_ports ports"])
def test_published_ports_come_back_when_somebody_flushed_them(host, change):
    guest = host.guest()
    guest.ns.listen(80, hello("still here"))
    publish(host, guest, 8080)
    publish(host, guest, 8081, ip="127.0.0.1")
    host.settle()
    repairs = host.counts()["repairs"]
    host.ns.run(change)
    until_repaired(host, repairs)
    assert fetch(host.outside, HOST, 8080) == "still here"
    assert fetch(host.ns, "127.0.0.1", 8081) == "still here"
