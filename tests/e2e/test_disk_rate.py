# SPDX-License-Identifier: Apache-2.0
"""disk_io_bps: what a client asks for is what every VMM is told, at each start, and what its snapshots keep."""
import json
import pathlib
import signal

import pytest

import doubled
from doubled import fork

RATE = {"disk_io_bps": "10MB/s"}
BYTES = 10 << 20


def told_firecracker(daemon, instance):
    return {
        drive["drive_id"]: drive.get("rate_limiter")
        for drive in doubled.ask(daemon, instance, "/vm/config")["drives"].values()
    }


def told_cloud_hypervisor(daemon, instance):
    disks = doubled.ask(daemon, instance, "/api/v1/vm.info")["config"]["disks"]
    return {disk["id"]: disk.get("rate_limiter_config") for disk in disks}


def told_qemu(daemon, instance):
    words = pathlib.Path(f"/proc/{daemon.vm_pid(instance['id'])}/cmdline").read_text().split("\0")
    groups = [json.loads(word) for word in words if word.startswith('{"qom-type":"throttle-group"')]
    rates = {group["id"]: group["limits"]["bps-total"] for group in groups}
    told = {}
    for word in words:
        if "node-name=" in word:
            options = dict(option.split("=", 1) for option in word.split(","))
            told[options["node-name"]] = rates.get(options.get("throttle-group"))
    return told


BUCKET = {"bandwidth": {"size": BYTES // 10, "refill_time": 100}}


def check_that_it_is_limited_all_its_life(daemon, told, expected, **fields):
    """Its start, its sleep, a fork of that, the daemon's own death, and a start anew."""
    limited = {"rootfs": expected, "overlay": expected, "config": None}

    def check(instance):
        assert instance["disk_io_bps"] == "10.0 MB/s", instance
        assert told(daemon, instance) == limited

    check(daemon.api.run(name="vm", **fields, **RATE))
    free = daemon.api.run(name="free", **fields)
    assert "disk_io_bps" not in free and set(told(daemon, free).values()) == {None}
    daemon.api.delete("/instances/free")
    assert daemon.api.post("/instances/vm/standby")["disk_io_bps"] == "10.0 MB/s"
    check(fork(daemon, "vm", "other"))
    check(daemon.api.post("/instances/vm/restore"))
    daemon.restart(signal.SIGKILL)
    check(daemon.api.get("/instances/vm"))
    daemon.api.post("/instances/other/stop")
    daemon.api.post("/instances/other/start", {})
    check(daemon.api.wait("other", "Running"))
    daemon.delete_all()


@pytest.mark.parametrize("hypervisor, told", [("firecracker", told_firecracker), ("cloud-hypervisor", told_cloud_hypervisor)])
def test_a_double_is_told_the_rate_of_its_disks(tmp_path, rootfs, hypervisor, told):
    with doubled.serving(hypervisor, tmp_path, rootfs) as daemon:
        check_that_it_is_limited_all_its_life(daemon, told, BUCKET, hypervisor=hypervisor, size="64MB", overlay_size="16MB")


def test_a_real_qemu_takes_the_rate_of_its_disks(own_daemon):
    check_that_it_is_limited_all_its_life(own_daemon, told_qemu, BYTES)


def test_a_rate_of_zero_is_none(tmp_path, rootfs):
    with doubled.serving("firecracker", tmp_path, rootfs) as daemon:
        made = daemon.api.run(name="vm", size="64MB", overlay_size="16MB", disk_io_bps="0")
        assert "disk_io_bps" not in made and set(told_firecracker(daemon, made).values()) == {None}
        daemon.api.delete("/instances/vm")
