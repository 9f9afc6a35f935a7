# SPDX-License-Identifier: Apache-2.0
"""Images whose command is an init: it is PID 1, and the agent serves beside it."""
import pytest

from guest_vm import EXITED, MAGIC, SHUTDOWN, STARTED, Guest, busybox_image, frame
from test_guest_boot import NETWORK
from test_guest_exec import execute, finish

SYSTEMD = b"""#!/bin/sh
# As far as the agent can tell: a PID 1 of that name, which runs the units of /run and reboots at SIGRTMIN+5.
echo "I am $$"
cat /run/systemd/system/sysinit.target.wants/hypeman-agent.service
exec 3</dev/null
serve() { $(sed -n 's/^ExecStart=//p' /run/systemd/system/hypeman-agent.service) & agent=$!; }
trap 'kill $agent; wait $agent; echo rebooting; sync; echo b > /proc/sysrq-trigger' 39
serve
while :; do kill -0 $agent || serve; sleep 1; done
"""


@pytest.fixture
def boot(tmp_path):
    guests = []

    def start(command, extra, **more):
        image = tmp_path / "image.sqfs"
        busybox_image(image, extra)
        guests.append(Guest(tmp_path / "vm", image, {"entrypoint": [], "cmd": command, **more}, net="network" in more))
        return guests[-1]

    yield start
    for guest in guests:
        guest.kill()


def test_systemd_gets_a_unit_and_stops_when_the_host_asks(boot):
    guest = boot(["/usr/lib/systemd/systemd"], [("usr/lib/systemd/systemd", 0o755, SYSTEMD)])
    channel = guest.reconnect()
    assert channel.expect(STARTED)["mode"] == "systemd"
    guest.wait_output("I am 1\n", "ExecStart=/run/hypeman/agent service\n")
    execute(channel, "sh", "-c", "echo $PPID; cat /proc/1/comm")
    assert finish(channel, 1).out.split()[1] == b"systemd"
    channel.send(frame(SHUTDOWN, {"grace_ms": 5000}))
    ended = channel.expect(EXITED)
    assert (ended["code"], ended["message"]) == (0, "asked to end by the host")
    assert guest.wait() == 0
    assert guest.record() == ended


NETWORKD = """[Match]
Name=eth0

[Network]
Address=192.0.0.2/29
Gateway=192.0.0.1
DNS=9.9.9.9
DNS=149.112.112.112
DHCP=no
LinkLocalAddressing=no
IPv6AcceptRA=no
KeepConfiguration=yes

[Neighbor]
Address=192.0.0.1
LinkLayerAddress=02:00:00:00:00:01
"""


def test_the_address_is_pinned_so_that_dhcp_does_not_take_it_away(boot):
    guest = boot(["/usr/lib/systemd/systemd"], [("usr/lib/systemd/systemd", 0o755, SYSTEMD)], network=NETWORK)
    channel = guest.reconnect()
    assert channel.expect(STARTED)["mode"] == "systemd"
    execute(channel, "cat", "/run/systemd/network/00-hypeman.network")
    assert finish(channel, 1).out.decode() == NETWORKD
    execute(channel, "cat", "/run/NetworkManager/conf.d/00-hypeman.conf", stream=3)
    assert b"unmanaged-devices+=interface-name:eth0" in finish(channel, 3).out
    channel.send(frame(SHUTDOWN, {"grace_ms": 5000}))
    assert guest.wait() == 0


def test_without_a_network_there_is_nothing_to_pin(boot):
    guest = boot(["/usr/lib/systemd/systemd"], [("usr/lib/systemd/systemd", 0o755, SYSTEMD)])
    channel = guest.reconnect()
    channel.expect(STARTED)
    execute(channel, "ls", "/run/systemd/network")
    assert finish(channel, 1).done["code"] != 0
    channel.send(frame(SHUTDOWN, {"grace_ms": 5000}))
    assert guest.wait() == 0


def test_another_init_has_the_agent_beside_it(boot):
    guest = boot(["/sbin/init"], [("sbin/init", None, "/bin/busybox"), ("etc/inittab", 0o644, b"::sysinit:/bin/echo here\n::wait:/bin/sleep 1\n")])
    channel = guest.reconnect()
    assert channel.expect(STARTED)["mode"] == "systemd"
    execute(channel, "cat", "/proc/1/comm")
    assert finish(channel, 1).out == b"init\n"
    guest.wait_output("here")  # from then on that init heeds signals
    channel.send(frame(SHUTDOWN, {"grace_ms": 5000}))
    assert guest.wait() == 0


def test_an_agent_that_was_killed_in_the_middle_of_a_frame_is_noticed_by_its_successor(boot):
    guest = boot(["/usr/lib/systemd/systemd"], [("usr/lib/systemd/systemd", 0o755, SYSTEMD)])
    channel = guest.reconnect()
    channel.expect(STARTED)
    execute(channel, "sh", "-c", "cat /dev/zero & sleep 1; kill -9 $PPID")
    junk = b""
    while MAGIC not in junk:  # no frame is read: whatever was cut, a greeting comes that answers none
        junk = junk[-64:] + channel.socket.recv(65536)
    channel.close()
    channel = guest.reconnect()
    assert channel.expect(STARTED)["mode"] == "systemd"
    channel.send(frame(SHUTDOWN, {"grace_ms": 5000}))
    assert guest.wait() == 0
