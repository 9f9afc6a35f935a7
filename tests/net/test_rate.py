# SPDX-License-Identifier: Apache-2.0
"""How fast a guest may take in and send out."""
import hashlib
import socket
import time

from test_packets import OUTSIDE, digest_of_upload, fetch, hello, upload

MIB = 1 << 20


def bytes_through(sender, receiver, address, seconds=1.0, size=1200):
    """What of a stream of datagrams, sent as fast as can be, arrives; and how long that took."""
    inbox = receiver.socket(socket.SOCK_DGRAM, bind=("0.0.0.0", 7), seconds=0.3)
    inbox.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
    outbox = sender.socket(socket.SOCK_DGRAM)
    began = time.monotonic()
    got = 0
    inbox.setblocking(False)
    with inbox, outbox:
        while time.monotonic() < began + seconds:
            outbox.sendto(b"x" * size, (address, 7))
            try:
                while True:
                    got += len(inbox.recv(65536))
            except BlockingIOError:
                pass
        took = time.monotonic() - began
        inbox.settimeout(0.3)
        try:
            while True:
                got += len(inbox.recv(65536))
        except TimeoutError:
            pass
    return got, took


def limit(host, guest, down, up):
    host.tell(f"rate {guest.tap} {down} {up}")


def test_downloads_are_limited_and_uploads_are_not(host):
    guest = host.guest()
    limit(host, guest, MIB, 0)
    got, took = bytes_through(host.ns, guest.ns, guest.address)
    assert 0 < got <= MIB * (took + 0.4) + 256 * 1024  # the bucket and what waits are let through
    free, took = bytes_through(guest.ns, host.outside, OUTSIDE)
    assert free > 2 * got


def test_uploads_are_limited_and_downloads_are_not(host):
    guest = host.guest()
    limit(host, guest, 0, MIB)
    got, took = bytes_through(guest.ns, host.outside, OUTSIDE)
    assert 0 < got <= MIB * (took + 0.4) + 256 * 1024
    free, took = bytes_through(host.ns, guest.ns, guest.address)
    assert free > 2 * got


def test_a_limit_changes_and_goes_while_packets_flow(host):
    guest = host.guest()
    data = bytes(3 * MIB)
    server = host.outside.listen(9, digest_of_upload)
    limit(host, guest, 4 * MIB, 4 * MIB)
    limit(host, guest, 20 * MIB, 30 * MIB)
    shown = host.ns.run("tc qdisc show")
    assert "rate 167772Kbit" in shown and "rate 251658Kbit" in shown, shown
    assert upload(guest.ns, OUTSIDE, data) == hashlib.sha256(data).hexdigest()
    limit(host, guest, 0, 0)
    assert "tbf" not in host.ns.run("tc qdisc show") and "up-" not in host.ns.run("ip -br link")
    assert upload(guest.ns, OUTSIDE, data) == hashlib.sha256(data).hexdigest()
    limit(host, guest, 0, 0)  # there is none: nothing to do
    server.close()


def test_a_rate_of_more_than_32_bits_is_kept(host):
    guest = host.guest()
    limit(host, guest, 12_500_000_000, 0)
    assert "rate 100Gbit" in host.ns.run("tc qdisc show")


def test_what_is_limited_still_has_its_own_address(host):
    """The detour ends before the mapping, not after it."""
    one, two = host.guest(), host.guest()
    limit(host, one, 10 * MIB, 10 * MIB)
    limit(host, two, 10 * MIB, 10 * MIB)
    one.ns.listen(80, hello("one"))
    two.ns.listen(80, hello("two"))
    assert fetch(host.ns, one.address) == "one"
    assert fetch(one.ns, two.address) == "two"


def test_the_interface_of_a_tap_that_is_gone_is_swept(host):
    guest = host.guest()
    limit(host, guest, 0, MIB)
    host.ns.run("ip link add up-hm999 type ifb")  # somebody else's
    host.ns.run("ip link add up-hm998 type ifb")
    host.ns.run(["ip", "link", "set", "up-hm998", "alias", "hypeman 0.0.0.0"])
    host.tell("sweep")
    left = host.ns.run("ip -br link")
    assert "up-hm998" not in left and "up-hm999" in left and f"up-{guest.tap}" in left
