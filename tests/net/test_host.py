# SPDX-License-Identifier: Apache-2.0
"""What becomes of the host: what is made, what others change under us, and that nothing stays."""
import errno
import re
import socket
import subprocess
import time

import pytest

import netns
from test_isolation import packets, seen
from test_packets import OUTSIDE, fetch, hello
from world import GATEWAY, Host
from world import link as netns_link

DOCKER = """
table ip filter {
 chain FORWARD { type filter hook forward priority filter; policy drop;
  jump DOCKER-USER
  iifname "docker0" accept
 }
 chain DOCKER-USER {
  return
 }
}
"""
FIREWALLD = """
table inet firewalld {
 chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
  iifname "lo" accept
  reject with icmpx admin-prohibited
 }
}
"""


def picture(ns):
    """All that we could have changed."""
    return {
        "rules": ns.run("nft list ruleset"),
        "links": ns.run("ip -o -br link"),
        "addresses": ns.run("ip -4 -o -br addr"),
        "routes": ns.run("ip -4 route show table all"),
        "neighbours": ns.run("ip neigh show nud permanent"),
        "forwarding": ns.run("sh -c".split() + ["grep . /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/ip_forward"]),
    }


def test_the_end_leaves_the_host_as_it_was(bare):
    bare.ns.nft("table inet theirs { chain c { type filter hook forward priority 5; policy accept;\n counter accept\n}\n}")
    bare.ns.run("ip tuntap add hmm0 mode tap")
    bare.ns.run("ip tuntap add hm7 mode tap")  # the name of one of ours, but not ours
    before = picture(bare.ns)
    bare.start()
    bare.settle()
    assert picture(bare.ns) != before
    assert "hm7" in bare.taps()
    assert bare.stop() == 0
    after = picture(bare.ns)
    after["rules"], before["rules"] = (x["rules"].split("counter")[0] for x in (after, before))
    assert after == before


def test_a_crash_leaves_no_taps_and_the_next_start_takes_over(bare):
    bare.start()
    guest = bare.guest()
    guest.ns.listen(80, hello("x"))
    assert fetch(bare.ns, guest.address) == "x"
    bare.process.kill()
    bare.process.wait()
    assert bare.taps() == []
    bare.start()
    again = bare.guest()
    again.ns.listen(80, hello("again"))
    assert fetch(bare.ns, again.address) == "again"


def test_forwarding_of_the_uplink_ends_with_the_last_of_several_daemons(bare):
    def forwards(name):
        return bare.ns.read(f"/proc/sys/net/ipv4/conf/{name}/forwarding").strip()

    assert forwards("out0") == "0"
    for _ in range(2):
        bare.start()
        assert forwards("out0") == "1"
        bare.process.kill()
        bare.process.wait()
    bare.start()
    assert bare.stop() == 0
    assert forwards("out0") == "0"
    bare.ns.write("/proc/sys/net/ipv4/conf/out0/forwarding", "1")  # now by somebody else
    bare.start()
    bare.stop()
    assert forwards("out0") == "1"


def test_forwarding_moves_with_the_default_route(bare):
    netns_link(bare.ns, "other0", "198.51.101.1/24", bare.router, "in1", "198.51.101.2/24")
    bare.start()
    bare.ns.run("ip route replace default via 198.51.101.2")
    bare.until_said("reach the outside by other0")
    bare.settle()
    read = lambda name: bare.ns.read(f"/proc/sys/net/ipv4/conf/{name}/forwarding").strip()  # noqa: E731
    assert (read("out0"), read("other0")) == ("0", "1")
    bare.stop()
    assert (read("out0"), read("other0")) == ("0", "0")


def test_what_is_for_a_guest_that_is_not_there_does_not_leave_the_host(host):
    one = host.guest()
    wire = packets(host.router, "in0")
    with wire:
        for ns in (host.ns, one.ns):
            with pytest.raises(OSError) as error:
                ns.connect(("10.100.99.9", 80), 5)
            assert error.value.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED)
        assert not seen(wire, lambda f: b"\x0a\x64\x63\x09" in f)


def test_left_over_taps_of_ours_are_swept_and_nobody_elses(bare):
    bare.ns.run("ip tuntap add hm3 mode tap")
    bare.ns.run(["ip", "link", "set", "hm3", "alias", "hypeman 10.100.0.9"])
    bare.ns.run("ip tuntap add hm4 mode tap")
    bare.ns.run(["ip", "link", "set", "hm4", "alias", "the printers"])
    bare.start(ready=1)
    bare.settle()
    assert "hm4" in bare.taps() and "the printers" in bare.ns.run("ip link show hm4")
    assert "10.100.0.9" not in bare.ns.run("ip link")
    assert len(bare.taps()) == 2


def test_a_thousand_slots_come_and_go_and_nothing_is_left(bare):
    before = picture(bare.ns)
    bare.start(ready=1000)
    bare.settle()
    assert len(bare.taps()) == 1000
    assert bare.counts()["ready"] == 1000
    repairs = bare.counts()["repairs"]
    bare.ns.run("nft flush ruleset")
    until_repaired(bare, repairs)
    assert bare.ns.run("nft list map ip hypeman outer").count(" : 10.100.") == 1000
    bare.tell("claim 1000")
    bare.tell("release")
    bare.settle()
    routes = [line.split()[0] for line in bare.ns.run("ip route").splitlines() if line.startswith("10.100.")]
    taps = bare.taps()
    assert len(routes) == len(set(routes)) == len(taps) == bare.counts()["ready"]
    assert bare.stop() == 0
    assert picture(bare.ns) == before


def test_rules_that_somebody_flushed_come_back(host):
    guest, other = host.guest(), host.guest()
    guest.ns.listen(80, hello("still here"))
    host.outside.listen(80, hello("outside"))
    repairs = host.counts()["repairs"]
    host.ns.run("nft flush ruleset")
    until_repaired(host, repairs)
    assert fetch(host.ns, guest.address) == "still here"
    assert fetch(other.ns, guest.address) == "still here"
    assert fetch(guest.ns, OUTSIDE) == "outside"
    rules = host.ns.run("nft list ruleset")
    assert rules.count("set iifname map @outer") == 2 and "@th,160,32" in rules  # also what nft cannot say
    new = host.guest()
    new.ns.listen(80, hello("new"))
    assert fetch(host.ns, new.address) == "new"


def until_repaired(host, repairs):
    end = time.monotonic() + 30
    while host.counts()["repairs"] == repairs:
        assert time.monotonic() < end, "nothing was repaired"
        time.sleep(0.01)
    host.settle()


def until_rules(host):
    """Other repairs may come before theirs."""
    end = time.monotonic() + 60
    while "masquerade" not in host.ns.run("nft list ruleset"):
        assert time.monotonic() < end, host.said()
        time.sleep(0.05)
    host.settle()


def test_a_slot_that_a_job_has_while_rules_are_put_back_is_not_forgotten(host):
    host.settle()
    host.tell("claim 1")
    route = [line for line in host.ns.run("ip -o route").splitlines() if line.startswith("10.100.")][0].split()
    repairs = host.counts()["repairs"]
    host.ns.run("nft flush ruleset")
    until_repaired(host, repairs)
    host.tell("keep")
    host.settle()
    assert f'"{route[2]}" : {route[0]}' in host.ns.run("nft list map ip hypeman outer")


@pytest.mark.parametrize("change", [
    "nft delete table ip hypeman",
    "nft flush chain ip hypeman icmp_from",
    "nft flush map ip hypeman outer",
    "nft delete table arp hypeman",
])
def test_a_part_that_somebody_took_away_comes_back(host, change):
    guest = host.guest()
    host.settle()
    rules = without_counters(host.ns.run("nft list ruleset"))
    repairs = host.counts()["repairs"]
    host.ns.run(change)
    until_repaired(host, repairs)
    assert without_counters(host.ns.run("nft list ruleset")) == rules
    guest.ns.listen(80, hello("x"))
    assert fetch(host.ns, guest.address) == "x"


def without_counters(rules):
    return sorted(re.sub(r"packets \d+ bytes \d+|,|elements = {|}", "", rules).split("\n"))


def test_our_own_changes_are_no_reason_to_repair(host):
    host.settle()
    repairs = host.counts()["repairs"]
    guest = host.guest()
    host.guest("10.100.9.9")
    guest.end()
    host.tell("claim 20")
    host.tell("release")
    host.settle()
    host.ns.nft("table inet theirs { }")  # an event after all of ours
    assert host.counts()["repairs"] == repairs


@pytest.mark.parametrize("change", [
    "ip route flush proto 104",
    "ip addr del 192.0.0.1/32 dev lo",
    "ip link set TAP down",
    "ip link set TAP address 02:00:00:00:00:77",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/conf/out0/forwarding",
])
def test_routes_the_gateway_taps_and_forwarding_come_back(host, change):
    guest = host.guest()
    guest.ns.listen(80, hello("x"))
    host.outside.listen(80, hello("outside"))
    host.settle()
    repairs = host.counts()["repairs"]
    if change.startswith("/"):
        host.ns.write(change, "1")
        host.ns.write(change, "0")
    else:
        host.ns.run(change.replace("TAP", guest.tap))
    until_repaired(host, repairs)
    assert fetch(host.ns, guest.address) == "x"
    assert fetch(guest.ns, OUTSIDE) == "outside"
    assert GATEWAY in host.ns.run("ip addr show lo")


def test_a_ready_tap_that_somebody_removed_is_nobodys_and_another_is_made(host):
    host.settle()
    for tap in host.taps():
        host.ns.run(f"ip link del {tap}")
        host.until_said(f"somebody removed {tap};")
    host.settle()
    assert host.counts()["ready"] == 4 == len(host.taps())
    guests = [host.guest() for _ in range(5)]
    for guest in guests:
        guest.ns.listen(80, hello(guest.tap))
        assert fetch(host.ns, guest.address) == guest.tap
    assert "not made ready" not in host.said()


def test_the_tap_of_a_guest_that_somebody_removed_is_said_and_is_not_used_again(host):
    guest = host.guest()
    host.tell(f"rate {guest.tap} 1000000 1000000")
    host.settle()
    host.ns.run(f"ip link del {guest.tap}")
    host.until_said(f"somebody removed {guest.tap}; the guest at {guest.address} has no network")
    tap, address = guest.tap, guest.address
    host.ns.run("nft flush ruleset")  # what is put right leaves it out
    until_rules(host)
    assert "not all is in place" not in host.said()
    guest.end()
    host.settle()
    assert tap not in host.taps() and tap not in host.ns.run("nft list map ip hypeman outer")
    again = host.guest(address)
    again.ns.listen(80, hello("again"))
    assert fetch(host.ns, address) == "again"


def test_rules_that_cannot_be_written_now_are_written_when_they_can(host):
    """A table of our name that belongs to another process, which alone may change it."""
    guest = host.guest()
    guest.ns.listen(80, hello("x"))
    host.ns.listen(22, hello("host"))
    host.settle()
    owner = subprocess.Popen(host.ns.command("nft -i"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    with owner:
        owner.stdin.write("delete table ip hypeman; add table ip hypeman { flags owner; }\n")
        owner.stdin.flush()
        host.until_said("not all is in place")
        owner.stdin.close()
    until_rules(host)
    assert fetch(host.ns, guest.address) == "x"
    with pytest.raises(ConnectionRefusedError):
        guest.ns.connect((GATEWAY, 22), 5)


def test_guests_follow_the_default_route_to_another_uplink(bare):
    bare.ns.run("ip route del default")
    bare.start()
    bare.until_said("no default route")
    guest = bare.guest()
    bare.outside.listen(80, hello("outside"))
    with pytest.raises(OSError):
        guest.ns.connect((OUTSIDE, 80), 1)
    bare.ns.run("ip route add default via 198.51.100.2")
    bare.until_said("reach the outside by out0")
    bare.settle()
    assert fetch(guest.ns, OUTSIDE) == "outside"


def test_a_configured_uplink_may_come_later(bare):
    bare.start("uplink=vpn0")
    bare.until_said("there is no interface vpn0")
    bare.settle()
    guest = bare.guest()
    bare.outside.listen(80, hello("outside"))
    with pytest.raises(ConnectionRefusedError):
        guest.ns.connect((OUTSIDE, 80), 5)  # by out0, which it is not
    repairs = bare.counts()["repairs"]
    netns_link(bare.ns, "vpn0", "198.51.101.1/24", bare.router, "in1", "198.51.101.2/24")
    until_repaired(bare, repairs)
    bare.ns.run("ip route replace default via 198.51.101.2")
    assert fetch(guest.ns, OUTSIDE) == "outside"


@pytest.mark.parametrize("theirs,chain", [(DOCKER, "ip filter DOCKER-USER"), (FIREWALLD, "inet firewalld filter_FORWARD")])
def test_a_firewall_that_drops_is_named_with_the_command_that_opens_it(bare, theirs, chain):
    bare.ns.nft(theirs)
    bare.start()
    bare.until_said(f"nft 'insert rule {chain} iifname \"hm*\" counter accept")
    guest = bare.guest()
    bare.outside.listen(80, hello("outside"))
    with pytest.raises(OSError):
        guest.ns.connect((OUTSIDE, 80), 1)
    command = bare.said().split("run: ")[1].split("; or set")[0]
    bare.ns.run(["sh", "-c", command])
    bare.until_said("lets guests' packets pass now")
    assert fetch(guest.ns, OUTSIDE) == "outside"


def test_a_firewall_that_comes_later_is_noticed(host):
    host.ns.nft(DOCKER)
    host.until_said("insert rule ip filter DOCKER-USER")


@pytest.mark.parametrize("theirs", [DOCKER, FIREWALLD, DOCKER.replace(" jump DOCKER-USER", "").replace(" chain DOCKER-USER {\n  return\n }\n", "")])
def test_by_setting_a_firewall_is_opened_and_closed_again_at_the_end(bare, theirs):
    bare.ns.nft(theirs)
    before = bare.ns.run("nft list ruleset")
    bare.start("opens")
    guest, other = bare.guest(), bare.guest()
    bare.outside.listen(80, hello("outside"))
    other.ns.listen(80, hello("other"))
    assert fetch(guest.ns, OUTSIDE) == "outside"
    assert fetch(guest.ns, other.address) == "other"
    for one in (guest, other):
        one.end()
    assert bare.stop() == 0
    assert bare.ns.run("nft list ruleset") == before


def test_a_subnet_in_use_is_refused(bare):
    bare.ns.run("ip route add 10.96.0.0/12 via 198.51.100.2")
    with pytest.raises(AssertionError, match="network.subnet_cidr"):
        bare.start()
    bare.start("subnet=172.31.0.0/16")
    assert bare.guest().address.startswith("172.31.")


def test_two_daemons_do_not_share_a_namespace(host):
    second = Host()
    second.ns.close()
    second.ns = host.ns
    with pytest.raises(AssertionError, match="another hypeman"):
        second.start()
    second.ns = netns.Ns()
    second.close()


def test_a_kept_address_moves_to_another_tap(host):
    one = host.guest()
    one.ns.listen(80, hello("one"))
    assert fetch(host.ns, one.address) == "one"
    address = one.address
    one.end()
    again = host.guest(address)
    assert again.address == address
    again.ns.listen(80, hello("again"))
    assert fetch(host.ns, address) == "again"
    host.settle()
    assert host.ns.run("ip route").count(address + " ") == 1
    assert host.ns.run("ip neigh show nud permanent").count(address + " ") == 1


def test_what_waits_in_a_tap_is_not_for_the_next_guest(host):
    host.settle()
    host.tell("claim 1")
    address = [line for line in host.ns.run("ip -o route").splitlines() if line.startswith("10.100.")][0].split()[0]
    with host.ns.socket(socket.SOCK_DGRAM) as s:
        s.sendto(b"for its guest", (address, 9))
    assert host.tell("waiting") == ["1"]
    host.tell("release")
    host.settle()
    host.tell(f"claim {host.counts()['ready']}")
    assert host.tell("waiting") == ["0"]


def test_a_claim_makes_no_system_call(host):
    host.settle()
    host.tell(f"claim {host.counts()['ready']}")  # a system call there would end the program
    host.tell("release")
