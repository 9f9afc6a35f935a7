# SPDX-License-Identifier: Apache-2.0
"""A full disk is a clear error, leaves nothing half-made, and is over when there is room again."""
import os
import subprocess

import pytest

import conftest

ROOM = 64 << 20


@pytest.fixture
def small(tmp_path, rootfs):
    """A daemon whose data directory is a file system of 64 MiB."""
    data = tmp_path / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=0700", "none", data], check=True)
    try:
        yield from conftest._serve(tmp_path, rootfs, data)
    finally:
        subprocess.run(["umount", "-l", data], check=True)


def fill(data, leave):
    """Takes all room but a little."""
    path = data / "ballast"
    with path.open("wb") as ballast:
        free = os.statvfs(data)
        size = free.f_bavail * free.f_frsize - leave
        os.posix_fallocate(ballast.fileno(), 0, size)
    return path


@pytest.mark.parametrize("leave", [0, 64 << 10], ids=["nothing", "64K"])
def test_a_create_and_an_import_on_a_full_disk(small, rootfs, leave):
    d = small
    # What the daemon keeps beside VMs (its database's log) has its size after one of them.
    d.api.create("exit 0", name="before")
    d.api.wait("before", "Stopped")
    d.delete_all()
    big = rootfs.parent / f"big-{leave}"
    big.mkdir()
    (big / "random").write_bytes(os.urandom(4 << 20))

    ballast = fill(d.data, leave)
    refusal = d.api.fails(507, "insufficient_storage", "POST", "/instances",
                          {"name": "full", "image": "e2e", "size": "256MB", "overlay_size": "1GB"})
    assert refusal["message"]
    d.api.fails(507, "insufficient_storage", "POST", "/images/import", {"source": f"dir:{big}", "name": "big:1"})
    assert d.api.get("/instances") == []
    assert [one["name"] for one in d.api.get("/images")] == ["docker.io/library/e2e:latest"]
    assert d.leftovers() == []
    d.api.fails(404, "not_found", "GET", "/instances/full")

    ballast.unlink()
    d.api.create("exit 3", name="full")
    assert d.api.wait("full", "Stopped")["exit_code"] == 3


def test_a_running_vm_is_reported_and_deleted_on_a_full_disk(small):
    d = small
    d.api.run("trap 'exit 7' TERM; while :; do sleep 1 & wait $!; done", name="runs")
    ballast = fill(d.data, 0)
    assert d.api.get("/instances/runs")["state"] == "Running"
    answer = d.api.request("POST", "/instances/runs/stop")
    assert answer.status in (200, 507)
    answer = d.api.request("DELETE", "/instances/runs")
    assert answer.status in (204, 507)
    ballast.unlink()
    d.delete_all()
    assert d.api.get("/instances") == []
