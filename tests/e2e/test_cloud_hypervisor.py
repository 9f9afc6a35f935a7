# SPDX-License-Identifier: Apache-2.0
"""Cloud Hypervisor by its double, which answers nobody while it is busy: what the daemon makes of it."""
import contextlib
import ctypes
import json
import os
import pathlib
import re
import signal

import pytest

import doubled
from doubled import (
    SPOILERS,
    check_that_a_deaf_guest_is_pressed_and_then_killed,
    check_that_a_spoilt_snapshot_is_refused_and_kept,
    counts,
    create,
    fork,
    memory_hash,
    name_on_disk,
    traces,
)
from harness import Api, Background, until, wait_gone
from sockets import execute


def serving(*args, **settings):
    return doubled.serving("cloud-hypervisor", *args, **settings)


@pytest.fixture
def ch(tmp_path, rootfs):
    with serving(tmp_path, rootfs) as daemon:
        yield daemon


def tell(daemon, instance, request):
    """Over the double's own socket."""
    here = os.open(daemon.instance_dir(instance["id"]), os.O_RDONLY)
    try:
        assert Api(f"/proc/self/fd/{here}/api.sock").open("PUT", request)[1].status == 204
    finally:
        os.close(here)


@pytest.mark.core
def test_it_starts_sleeps_wakes_and_ends(ch):
    made = create(ch)
    assert made["state"] == "Running" and made["hypervisor"] == "cloud-hypervisor"
    until("its disk is written to", lambda: name_on_disk(ch, made) == "vm")
    assert ch.api.post("/instances/vm/standby")["state"] == "Standby" and not ch.vm_processes()
    assert ch.api.post("/instances/vm/restore")["state"] == "Running"
    until("the load was asked for, and by the monitor how it is", lambda: counts(ch, made)["requests"] == 2)
    told = counts(ch, made)
    assert (told["loads"], told["resumes"], told["boots"]) == (1, 1, 0)
    assert ch.api.post("/instances/vm/standby")["state"] == "Standby", "a clone's memory is its own to write"
    assert ch.api.post("/instances/vm/restore")["state"] == "Running"
    stopped = ch.api.post("/instances/vm/stop")
    assert stopped["state"] == "Stopped" and stopped["exit_code"] == 0, "its agent was told, and powered the machine off"
    ch.api.delete("/instances/vm")


def test_an_old_version_is_resumed_apart_and_once(tmp_path, rootfs):
    with serving(tmp_path, rootfs, HYPEMAN_DOUBLE_VERSION="48.0.0") as ch:
        made = create(ch)
        ch.api.post("/instances/vm/standby")
        assert ch.api.post("/instances/vm/restore")["state"] == "Running"
        assert counts(ch, made)["resumes"] == 1
        assert "resume_vm" in [s["name"] for s in traces(ch)[0]["spans"]]
        ch.api.delete("/instances/vm")


def test_sixteen_forks_at_once_each_with_its_own_disk(ch):
    source = create(ch, "source")
    ch.api.post("/instances/source/standby")
    before = memory_hash(ch, source)
    forks = [Background(fork, ch, "source", f"fork-{n}") for n in range(16)]
    for one in [one.result(120) for one in forks]:
        assert one["state"] == "Running"
        until("its disk is its own", lambda one=one: name_on_disk(ch, one) == one["name"])
        pid = ch.vm_pid(one["id"])
        opened = {os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
        assert str(ch.instance_dir(one["id"]) / "overlay.raw") in opened
        until("what it was loaded from is gone", lambda one=one: not (ch.instance_dir(one["id"]) / "snapshot").exists())
    assert ch.api.post("/instances/fork-0/standby")["state"] == "Standby"
    assert memory_hash(ch, source) == before
    ch.delete_all()


def test_forks_of_a_running_one_leave_it_running(ch):
    source = create(ch, "source")
    made = ch.api.post("/instances/source/fork", {"name": "one", "from_running": True})
    assert made["state"] == "Running" and ch.api.get("/instances/source")["state"] == "Running"
    told = counts(ch, source)
    assert (told["pauses"], told["resumes"], told["saves"]) == (1, 1, 1), told
    assert ch.api.post("/instances/source/stop")["exit_code"] == 0, "its agent is connected again after the snapshot"
    ch.delete_all()


def taps(daemon, instance):
    """Those that its VMM has, by name."""
    where = pathlib.Path(f"/proc/{daemon.vm_pid(instance['id'])}/fdinfo")
    return re.findall(r"^iff:\t(\S+)", "\n".join(one.read_text() for one in where.iterdir()), re.M)


def test_each_has_a_tap_that_came_with_the_request_and_keeps_it_when_the_daemon_is_another(ch):
    source = create(ch, "source")
    ch.api.post("/instances/source/standby")
    ch.api.post("/instances/source/restore")
    ch.api.post("/instances/source/standby")
    forks = [fork(ch, "source", f"fork-{n}") for n in range(2)]
    seen = [taps(ch, one) for one in forks]
    assert all(len(one) == 1 for one in seen) and seen[0] != seen[1], seen
    assert len({one["network"]["ip"] for one in [source, *forks]} - {None}) == 3
    ch.restart(signal.SIGKILL)
    assert "has no TAP" not in ch.log_text()
    assert [taps(ch, one) for one in forks] == seen
    assert ch.api.get("/instances/fork-0/stats")["network_tx_bytes"] == 0
    ch.delete_all()


def config_of(daemon, instance):
    """As its VMM tells it."""
    here = os.open(daemon.instance_dir(instance["id"]), os.O_RDONLY)
    try:
        answer = Api(f"/proc/self/fd/{here}/api.sock").open("GET", "/api/v1/vm.info")
        return json.loads(answer[1].read())["config"]
    finally:
        answer[0].close()
        os.close(here)


def test_it_is_made_with_room_for_the_memory_that_may_be_added(ch):
    made = ch.api.run(name="vm", hypervisor="cloud-hypervisor", size="64MB", overlay_size="16MB", hotplug_size="200MB")
    for _ in range(2):
        assert config_of(ch, made)["memory"]["zones"][0]["hotplug_size"] == 256 << 20, "in pieces of 128 MiB"
        ch.api.post("/instances/vm/standby")
        assert ch.api.post("/instances/vm/restore")["state"] == "Running"
    features = {one["name"]: one["features"] for one in ch.api.get("/capabilities")["runtimes"]}
    assert {"hotplug-memory", "balloon-control"} <= set(features["cloud-hypervisor"])
    assert "hotplug-memory" not in features["qemu"] and "balloon-control" in features["firecracker"]
    ch.delete_all()


def test_it_is_found_again_by_a_daemon_that_did_not_start_it(ch):
    made = create(ch)
    ch.restart(signal.SIGKILL)
    assert ch.api.get("/instances/vm")["state"] == "Running"
    assert ch.api.post("/instances/vm/standby")["state"] == "Standby"
    assert ch.api.post("/instances/vm/restore")["state"] == "Running"
    assert counts(ch, made)["loads"] == 1
    ch.api.delete("/instances/vm")


@pytest.mark.parametrize("moment", ["park 400 PUT /api/v1/vm.restore\n", ""])
def test_the_daemon_dies_in_the_middle_of_a_restore(ch, moment):
    made = create(ch)
    ch.api.post("/instances/vm/standby")
    ch.faults.write_text(moment)
    waking = Background(ch.api.request, "POST", "/instances/vm/restore")
    until("it is under way", lambda: ch.vm_processes())
    ch.restart(signal.SIGKILL)
    with contextlib.suppress(Exception):
        waking.result()
    ch.faults.write_text("")
    if ch.api.get("/instances/vm")["state"] == "Standby":
        assert ch.api.post("/instances/vm/restore")["state"] == "Running"
    assert ch.api.get("/instances/vm")["state"] == "Running"
    told = counts(ch, made)
    assert (told["loads"], told["resumes"]) == (1, 1), "never twice, and never left paused"
    ch.api.delete("/instances/vm")


@pytest.mark.parametrize(
    "faults, words",
    [
        ("refuse 0 PUT /api/v1/vm.restore\n", "The double was told to refuse this."),
        ("half 0 PUT /api/v1/vm.restore\n", "ended with status 1"),
        ("garbage 0 PUT /api/v1/vm.restore\n", "vm.restore"),
    ],
)
def test_a_restore_that_fails_says_why_and_the_instance_sleeps_on(ch, faults, words):
    made = create(ch)
    ch.api.post("/instances/vm/standby")
    before = memory_hash(ch, made)
    ch.faults.write_text(faults)
    refused = ch.api.request("POST", "/instances/vm/restore")
    assert refused.status == 500 and words in refused.json()["message"], refused
    assert ch.api.get("/instances/vm")["state"] == "Standby" and not ch.vm_processes()
    assert memory_hash(ch, made) == before
    ch.faults.write_text("")
    assert ch.api.post("/instances/vm/restore")["state"] == "Running"
    ch.api.delete("/instances/vm")


@pytest.mark.parametrize("spoil, words", zip(SPOILERS, ["bytes of memory", "answered PUT vm.restore with 500: ", "o such file"]))
def test_a_snapshot_that_is_spoilt_is_refused_and_kept(ch, spoil, words):
    check_that_a_spoilt_snapshot_is_refused_and_kept(ch, spoil, words)


def test_pauses_that_somebody_else_makes_are_seen(ch):
    made = create(ch)
    tell(ch, made, "/api/v1/vm.pause")
    until("it is seen", lambda: ch.api.get("/instances/vm")["state"] == "Paused")
    tell(ch, made, "/api/v1/vm.resume")
    until("it is seen", lambda: ch.api.get("/instances/vm")["state"] == "Running")
    ch.restart(signal.SIGKILL)
    tell(ch, made, "/api/v1/vm.pause")
    until("it is seen by the next daemon", lambda: ch.api.get("/instances/vm")["state"] == "Paused")
    ch.api.delete("/instances/vm")


def test_events_that_are_cut_or_garbled_are_left_out(ch):
    made = create(ch)
    with (ch.instance_dir(made["id"]) / "events.json").open("a") as f:
        f.write('{\n  "timestamp": {\n    "secs": 0,\x00\xff no event at all\n\n{"event": 7}\n\n')
    tell(ch, made, "/api/v1/vm.pause")
    until("what follows is seen", lambda: ch.api.get("/instances/vm")["state"] == "Paused")
    ch.api.delete("/instances/vm")


def half_made(daemon, instance):
    return [name for name in ("save", "snapshot", "snapshot.new") if (daemon.instance_dir(instance["id"]) / name).exists()]


@pytest.fixture
def hasty(tmp_path, rootfs):
    with serving(tmp_path, rootfs, HYPERVISOR__SNAPSHOT_TIMEOUT="500ms") as daemon:
        yield daemon


@pytest.mark.core
def test_a_snapshot_that_outlives_its_deadline_is_given_up_and_the_vm_runs_on(hasty):
    made = create(hasty)
    pid = hasty.vm_pid(made["id"])
    hasty.faults.write_text("park 3000 PUT /api/v1/vm.snapshot\n")
    late = hasty.api.request("POST", "/instances/vm/standby")
    assert late.status == 504 and "deadline" in late.json()["message"], late
    assert half_made(hasty, made), "the VMM is still at it"
    busy = hasty.api.request("POST", "/instances/vm/standby")
    assert busy.status == 409 and "under way" in busy.json()["message"], "the row is held"
    assert hasty.api.get("/instances/vm")["state"] == "Running"
    hasty.faults.write_text("")
    until("it has given it up", lambda: not half_made(hasty, made))
    until("it was let run on", lambda: counts(hasty, made)["resumes"] == 1)
    assert hasty.vm_pid(made["id"]) == pid, "its VMM was not ended for it"
    until("the row is free", lambda: hasty.api.request("POST", "/instances/vm/standby").status == 200)
    assert hasty.api.post("/instances/vm/restore")["state"] == "Running"
    assert hasty.vm_pid(made["id"]) != pid
    hasty.api.delete("/instances/vm")


def test_a_delete_preempts_a_snapshot_that_outlives_its_deadline(hasty):
    made = create(hasty)
    hasty.faults.write_text("park 60000 PUT /api/v1/vm.snapshot\n")
    assert hasty.api.request("POST", "/instances/vm/standby").status == 504
    hasty.api.delete("/instances/vm")
    assert not hasty.instance_dir(made["id"]).exists() and not hasty.vm_processes()


def park(daemon, instance, ms):
    """In a snapshot that takes so long; the request for it."""
    daemon.faults.write_text(f"park {ms} PUT /api/v1/vm.snapshot\n")
    asked = Background(daemon.api.request, "POST", f"/instances/{instance['name']}/standby")
    until("it is in its snapshot", lambda: (daemon.instance_dir(instance["id"]) / "save").exists())
    return asked


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_that_ends_in_a_parked_snapshot_leaves_a_vm_that_runs_on_and_no_half_files(ch, number):
    made = create(ch)
    asked = park(ch, made, 9000)
    ch.restart(number)
    with contextlib.suppress(Exception):
        asked.result()
    assert half_made(ch, made), "the VMM is still at it"
    assert ch.api.get("/instances/vm")["state"] == "Running"
    busy = ch.api.request("POST", "/instances/vm/standby")
    assert busy.status == 409 and "recovery" in busy.json()["message"], "the row is held"
    until("nothing is half made any more", lambda: not half_made(ch, made))
    until("it runs", lambda: ch.api.get("/instances/vm", fresh=True)["state"] == "Running")
    assert counts(ch, made)["resumes"] == 1
    ch.faults.write_text("")
    assert ch.api.post("/instances/vm/standby")["state"] == "Standby"
    assert ch.api.post("/instances/vm/restore")["state"] == "Running"
    ch.api.delete("/instances/vm")


def test_a_delete_preempts_the_recovery_from_a_parked_snapshot(ch):
    made = create(ch)
    park(ch, made, 60000)
    ch.restart(signal.SIGKILL)
    ch.api.delete("/instances/vm")
    assert not ch.instance_dir(made["id"]).exists() and not ch.vm_processes()


def test_a_host_that_ends_in_a_snapshot_leaves_no_half_files(ch):
    made = create(ch)
    park(ch, made, 60000)
    pid = ch.vm_pid(made["id"])
    ch.end(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    ch.start()
    assert ch.api.get("/instances/vm")["state"] == "Stopped" and not half_made(ch, made)
    ch.api.delete("/instances/vm")


def test_a_daemon_that_ends_in_a_parked_capture_leaves_the_source_running(ch):
    made = create(ch)
    ch.faults.write_text("park 9000 PUT /api/v1/vm.snapshot\n")
    asked = Background(ch.api.request, "POST", "/instances/vm/fork", {"name": "other", "from_running": True})
    until("it is in its snapshot", lambda: (ch.instance_dir(made["id"]) / "save").exists())
    ch.restart(signal.SIGTERM)
    with contextlib.suppress(Exception):
        asked.result()
    until("nothing is half made any more", lambda: not half_made(ch, made))
    until("it runs", lambda: ch.api.get("/instances/vm", fresh=True)["state"] == "Running")
    assert [p.name for p in (ch.data / "instances").iterdir()] == [made["id"]]
    ch.faults.write_text("")
    ch.api.delete("/instances/vm")


def test_a_fork_whose_capture_outlives_its_deadline_leaves_the_source_running(hasty):
    made = create(hasty)
    hasty.faults.write_text("park 3000 PUT /api/v1/vm.snapshot\n")
    late = hasty.api.request("POST", "/instances/vm/fork", {"name": "other", "from_running": True})
    assert late.status == 504, late
    assert [one["name"] for one in hasty.api.get("/instances")] == ["vm"]
    hasty.faults.write_text("")
    until("it was let run on", lambda: counts(hasty, made)["resumes"] == 1)
    until("the row is free", lambda: hasty.api.request("POST", "/instances/vm/standby").status == 200)
    assert [p.name for p in (hasty.data / "instances").iterdir()] == [made["id"]]
    hasty.api.delete("/instances/vm")


def test_twenty_that_are_parked_in_a_snapshot_keep_nobody_waiting(ch):
    create(ch, "free")
    parked = [create(ch, f"parked-{n}") for n in range(20)]
    ch.faults.write_text("park 6000 PUT /api/v1/vm.snapshot\n")
    sleeping = [Background(ch.api.request, "POST", f"/instances/{one['name']}/standby") for one in parked]
    until("each is in its snapshot", lambda: all((ch.instance_dir(one["id"]) / "save").exists() for one in parked))
    for _ in range(10):
        states = {one["name"]: one["state"] for one in ch.api.get("/instances")}
        assert set(states.values()) <= {"Running", "Paused"} and len(states) == 21, states
        assert ch.api.get("/instances/parked-0")["state"] in ("Running", "Paused")
    said = execute(ch, "free", ["/bin/cat"], [b"hello", b""], stdin_eof=True)
    assert (said.output, said.code) == (b"hello", 0), said
    assert create(ch, "new")["state"] == "Running"
    assert not any(one.value for one in sleeping), "all that while they were parked"
    for one in sleeping:
        assert one.result().status == 200
    states = {one["name"]: one["state"] for one in ch.api.get("/instances", fresh=True)}
    assert states == {"free": "Running", "new": "Running", **{one["name"]: "Standby" for one in parked}}
    ch.faults.write_text("")
    for one in parked:
        assert ch.api.post(f"/instances/{one['name']}/restore")["state"] == "Running"
    states = {one["state"] for one in ch.api.get("/instances", fresh=True)}
    assert states == {"Running"}
    ch.delete_all()


def test_a_guest_that_restarts_its_machine_stays_and_its_restarts_are_counted(ch):
    made = create(ch)
    pid = ch.vm_pid(made["id"])
    for times in ("1 time so far", "2 times so far"):
        tell(ch, made, "/double/reboot")
        until("it is told", lambda times=times: times in (ch.api.get("/instances/vm")["exit_message"] or ""))
        ch.api.wait("vm", "Running")
    ch.end(signal.SIGKILL)
    tell(ch, made, "/double/reboot")
    ch.start()
    until("what nobody saw is told", lambda: "3 times so far" in ch.api.get("/instances/vm")["exit_message"])
    ch.restart(signal.SIGKILL)
    ch.api.wait("vm", "Running")
    assert "3 times so far" in ch.api.get("/instances/vm")["exit_message"], "none is counted twice"
    assert ch.vm_pid(made["id"]) == pid
    ch.api.delete("/instances/vm")


def test_its_events_stay_a_small_file_and_are_read_on(ch):
    made = create(ch)
    events = ch.instance_dir(made["id"]) / "events.json"
    one = '{\n  "timestamp": {\n    "secs": 1,\n    "nanos": 2\n  },\n  "source": "virtio-device",\n  "event": "reset",\n  "properties": null\n}\n\n'
    for _ in range(2):
        with events.open("a") as f:
            f.write(one * 3000)
        until("its head is given back", lambda: events.stat().st_blocks * 512 <= 128 * 1024)
        tell(ch, made, "/api/v1/vm.pause")
        until("what follows is seen", lambda: ch.api.get("/instances/vm")["state"] == "Paused")
        tell(ch, made, "/api/v1/vm.resume")
        until("what follows is seen", lambda: ch.api.get("/instances/vm")["state"] == "Running")
    ch.restart(signal.SIGKILL)
    tell(ch, made, "/api/v1/vm.pause")
    until("it is seen by the next daemon", lambda: ch.api.get("/instances/vm")["state"] == "Paused")
    ch.api.delete("/instances/vm")


def test_it_filters_its_system_calls_and_is_confined_where_the_kernel_can(ch):
    made = create(ch)
    arguments = ch.vm_processes()[ch.vm_pid(made["id"])]
    assert arguments[arguments.index("--seccomp") + 1] == "true"
    version = ctypes.CDLL(None).syscall(444, None, 0, 1)  # landlock_create_ruleset
    config = config_of(ch, made)
    assert config.get("landlock_enable", False) == (version >= 3)
    assert version < 3 or config["landlock_rules"] == [{"path": ".", "access": "rw"}]
    ch.api.delete("/instances/vm")


@pytest.mark.parametrize("refused", [None, "PUT /api/v1/vm.power-button"], ids=["the button", "SIGKILL"])
def test_a_guest_that_does_not_hear_its_agent_gets_the_button_and_then_the_kill(tmp_path, rootfs, refused):
    with serving(tmp_path, rootfs, INSTANCES__STOP_TIMEOUT="1s") as ch:
        check_that_a_deaf_guest_is_pressed_and_then_killed(ch, refused, "the button was pressed")


def test_the_default_is_the_best_that_the_host_can_run(tmp_path, rootfs):
    with serving(tmp_path, rootfs, HYPERVISOR__DEFAULT="") as ch:
        told = ch.api.get("/capabilities")
        assert told["default_runtime"]["name"] == "cloud-hypervisor" and "the first" in told["default_runtime"]["reason"]
        assert "default hypervisor: cloud-hypervisor: the first" in ch.log_text()
    (tmp_path / "tcg").mkdir()
    with serving(tmp_path / "tcg", rootfs, HYPERVISOR__DEFAULT="", HYPERVISOR__ACCELERATION="tcg") as ch:
        told = ch.api.get("/capabilities")
        assert told["default_runtime"]["name"] == "qemu-microvm", "a VMM that has no KVM to run on is not offered"
        refused = {one["name"]: one.get("unavailable_reason") for one in told["runtimes"]}
        assert "needs KVM" in refused["cloud-hypervisor"] and refused["qemu-microvm"] is None
        assert "cloud-hypervisor cannot run here: Cloud Hypervisor needs KVM" in ch.log_text()
