# SPDX-License-Identifier: Apache-2.0
"""Sleep and wake: the guest goes on where it was, whatever happens to the daemon meanwhile."""
import json
import os
import re
import signal

import pytest

from harness import Background, until

COUNTS = "i=0; while :; do echo count $i; i=$((i+1)); sleep 0.2; done"


def last_count(api, name):
    counts = [int(m[1]) for m in (re.fullmatch(r"count (\d+)", line) for line in api.logs(name, tail=50)) if m]
    return counts[-1] if counts else -1


def counting(api, name, **more):
    made = api.create(COUNTS, name=name, **more)
    api.wait(name, "Running")
    until("it counts", lambda: last_count(api, name) >= 3, 20)
    return made["id"]


@pytest.mark.core
@pytest.mark.parametrize("hypervisor", ["qemu-microvm", "qemu"])
def test_it_sleeps_and_wakes_where_it_was(daemon, hypervisor):
    api = daemon.api
    key = counting(api, "sleeper", hypervisor=hypervisor)
    for _ in range(3):  # a second generation is saved from memory that is mapped from the first
        asleep = api.post("/instances/sleeper/standby")
        assert asleep["state"] == "Standby" and asleep["has_snapshot"] and asleep["current_phase"] == "standby"
        assert not daemon.vm_processes()
        before = last_count(api, "sleeper")
        awake = api.post("/instances/sleeper/restore")
        assert awake["state"] == "Running" and not awake["has_snapshot"] and awake["id"] == key
        until("it goes on", lambda: last_count(api, "sleeper") > before + 2, 20)
    everything = [line for line in api.logs("sleeper", tail=1000) if line.startswith("count ")]
    assert everything == [f"count {n}" for n in range(len(everything))], "a number is missing or came twice"
    stopped = api.post("/instances/sleeper/stop")
    assert stopped["exit_code"] == 143, "the guest's own report counts after a restore"


def test_what_does_not_fit_the_state_is_refused(api):
    key = counting(api, "states")
    api.fails(409, "invalid_state", "POST", f"/instances/{key}/restore")
    api.post(f"/instances/{key}/standby")
    api.fails(409, "invalid_state", "POST", f"/instances/{key}/standby")
    api.fails(409, "invalid_state", "POST", f"/instances/{key}/start", {})
    assert api.post(f"/instances/{key}/stop")["state"] == "Stopped"  # gives its memory up
    api.fails(409, "invalid_state", "POST", f"/instances/{key}/restore")
    assert api.post(f"/instances/{key}/start", {})["state"] == "Initializing"


@pytest.fixture(scope="module")
def sleeper(daemon):
    """One that sleeps, for the tests of what its snapshot was made with."""
    key = counting(daemon.api, "foreign")
    daemon.api.post(f"/instances/{key}/standby")
    daemon.mark(key)
    return key


@pytest.mark.parametrize("what,recorded,another", [
    ("build", r"^QEMU [^;]+", "QEMU 6.1.0 (Debian 1:6.1+dfsg-1)"),
    ("machine", r"(?<=; )microvm[^;]*", "q35,smm=off"),
    ("accelerator", r"(?<=; )(kvm|tcg)(?=;)", "hvf"),
    ("cpu model", r"(?<=; cpu )[^;]+", "EPYC-Milan"),
    ("firmware", r"(?<=; firmware ).+", "/elsewhere/qboot.rom"),
], ids=["build", "machine", "accelerator", "cpu-model", "firmware"])
def test_a_snapshot_made_with_another_one_is_refused_before_anything_is_started(daemon, sleeper, what, recorded, another):
    api, here = daemon.api, daemon.instance_dir(sleeper)
    made_by = here / "snapshot" / "made-by"
    original = made_by.read_text()
    doc = json.loads(original)
    identity, n = re.subn(recorded, another, doc["identity"])
    assert n == 1 and identity != doc["identity"], f"{what} is not in {doc['identity']}"
    before = (here / "vmm.log").stat(), sorted(os.listdir(here))
    made_by.write_text(json.dumps(doc | {"identity": identity}))
    try:
        for path, body in (("restore", None), ("fork", {"name": "no", "target_state": "Running"})):
            refusal = api.fails(409, "invalid_state", "POST", f"/instances/{sleeper}/{path}", body)
            assert another in refusal["message"] and "stop the instance" in refusal["message"], refusal
            assert not daemon.vm_processes()
        # A VMM that is started makes sockets and opens its log, and a fork that is refused leaves nothing.
        after = (here / "vmm.log").stat(), [one for one in sorted(os.listdir(here)) if one != "hypeman.log"]
        assert after == (before[0], [one for one in before[1] if one != "hypeman.log"])
        assert [one["id"] for one in api.get("/instances")] == [sleeper]
        assert [one.name for one in (daemon.data / "instances").iterdir()] == [sleeper]
    finally:
        made_by.write_text(original)


def test_a_snapshot_that_was_refused_is_none_the_worse(daemon, sleeper):
    before = last_count(daemon.api, sleeper)
    assert daemon.api.post(f"/instances/{sleeper}/restore")["state"] == "Running"
    until("it goes on", lambda: last_count(daemon.api, sleeper) > before + 2, 20)
    daemon.mark(sleeper)  # it runs now, which takes a few files


@pytest.mark.parametrize("verb", ["standby", "restore"])
@pytest.mark.parametrize("moment", range(5))
def test_a_daemon_killed_on_the_way_loses_nothing(own_daemon, verb, moment):
    d = own_daemon
    key = counting(d.api, "killed")
    here = d.data / "instances" / key
    if verb == "restore":
        d.api.post(f"/instances/{key}/standby")
    work = Background(d.api.post, f"/instances/{key}/{verb}")
    until("that moment", [
        lambda: True,
        lambda: work.error or work.value or (here / "snapshot.new").exists() or d.vm_processes(),
        lambda: work.error or work.value or (here / "snapshot.new/memory").exists() or (here / "api.sock").exists(),
        lambda: work.error or work.value or (here / "snapshot").exists() != (verb == "restore"),
        lambda: work.error or work.value,
    ][moment], 20)
    d.end(signal.SIGKILL)
    work.join(10)
    d.start()
    found = d.api.get(f"/instances/{key}")["state"]
    assert found in ("Running", "Standby"), f"{found} after a kill during {verb}"
    if work.value:
        assert found == {"standby": "Standby", "restore": "Running"}[verb], "what was acknowledged holds"
    if found == "Standby":
        assert not d.vm_processes()
        d.api.post(f"/instances/{key}/restore")
    before = last_count(d.api, key)
    until("it goes on", lambda: last_count(d.api, key) > before + 2, 20)


def test_a_vmm_that_is_killed_in_standby_is_stopped_and_leaves_no_snapshot(own_daemon):
    d = own_daemon
    key = counting(d.api, "lost")
    pid = d.vm_pid(key)
    os.kill(pid, signal.SIGSTOP)  # it answers nothing, so the standby waits
    work = Background(d.api.post, f"/instances/{key}/standby")
    until("the operation holds it", lambda: d.api.request("POST", f"/instances/{key}/start", {}).json()["code"] in ("busy", "invalid_state"), 10)
    os.kill(pid, signal.SIGKILL)
    work.join(20)
    assert work.error
    d.api.wait(key, "Stopped")
    assert not (d.data / "instances" / key / "snapshot").exists()
    assert not (d.data / "instances" / key / "snapshot.new").exists()
