# SPDX-License-Identifier: Apache-2.0
"""What packets do: every guest is 192.0.0.2 inside, and each has its own address outside."""
import errno
import hashlib
import os
import socket
import time

import pytest

from netns import Ns
from world import GATEWAY, INNER, Host, link

OUTSIDE = "203.0.113.2"
MIB = 1 << 20


def hello(name):
    return lambda connection: connection.sendall(name.encode())


def fetch(ns, address, port=80):
    with ns.connect((address, port)) as s:
        return receive(s).decode()


def receive(s):
    data = b""
    while part := s.recv(65536):
        data += part
    return data


def digest_of_upload(connection):
    seen = hashlib.sha256()
    while part := connection.recv(65536):
        seen.update(part)
    connection.sendall(seen.hexdigest().encode())


def upload(ns, address, data, port=9):
    with ns.connect((address, port)) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        return receive(s).decode()


def ping(ns, address, *more):
    return ns.run(["busybox", "ping", "-A", "-c", "3", "-W", "5", *more, address], check=False)


def test_two_guests_that_are_the_same_inside_answer_each_at_its_own_address(filtering_host):
    one, two = filtering_host.guest(), filtering_host.guest()
    assert one.address != two.address
    one.ns.listen(80, hello("one"))
    two.ns.listen(80, hello("two"))
    assert fetch(filtering_host.ns, one.address) == "one"
    assert fetch(filtering_host.ns, two.address) == "two"
    assert fetch(one.ns, two.address) == "two"
    assert fetch(two.ns, one.address) == "one"


def test_a_guest_reaches_the_outside_and_itself_by_its_outer_address(filtering_host):
    guest = filtering_host.guest()
    server = filtering_host.outside.listen(80, hello("outside"))
    assert fetch(guest.ns, OUTSIDE) == "outside"
    assert server.peers == ["198.51.100.1"]  # masqueraded
    mine = guest.ns.listen(80, hello("me"))
    assert fetch(guest.ns, guest.address) == "me"
    assert mine.peers == [guest.address]


def test_a_guest_without_a_static_neighbour_finds_its_gateway(filtering_host):
    guest = filtering_host.guest()
    guest.ns.run(f"ip neigh del {GATEWAY} dev eth0")
    assert ping(guest.ns, GATEWAY).returncode == 0
    assert "02:00:00:00:00:01" in guest.ns.run("ip neigh")


@pytest.mark.parametrize("size", [1000, 1472, 4000, 20000, 60000])
def test_udp_of_any_size_comes_back_whole(host, size):
    one, two = host.guest(), host.guest()
    one.ns.echo_udp(7)
    host.outside.echo_udp(7)
    data = os.urandom(size)
    for ns, address in ((host.ns, one.address), (two.ns, one.address), (one.ns, OUTSIDE), (one.ns, one.address)):
        s = ns.socket(socket.SOCK_DGRAM)
        with s:
            s.sendto(data, (address, 7))
            assert s.recv(65535) == data


def test_fragments_of_a_ping_pass_with_and_without_conntrack(host):
    one, two = host.guest(), host.guest()
    for tracked in (True, False):
        if not tracked:
            host.ns.nft("table ip blind { chain c { type filter hook prerouting priority -350; notrack\n}\n}")
        assert ping(one.ns, two.address, "-s", "4000").returncode == 0
        assert ping(one.ns, GATEWAY, "-s", "4000").returncode == 0
        if tracked:  # the host takes answers from guests only where it knows of the question
            assert ping(host.ns, one.address, "-s", "4000").returncode == 0


def test_bulk_data_arrives_unchanged_everywhere_with_offloads(host):
    one, two = host.guest(), host.guest()
    one.ns.listen(9, digest_of_upload)
    host.outside.listen(9, digest_of_upload)
    host.ns.listen(7777, digest_of_upload)
    data = os.urandom(1 * MIB) * 16
    right = hashlib.sha256(data).hexdigest()
    assert upload(host.ns, one.address, data) == right
    assert upload(two.ns, one.address, data) == right
    assert upload(one.ns, one.address, data) == right
    assert upload(one.ns, OUTSIDE, data) == right
    assert upload(one.ns, GATEWAY, data, 7777) == right


def test_bulk_data_arrives_unchanged_with_checksums_made_in_software(host):
    one, two = host.guest(plain=True), host.guest(plain=True)
    one.ns.listen(9, digest_of_upload)
    data = os.urandom(1 * MIB) * 4
    right = hashlib.sha256(data).hexdigest()
    assert upload(host.ns, one.address, data) == right
    assert upload(two.ns, one.address, data) == right


def refused_udp(ns, address):
    """Whether an ICMP error comes back for a datagram to a port where nobody listens."""
    with ns.socket(socket.SOCK_DGRAM, seconds=5) as s:
        s.connect((address, 4321))
        s.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            s.recv(100)


def test_icmp_errors_reach_who_caused_them_both_ways(host):
    one, two = host.guest(), host.guest()
    refused_udp(host.ns, one.address)  # the guest refuses, the host learns it
    refused_udp(one.ns, two.address)
    refused_udp(one.ns, one.address)
    refused_udp(one.ns, OUTSIDE)  # the outside refuses, the guest learns it


def test_the_outside_learns_that_a_published_port_is_closed_in_the_guest(host):
    guest = host.guest()
    host.tell(f"publish {guest.tap} udp 0.0.0.0 4321 4321")
    refused_udp(host.outside, "198.51.100.1")
    refused_udp(host.ns, "127.0.0.1")


def test_a_closed_tcp_port_is_refused_at_once(host):
    one, two = host.guest(), host.guest()
    for ns, address in ((host.ns, one.address), (one.ns, two.address), (one.ns, OUTSIDE)):
        with pytest.raises(ConnectionRefusedError):
            ns.connect((address, 4321))


def test_a_traceroute_learns_of_every_hop(host):
    one, two = host.guest(), host.guest()
    hops = []
    for ttl in (1, 2):
        with one.ns.socket(socket.SOCK_DGRAM, seconds=5) as s:
            s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            s.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
            s.connect((OUTSIDE, 33434))
            s.send(b"?")
            with pytest.raises(OSError) as error:
                s.recv(100)
            assert error.value.errno == errno.EHOSTUNREACH
            control = s.recvmsg(100, 1000, socket.MSG_ERRQUEUE)[1]
            hops.append(socket.inet_ntoa(control[0][2][20:24]))
    assert hops == ["198.51.100.1" if hops[0] != GATEWAY else GATEWAY, "198.51.100.2"]


def test_path_mtu_discovery_works_through_a_hop_of_1400():
    host = Host(mtu=1400)
    try:
        host.start()
        one = host.guest()
        server = host.outside.listen(9, digest_of_upload)
        data = os.urandom(1 * MIB) * 4
        assert upload(one.ns, OUTSIDE, data) == hashlib.sha256(data).hexdigest()
        assert "mtu 1400" in one.ns.run(f"ip route get {OUTSIDE}")
        assert server.peers == ["198.51.100.1"]
    finally:
        host.close()


def test_a_narrow_hop_inside_a_guest_is_learnt_of_by_the_host_by_guests_and_by_the_outside(host):
    """A container in the guest, which says that it takes 1500 bytes, behind a link that takes 1300."""
    one, two = host.guest(), host.guest()
    within = Ns()
    link(one.ns, "c0", "172.17.0.1/24", within, "eth0", "172.17.0.2/24")
    one.ns.run("ip link set c0 mtu 1300")
    within.run("ip route add default via 172.17.0.1")
    one.ns.write("/proc/sys/net/ipv4/ip_forward", "1")
    one.ns.nft("table ip n { chain c { type nat hook prerouting priority -100; tcp dport 9 dnat to 172.17.0.2\n}\n}")
    within.listen(9, digest_of_upload)
    host.tell(f"publish {one.tap} tcp 0.0.0.0 8080 9")
    data = os.urandom(1 * MIB) * 2
    right = hashlib.sha256(data).hexdigest()
    for ns, address, port, route in ((host.ns, one.address, 9, one.address), (two.ns, one.address, 9, one.address),
                                     (host.outside, "198.51.100.1", 8080, "198.51.100.1")):
        assert upload(ns, address, data, port) == right
        assert "mtu 1300" in ns.run(f"ip route get {route}"), "by an ICMP error of the guest's"
    within.close()


def test_hairpin_provokes_no_redirects(host):
    one, two = host.guest(), host.guest()
    two.ns.listen(80, hello("two"))
    one.ns.listen(80, hello("one"))
    listener = one.ns.socket(socket.SOCK_RAW, proto=socket.IPPROTO_ICMP, seconds=1)
    with listener:
        for _ in range(5):
            fetch(one.ns, two.address)
            fetch(one.ns, one.address)
        with one.ns.socket(socket.SOCK_DGRAM) as sender:
            for _ in range(5):  # the kernel's own NAT drops that of a connection's first packet
                sender.sendto(b"again", (one.address, 9))
                time.sleep(0.1)
        types = set()
        while True:
            try:
                types.add(listener.recv(65535)[20])
            except TimeoutError:
                break
    assert 5 not in types, types


def test_a_fork_takes_over_the_sources_connections_and_each_has_its_own_address(host):
    """A clone has the same MACs, addresses and neighbours; only the TAP differs."""
    source = host.guest()
    source.ns.listen(80, hello("web"))
    clone = host.guest()
    clone.ns.listen(80, hello("web"))
    held = []
    source.ns.listen(22, lambda c: (held.append(c), c.sendall(b"hi"), c.recv(1), c.sendall(b"still here")))
    with host.ns.connect((source.address, 22)) as s:
        assert s.recv(2) == b"hi"
        # Its first packets ever: not one may be lost.
        assert host.ns.run(f"busybox ping -c 1 -W 30 {clone.address}")
        assert fetch(host.ns, clone.address) == "web"
        assert fetch(host.ns, source.address) == "web"
        s.sendall(b"?")
        assert receive(s) == b"still here"


def test_an_inherited_connection_of_a_clone_is_reset_and_does_not_hang(host):
    """The clone goes on sending on a connection to the host that only its source has."""
    clone = host.guest()
    host.ns.listen(7777, lambda c: c.recv(1))
    raw = clone.ns.socket(socket.SOCK_RAW, proto=socket.IPPROTO_TCP, seconds=5)
    with raw:
        raw.connect((GATEWAY, 0))
        for port in (7777, 22):  # one that is open to guests, one that is not
            raw.send(tcp(INNER, GATEWAY, 40000, port, flags=0x10))
            while True:
                answer = raw.recv(65535)[20:]
                if answer[0:2] == port.to_bytes(2, "big") and answer[13] & 0x04:  # RST
                    break


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(source, destination, sport, dport, flags):
    header = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + b"\1\2\3\4\5\6\7\x08\x50" + bytes([flags]) + b"\x10\0\0\0\0\0"
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + b"\0\6" + len(header).to_bytes(2, "big")
    return header[:16] + checksum(pseudo + header).to_bytes(2, "big") + header[18:]


def test_the_packet_inside_an_icmp_error_is_what_its_sender_sent(host):
    """Addresses and the embedded header's own checksum, on both sides."""
    one, two = host.guest(), host.guest()
    for ns, source, destination in ((one.ns, INNER, OUTSIDE), (two.ns, INNER, one.address)):
        with ns.socket(socket.SOCK_RAW, proto=socket.IPPROTO_ICMP, seconds=5) as raw:
            with ns.socket(socket.SOCK_RAW, proto=socket.IPPROTO_RAW) as s:
                ends = socket.inet_aton(source) + socket.inet_aton(destination)
                s.sendto(b"\x45\0\0\x1d\x42\x42\x40\0\x40\x11\0\0" + ends + b"\x10\xe1\x10\xe1\0\x09\0\0?", (destination, 0))
            error = b""
            while error[20:22] != b"\3\3":
                error = raw.recv(65535)
        embedded = error[28:48]
        assert socket.inet_ntoa(embedded[12:16]) == source
        assert socket.inet_ntoa(embedded[16:20]) == destination
        assert embedded[4:6] == b"\x42\x42"
        assert checksum(embedded) == 0
        assert checksum(error[20:]) == 0
