# SPDX-License-Identifier: Apache-2.0
"""A Firecracker opens its TAP by name, so for a moment nobody holds it; by the double, which does the same."""
import contextlib
import fcntl
import os
import re
import signal
import struct

import pytest

import doubled
import harness
from doubled import create, fork, memory_hash
from harness import Background, until

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


@pytest.fixture
def fc(tmp_path, rootfs):
    with doubled.serving("firecracker", tmp_path, rootfs) as daemon:
        yield daemon


def taps(daemon):
    """Of ours: whether each stays without a file."""
    found, text = {}, daemon.ns.run("ip -d -o link show")
    for line in text.splitlines():
        if named := re.match(r"\d+: (hm\d+):.*\bpersist (on|off)\b", line):
            found[named[1]] = named[2] == "on"
    return found


def left_alone(daemon):
    """The TAPs that are persistent now: those that are somebody's to open."""
    return [name for name, stays in taps(daemon).items() if stays]


def tap_of(daemon, instance):
    words = daemon.ns.run(f"ip -o route get {instance['network']['ip']}").split()
    return words[words.index("dev") + 1]


def opened_taps(daemon, instance):
    """What its process holds, by the kernel's word."""
    pid, found = daemon.vm_pid(instance["id"]), []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/{pid}/fd/{number}") == "/dev/net/tun":
                with open(f"/proc/{pid}/fdinfo/{number}") as info:
                    found += re.findall(r"^iff:\s*(\S+)$", info.read(), re.M)
    return found


def take_tap(daemon, name):
    """As a stranger with the rights to would."""

    def once():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        return fd

    return daemon.ns.inside(once)


@pytest.mark.core
def test_each_has_its_own_tap_which_ends_with_it_and_the_address_stays(fc):
    made = create(fc)
    address = made["network"]["ip"]
    assert address and made["network"]["enabled"]
    assert opened_taps(fc, made) == [tap_of(fc, made)]
    fc.api.post("/instances/vm/standby")
    other = fork(fc, "vm", "other")
    woken = fc.api.post("/instances/vm/restore")
    assert woken["network"]["ip"] == address != other["network"]["ip"]
    for one in (woken, other):
        assert opened_taps(fc, one) == [tap_of(fc, one)]
    assert tap_of(fc, woken) != tap_of(fc, other)
    assert not left_alone(fc), "they last as long as their files"
    fc.delete_all()


def test_a_tap_serves_one_after_the_other(fc):
    create(fc)
    until("the pool is filled", lambda: len(taps(fc)) > 1)
    seen = set()
    for _ in range(len(taps(fc)) * 2 + 4):
        fc.api.post("/instances/vm/standby")
        woken = fc.api.post("/instances/vm/restore")
        assert opened_taps(fc, woken) == [tap_of(fc, woken)]
        if tap_of(fc, woken) in seen:
            break
        seen.add(tap_of(fc, woken))
    else:
        raise AssertionError("no TAP was used again")
    assert not left_alone(fc)
    fc.api.delete("/instances/vm")


def test_a_tap_that_is_refused_leaves_the_instance_asleep_and_says_why(fc):
    made = create(fc)
    fc.api.post("/instances/vm/standby")
    before = memory_hash(fc, made)
    fc.faults.write_text("slow-bind 1500\n")
    waking = Background(fc.api.request, "POST", "/instances/vm/restore")
    name = until("its TAP is left to it", lambda: left_alone(fc))[0]
    stranger = take_tap(fc, name)
    refused = waking.result()
    assert refused.status == 500 and "Open tap device failed" in refused.json()["message"], refused
    assert fc.api.get("/instances/vm")["state"] == "Standby" and not fc.vm_processes()
    assert memory_hash(fc, made) == before
    os.close(stranger)
    fc.faults.write_text("")
    assert fc.api.post("/instances/vm/restore")["state"] == "Running"
    until("nothing is left of it", lambda: not left_alone(fc))
    fc.api.delete("/instances/vm")


@pytest.mark.parametrize("faults", ["slow-bind 1500\n", "park 1500 PUT /snapshot/load\n", "park 1500 PUT /actions\n"], ids=["before", "in the load", "at boot"])
def test_a_daemon_that_dies_while_a_tap_is_left_to_a_vmm_leaves_none_behind(fc, faults):
    boots = "actions" in faults
    create(fc)
    fc.api.post("/instances/vm/stop" if boots else "/instances/vm/standby")
    fc.faults.write_text(faults)
    waking = Background(fc.api.request, "POST", "/instances/vm/" + ("start" if boots else "restore"))
    until("its TAP is left to it", lambda: left_alone(fc))
    fc.restart(signal.SIGKILL)
    with contextlib.suppress(Exception):
        waking.result()
    fc.faults.write_text("")
    until("none is there without a file", lambda: not left_alone(fc))
    row = fc.api.get("/instances/vm")
    if row["state"] == "Running":
        assert opened_taps(fc, row) == [tap_of(fc, row)]
    else:
        assert not fc.vm_processes()
    fc.api.delete("/instances/vm")
    assert not left_alone(fc)


def test_many_at_once_each_get_theirs(fc):
    create(fc, "source")
    fc.api.post("/instances/source/standby")
    made = [one.result() for one in [Background(fork, fc, "source", f"f{n}") for n in range(24)]]
    held = [opened_taps(fc, one) for one in made]
    assert all(len(one) == 1 for one in held) and len({one[0] for one in held}) == 24
    assert not left_alone(fc)
    fc.delete_all()
    assert not left_alone(fc)


def test_it_is_a_network_like_the_others(fc):
    """Ports lead to it, and it is counted."""
    made = fc.api.run(name="vm", hypervisor="firecracker", size="64MB", overlay_size="16MB", network={"enabled": True, "bandwidth_download": "1MB/s"})
    limits = fc.ns.run(f"tc qdisc show dev {tap_of(fc, made)}")
    assert "tbf" in limits or "htb" in limits or "cake" in limits, limits
    assert fc.api.get("/instances/vm/stats")["network_rx_bytes"] >= 0
    fc.api.post("/instances/vm/standby")
    woken = fc.api.post("/instances/vm/restore")
    assert fc.ns.run(f"tc qdisc show dev {tap_of(fc, woken)}").split()[1] == limits.split()[1]
    fc.api.delete("/instances/vm")
