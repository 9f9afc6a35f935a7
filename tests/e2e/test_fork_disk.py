# SPDX-License-Identifier: Apache-2.0
"""A fork from Running on a file system that shares blocks and on one that does not: one moment of memory and disk."""
import json
import re
import subprocess

import pytest

import conftest
from harness import until

# The number goes to the disk, not only to a cache, and comes back from there: memory and disk are of one moment.
COUNTS = """dd if=/dev/urandom of=/ballast bs=1M count=24 2>/dev/null
i=0; while :; do
    i=$((i+1)); echo "$i $(cat /proc/sys/kernel/hostname)" >/number; sync; echo 3 >/proc/sys/vm/drop_caches
    [ "$(cut -d' ' -f1 /number)" = $i ] || echo "torn: $i, $(cat /number) on the disk"
    echo "count $i $(cut -d' ' -f2 /number)"; rm -f /given-back; dd if=/dev/zero of=/given-back bs=64k count=8 2>/dev/null
done"""


def loop_mount(kind, image, where):
    """None, or why there is no such mount."""
    with image.open("wb") as f:
        f.truncate(1 << 30)
    make = ["mkfs.xfs", "-q", "-m", "reflink=1"] if kind == "xfs" else ["mke2fs", "-q", "-t", "ext4"]
    subprocess.run([*make, str(image)], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(where)], capture_output=True, text=True)
    return mounted.stderr.strip() if mounted.returncode else None


@pytest.fixture(params=["xfs", "ext4"])
def looped(request, tmp_path, rootfs):
    """A daemon whose data directory is a file system of that kind."""
    data = tmp_path / "data"
    data.mkdir()
    reason = loop_mount(request.param, tmp_path / "image", data)
    if reason:
        pytest.skip(f"no loop device can be mounted here: {reason}")
    try:
        for daemon in conftest._serve(tmp_path, rootfs, data):
            yield request.param, daemon
    finally:
        subprocess.run(["umount", "-l", data], check=True)


def seen(api, name):
    found = [re.fullmatch(r"count (\d+) (\S*)", line) for line in api.logs(name, tail=500)]
    return [(int(m[1]), m[2]) for m in found if m]


def spans(api, name):
    """Of the newest operation of that name: (name, parent's name)."""
    _, response = api.open("GET", "/debug/traces")
    trace = next(one for one in json.loads(response.read()) if one["name"] == name)
    return {(s["name"], trace["spans"][s["parent"]]["name"] if s["parent"] >= 0 else None) for s in trace["spans"]}


def test_a_fork_from_running_has_memory_and_disk_of_one_moment(looped):
    kind, daemon = looped
    api = daemon.api
    api.create(COUNTS, name="source")
    until("it counts", lambda: len(seen(api, "source")) >= 2, 60)
    for name in ("one", "two"):
        assert api.post("/instances/source/fork", {"name": name, "from_running": True})["state"] == "Running"
        names = spans(api, "instances.fork.capture")
        ahead = {"xfs": "flush_disk", "ext4": "copy_disk_ahead"}[kind]
        assert (ahead, "instances.fork.capture") in names, "before the pause"
        assert {("save_devices", "source_paused"), ("save_memory", "source_paused"), ("clone_disks", "source_paused")} <= names
        assert not any(parent == "source_paused" and "sync" in child for child, parent in names), "the pause syncs nothing"
    for name in ("source", "one", "two"):
        since = seen(api, name)[-1][0] if seen(api, name) else 0
        until(f"{name} goes on", lambda: seen(api, name) and seen(api, name)[-1][0] > since + 3, 60)
        until(f"{name} has its own disk", lambda: seen(api, name)[-1][1] == name, 60)
        assert "torn" not in "\n".join(api.logs(name, tail=500))
    assert api.post("/instances/one/standby")["state"] == "Standby"
    assert api.post("/instances/one/restore")["state"] == "Running"
