# SPDX-License-Identifier: Apache-2.0
"""Forks: from the same moment on, each for itself."""
import hashlib
import re

import pytest

from harness import Background, until

# Counts in memory; every number goes to one file on the disk and to the console, with who it is.
COUNTS = """i=0; while :; do
    echo "count $i $(cat /proc/sys/kernel/hostname) $(cat /etc/machine-id)"; echo "$i" >> /disk; cat /proc/sys/kernel/hostname > /who; sync
    i=$((i+1)); sleep 0.3; done"""


def seen(api, name):
    """(number, host name, machine-id) of each line, as far as it is whole."""
    found = [re.fullmatch(r"count (\d+) (\S*) (\S*)", line) for line in api.logs(name, tail=500)]
    return [(int(m[1]), m[2], m[3]) for m in found if m]


def counting(api, name):
    api.create(COUNTS, name=name)
    api.wait(name, "Running")
    until("it counts", lambda: len(seen(api, name)) >= 3, 20)


def goes_on(api, name, since):
    until(f"{name} goes on", lambda: len(seen(api, name)) > 2 and seen(api, name)[-1][0] > since + 2, 30)


@pytest.mark.core
def test_three_forks_of_a_running_vm_go_on_apart(daemon):
    api = daemon.api
    counting(api, "source")
    names = ["one", "two", "three"]
    for name in names:
        made = api.post("/instances/source/fork", {"name": name, "from_running": True})
        assert made["state"] == "Running" and made["name"] == name
    assert api.get("/instances/source")["state"] == "Running"
    since = seen(api, "source")[-1][0]
    for name in ["source", *names]:
        goes_on(api, name, since)
    for name in names:
        lines = seen(api, name)
        numbers = [n for n, _, _ in lines]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "it goes on from one number"
        assert numbers[0] > 0, "and not from the beginning"
    identities = {seen(api, name)[-1][2] for name in ["source", *names]}
    assert len(identities) == 4, "each has a machine-id of its own"
    for name in ["source", "one"]:  # the others live on without them
        api.delete(f"/instances/{name}", graceful_shutdown=False)
    since = seen(api, "two")[-1][0]
    goes_on(api, "two", since)


@pytest.mark.core
def test_forks_of_a_sleeping_vm_load_side_by_side_and_change_nothing_of_it(daemon):
    api = daemon.api
    counting(api, "golden")
    asleep = api.post("/instances/golden/standby")
    memory = daemon.data / "instances" / asleep["id"] / "snapshot" / "memory"
    before = hashlib.sha256(memory.read_bytes()).hexdigest()
    names = [f"fork-{n}" for n in range(4)]
    forks = [Background(api.post, "/instances/golden/fork", {"name": name, "target_state": "Running"}) for name in names]
    for fork in forks:
        assert fork.result(60)["state"] == "Running"
    for name in names:
        goes_on(api, name, seen(api, name)[0][0] if seen(api, name) else 0)
    again = api.post("/instances/fork-0/standby")  # a second generation
    assert again["state"] == "Standby"
    clone = api.post("/instances/fork-0/fork", {"name": "grandchild", "target_state": "Running"})
    assert clone["state"] == "Running"
    goes_on(api, "grandchild", 0)
    assert hashlib.sha256(memory.read_bytes()).hexdigest() == before, "a published memory file never changes"
    woken = api.post("/instances/golden/restore")
    assert woken["state"] == "Running"
    goes_on(api, "golden", seen(api, "golden")[-1][0])


def test_a_fork_that_stays_asleep_outlives_its_source(api):
    counting(api, "parent")
    api.post("/instances/parent/standby")
    child = api.post("/instances/parent/fork", {"name": "child"})
    assert child["state"] == "Standby" and child["has_snapshot"]
    api.delete("/instances/parent")
    assert api.post("/instances/child/restore")["state"] == "Running"
    goes_on(api, "child", 0)


def test_a_fork_of_a_stopped_vm_has_its_disk(api):
    api.create("[ -e /was-here ] && echo found; touch /was-here; sync", name="stopped")
    api.wait("stopped", "Stopped")
    made = api.post("/instances/stopped/fork", {"name": "copy"})
    assert made["state"] == "Stopped" and made["exit_code"] is None
    started = api.post("/instances/stopped/fork", {"name": "started", "target_state": "Running"})
    assert started["state"] in ("Initializing", "Running")
    api.wait("started", "Stopped")
    assert "found" in api.logs("started")
    api.post("/instances/copy/start", {})
    api.wait("copy", "Stopped")
    assert "found" in api.logs("copy")


def test_what_cannot_be_forked_is_refused_and_nothing_stays(daemon):
    api = daemon.api
    counting(api, "busy")
    api.fails(409, "invalid_state", "POST", "/instances/busy/fork", {"name": "no"})
    api.fails(409, "name_conflict", "POST", "/instances/busy/fork", {"name": "busy", "from_running": True})
    api.fails(400, None, "POST", "/instances/busy/fork", {"name": "No"})
    api.fails(400, None, "POST", "/instances/busy/fork", {"name": "no", "target_state": "Paused"})
    api.fails(400, None, "POST", "/instances/busy/fork", {})
    api.fails(404, "not_found", "POST", "/instances/nobody/fork", {"name": "no"})
    api.post("/instances/busy/stop")
    api.fails(409, "invalid_state", "POST", "/instances/busy/fork", {"name": "no", "target_state": "Standby"})
    assert [one["name"] for one in api.get("/instances")] == ["busy"]
    assert len(list((daemon.data / "instances").iterdir())) == 1
