# SPDX-License-Identifier: Apache-2.0
"""guest.identity: before-run: no program of a fork runs before the fork knows who it is."""
import subprocess

import pytest

import conftest
from harness import until
from test_disk_full import fill

# Says who it is as often as it can, from memory and without another process.
NAMES = """n=0; while read name </proc/sys/kernel/hostname; do
    i=0; while [ $i -lt 200 ]; do i=$((i+1)); done
    n=$((n+1)); echo "$n $name"; done"""


@pytest.fixture
def before_run(monkeypatch, tmp_path, rootfs):
    """A daemon with that setting, on a file system of 256 MiB."""
    monkeypatch.setenv("GUEST__IDENTITY", "before-run")
    data = tmp_path / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m,mode=0700", "none", data], check=True)
    try:
        yield from conftest._serve(tmp_path, rootfs, data)
    finally:
        subprocess.run(["umount", "-l", data], check=True)


def seen(api, name):
    """(number, name) of each whole line."""
    lines = [line.split() for line in api.logs(name, tail=1000)]
    return [(int(line[0]), line[1]) for line in lines if len(line) == 2 and line[0].isdigit()]


def goes_on(api, name):
    since = seen(api, name)[-1][0] if seen(api, name) else 0
    until(f"{name} goes on", lambda: seen(api, name) and seen(api, name)[-1][0] > since + 2)


def test_no_program_of_a_fork_runs_under_the_sources_name(before_run):
    api = before_run.api
    api.create(NAMES, name="source")
    until("it counts", lambda: len(seen(api, "source")) >= 3)
    for name in ("awake-1", "awake-2"):
        api.post("/instances/source/fork", {"name": name, "from_running": True})
        goes_on(api, name)
        goes_on(api, "source")
    api.post("/instances/source/standby")
    for name in ("asleep-1", "asleep-2"):
        api.post("/instances/source/fork", {"name": name, "target_state": "Running"})
        goes_on(api, name)
    api.post("/instances/source/restore")
    goes_on(api, "source")
    for name in ("awake-1", "awake-2", "asleep-1", "asleep-2"):
        # The first line may hold what was read before the snapshot; nothing has been read since under another name.
        assert {who for _, who in seen(api, name)[1:]} == {name}


def test_a_workload_that_was_frozen_for_nothing_goes_on(before_run):
    api = before_run.api
    api.create(NAMES, name="stays")
    until("it counts", lambda: len(seen(api, "stays")) >= 3)
    ballast = fill(before_run.data, 1 << 20)
    api.fails(507, "insufficient_storage", "POST", "/instances/stays/standby")
    api.fails(507, "insufficient_storage", "POST", "/instances/stays/fork", {"name": "none", "from_running": True})
    ballast.unlink()
    assert api.get("/instances/stays")["state"] == "Running"
    goes_on(api, "stays")
