# SPDX-License-Identifier: Apache-2.0
"""How many TCP connections guests have, as the kernel tells."""
import errno
import select
import socket
import time

import pytest

from test_packets import OUTSIDE
from test_ports import HOST, publish
from world import GATEWAY

MANY = 6000


def of(host, guest):
    """(to the guest, from it)"""
    return tuple(map(int, host.tell(f"connections {guest.tap}")))


def until(host, guest, wanted, seconds=20):
    """What is told arrives a moment after it has happened."""
    end = time.monotonic() + seconds
    while of(host, guest) != wanted:
        assert time.monotonic() < end, f"{of(host, guest)}, not {wanted}"
        time.sleep(0.01)


def stay(connection):
    connection.recv(1)


def test_connections_are_counted_from_their_first_packet_until_both_sides_are_done(host):
    one, two = host.guest(), host.guest()
    host.settle()
    for ns in (one.ns, two.ns, host.outside):
        ns.listen(9, stay)
    host.ns.listen(7777, stay)
    publish(host, one, 8080, 9)
    assert of(host, one) == of(host, two) == (0, 0)
    opened = [host.ns.connect((one.address, 9))]
    until(host, one, (1, 0))
    opened.append(host.outside.connect((HOST, 8080)))  # a published port
    until(host, one, (2, 0))
    opened.append(host.ns.connect(("127.0.0.1", 8080)))
    until(host, one, (3, 0))
    opened.append(one.ns.connect((OUTSIDE, 9)))  # masqueraded
    opened.append(one.ns.connect((GATEWAY, 7777)))
    until(host, one, (3, 2))
    opened.append(one.ns.connect((two.address, 9)))
    until(host, one, (3, 3))
    until(host, two, (1, 0))
    opened.append(one.ns.connect((one.address, 9)))  # itself
    until(host, one, (4, 4))
    opened[0].shutdown(socket.SHUT_WR)  # the guest's side closes in turn
    until(host, one, (3, 4))
    opened[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    opened[1].close()  # by a reset
    until(host, one, (2, 4))
    for connection in opened:
        connection.close()
    until(host, one, (0, 0))
    until(host, two, (0, 0))
    assert host.counts()["listings"] == 1  # at the start: the rest was told


def test_a_connection_that_nobody_answers_counts(host):
    one = host.guest()
    host.settle()
    host.router.nft("table ip hole { chain c { type filter hook forward priority 0; tcp dport 99 drop\n}\n}")
    with one.ns.socket() as s:
        s.setblocking(False)
        assert s.connect_ex((OUTSIDE, 99)) != 0
        until(host, one, (0, 1))


def test_datagrams_and_other_peoples_connections_are_none_of_a_guests(host):
    one = host.guest()
    host.settle()
    one.ns.echo_udp(7)
    host.outside.listen(9, stay)
    with host.ns.connect((OUTSIDE, 9)), host.ns.socket(socket.SOCK_DGRAM) as s:
        s.sendto(b"?", (one.address, 7))
        assert s.recv(10) == b"?"
        assert of(host, one) == (0, 0)


def flood(host, guest):
    """So much news that they do not fit while nobody listens."""
    with host.ns.socket(socket.SOCK_DGRAM) as s:
        for port in range(20000, 20000 + MANY):
            s.sendto(b"", (guest.address, port))


def test_what_was_not_heard_is_made_up_for(host):
    one, two = host.guest(), host.guest()
    host.settle()
    one.ns.listen(9, stay)
    kept, closed = host.ns.connect((one.address, 9)), host.ns.connect((one.address, 9))
    until(host, one, (2, 0))
    before = host.counts()["listings"]
    host.tell("deaf")
    flood(host, two)
    closed.close()
    later = [host.ns.connect((one.address, 9)) for _ in range(3)]
    until(host, one, (4, 0))
    assert host.counts()["listings"] > before
    for connection in (kept, *later):
        connection.close()
    until(host, one, (0, 0))


def test_a_successor_of_a_daemon_knows_what_was_opened_before_and_while_there_was_none(bare):
    bare.start()
    guest = bare.guest()
    guest.ns.listen(9, stay)
    bare.settle()
    publish(bare, guest, 8080, 9)
    held = [bare.ns.connect(("127.0.0.1", 8080))]
    until(bare, guest, (1, 0))
    bare.process.kill()
    bare.process.wait()
    bare.guests.remove(guest)
    guest.ns.close()
    bare.start()  # the guest ended with it, but the kernel does not know that its connection did
    again = bare.guest(guest.address)
    bare.settle()
    assert of(bare, again) == (1, 0)
    bare.tell(f"ended {guest.address}")
    until(bare, again, (0, 0))
    for one in held:
        one.close()


def test_a_guest_that_ended_leaves_no_connections_to_who_has_its_address_next(host):
    one, other = host.guest(), host.guest()
    host.settle()
    for guest in (one, other):
        guest.ns.listen(9, stay)
    held = [host.ns.connect((one.address, 9)) for _ in range(3)] + [one.ns.connect((other.address, 9))]
    until(host, one, (3, 1))
    mine = host.ns.connect((other.address, 9))
    until(host, other, (2, 0))
    address = one.address
    one.end()
    host.tell(f"ended {address}")
    host.settle()
    heir = host.guest(address)
    until(host, heir, (0, 0))
    until(host, other, (1, 0))
    for connection in (*held, mine):
        connection.close()


def test_where_the_kernel_tells_nothing_nothing_is_claimed(bare):
    bare.ns.write("/proc/sys/net/netfilter/nf_conntrack_events", "0")
    bare.start()
    guest = bare.guest()
    with pytest.raises(AssertionError, match="nobody knows"):
        of(bare, guest)
    assert "nf_conntrack_events" in bare.said()


def test_who_asked_a_guest_in_vain_is_refused_when_he_asks_again(host):
    """The guest sleeps: first its TAP is read by nobody, then nothing leads there any more."""
    host.settle()
    one = host.guest()
    one.ns.listen(9, stay)
    publish(host, one, 8080, 9)
    with host.outside.connect((HOST, 8080)), host.ns.socket() as s:
        until(host, one, (1, 0))
        one.ns.run("ip link set eth0 down")
        s.settimeout(20)
        s.setblocking(False)
        assert s.connect_ex(("127.0.0.1", 8080)) == errno.EINPROGRESS
        until(host, one, (2, 0))
        one.end()
        host.settle()
        assert select.select([], [s], [], 20)[1]
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        heir = host.guest(one.address)
        until(host, heir, (1, 0))  # what was open goes on when it wakes
