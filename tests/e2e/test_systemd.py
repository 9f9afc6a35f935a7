# SPDX-License-Identifier: Apache-2.0
"""
Debian with its systemd as a guest: "make test-systemd".

Not in the suite: the image takes minutes to make out of Debian's packages (once; it is kept below the build
directory), and systemd a minute to come up where guests are translated. The same is asked of an init of a few
lines in test_guest_init.py.
"""
import json
import os
import shutil
import subprocess

import pytest

from harness import BUILD, IMAGE, Daemon, until
from sockets import execute

pytestmark = pytest.mark.skipif("HYPEMAN_SYSTEMD" not in os.environ, reason="make test-systemd")
BOOT = 600  # seconds
PACKAGES = "systemd-sysv,dbus,iproute2,udev"


@pytest.fixture(scope="module")
def rootfs():
    """Debian's smallest with systemd and what its network needs, from where this host gets its packages."""
    kept = BUILD / "guest/systemd-rootfs"
    if not kept.exists():
        half = kept.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", half], check=True)
        half.rename(kept)
    return kept


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, rootfs):
    """One that gives a stop the time that a whole system takes here."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), settings={"INSTANCES__STOP_TIMEOUT": "2m"})
    try:
        daemon.start()
        daemon.import_image(rootfs)
        yield daemon
        daemon.stop()
    finally:
        daemon.kill_all()


@pytest.fixture(autouse=True)
def nothing_is_left():
    """The guest is one for all of these."""


@pytest.fixture(scope="module")
def guest(daemon):
    made = daemon.api.post("/instances", {"image": IMAGE, "name": "debian", "size": "512MB", "overlay_size": "512MB",
                                          "vcpus": 1, "cmd": ["/sbin/init"]})
    daemon.api.wait("debian", "Running")
    until("systemd is up", lambda: sh(daemon, "systemctl is-system-running --wait").output.strip() in (b"running", b"degraded"), BOOT)
    return made


def sh(daemon, script, **more):
    return execute(daemon, "debian", ["/bin/sh", "-c", script], seconds=BOOT, **more)


def said(daemon, script):
    done = sh(daemon, script)
    assert done.code == 0, done
    return done.output.decode()


def test_systemd_is_the_first_process_and_the_agent_its_service(daemon, guest):
    assert said(daemon, "cat /proc/1/comm") == "systemd\n"
    assert said(daemon, "systemctl is-active hypeman-agent") == "active\n"
    assert "/hypeman-agent.service" in said(daemon, "cat /proc/$(systemctl show -P MainPID hypeman-agent)/cgroup")
    assert said(daemon, "systemctl --failed --plain --no-legend") == ""


def test_the_address_is_kept_whatever_manages_the_network(daemon, guest):
    before = json.loads(said(daemon, "ip -json address show eth0; "))[0]["addr_info"]
    assert [one["local"] for one in before if one["family"] == "inet"] == ["192.0.0.2"]
    said(daemon, "printf '[Match]\\nName=e*\\n[Network]\\nDHCP=yes\\n' > /etc/systemd/network/80-dhcp.network; "
                 "systemctl restart systemd-networkd; networkctl reload; networkctl reconfigure eth0 || :; sleep 3")
    assert "00-hypeman.network" in said(daemon, "networkctl status eth0")
    after = json.loads(said(daemon, "ip -json address show eth0"))[0]["addr_info"]
    assert [one["local"] for one in after if one["family"] == "inet"] == ["192.0.0.2"]
    assert "default via 192.0.0.1" in said(daemon, "ip route")


def test_an_agent_that_is_killed_is_started_again(daemon, guest):
    pid = said(daemon, "systemctl show -P MainPID hypeman-agent")
    sh(daemon, f"kill -9 {pid}")
    until("it serves again", lambda: sh(daemon, "true").code == 0)
    assert said(daemon, "systemctl show -P MainPID hypeman-agent") != pid
    assert daemon.api.get("/instances/debian")["state"] == "Running"


def test_it_sleeps_and_wakes_with_its_services(daemon, guest):
    daemon.api.post("/instances/debian/standby")
    daemon.api.post("/instances/debian/restore")
    daemon.api.wait("debian", "Running")
    assert said(daemon, "systemctl is-active hypeman-agent") == "active\n"


def test_a_stop_is_a_shutdown_of_its_own_and_the_exit_is_kept(daemon, guest):
    said(daemon, "printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/true\\nExecStop=/bin/touch /root/stopped\\n' "
                 "> /run/systemd/system/witness.service; systemctl daemon-reload; systemctl start witness")
    daemon.api.request("POST", "/instances/debian/stop", timeout=BOOT)
    ended = daemon.api.wait("debian", "Stopped")
    assert (ended["exit_code"], ended["exit_message"]) == (0, "asked to end by the host"), ended
    daemon.restart()
    assert daemon.api.get("/instances/debian")["exit_code"] == 0
    daemon.api.post("/instances/debian/start")
    daemon.api.wait("debian", "Running")
    assert said(daemon, "ls /root/stopped") == "/root/stopped\n"
