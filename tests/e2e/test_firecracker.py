# SPDX-License-Identifier: Apache-2.0
"""Firecracker by its double: what the daemon makes of it, asleep, awake, forked, and when it misbehaves."""
import contextlib
import json
import os
import pathlib
import signal
import time

import pytest

import doubled
import harness
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
from harness import Api, Background, until


def serving(*args, **settings):
    return doubled.serving("firecracker", *args, **settings)


def maps(daemon):
    return [pathlib.Path(f"/proc/{pid}/maps") for pid in daemon.vm_processes()]


@pytest.fixture
def fc(tmp_path, rootfs):
    with serving(tmp_path, rootfs) as daemon:
        yield daemon


def ask_fork(daemon, source, name):
    """The request alone, so that many can be made before the first is answered."""
    connection = daemon.api.connect(120)
    body = json.dumps({"name": name, "target_state": "Running"})
    connection.request("POST", f"/instances/{source}/fork", body, {"Content-Type": "application/json"})
    return connection


def answer_of(connection):
    with harness.connection_closing(connection):
        response = connection.getresponse()
        body = response.read()
        assert response.status == 201, body
        return json.loads(body)


@pytest.mark.core
def test_it_starts_sleeps_wakes_and_ends(fc):
    made = create(fc)
    assert made["state"] == "Running" and made["hypervisor"] == "firecracker"
    until("its disk is written to", lambda: name_on_disk(fc, made) == "vm")
    asleep = fc.api.post("/instances/vm/standby")
    assert asleep["state"] == "Standby" and not fc.vm_processes()
    woken = fc.api.post("/instances/vm/restore")
    assert woken["state"] == "Running"
    told = counts(fc, made)
    assert (told["loads"], told["resumes"], told["resume_requests"], told["boots"]) == (1, 1, 0, 0), told
    assert "VM was resumed during snapshot load" in fc.log_text()
    stopped = fc.api.post("/instances/vm/stop")
    assert stopped["state"] == "Stopped" and stopped["exit_code"] == 0, "its agent was told, and reset the machine"
    assert fc.api.post("/instances/vm/start")["state"] in ("Initializing", "Running")
    fc.api.wait("vm", "Running")
    fc.api.delete("/instances/vm")


def test_a_guest_without_the_agents_services_sleeps_wakes_and_is_forked_like_any_other(fc):
    made = fc.api.run(name="vm", size="64MB", overlay_size="16MB", skip_guest_agent=True)
    fc.api.post("/instances/vm/standby")
    forked = fork(fc, "vm", "fork")
    assert fc.api.post("/instances/vm/restore")["state"] == "Running"
    other = fc.api.post("/instances/vm/fork", {"name": "other", "from_running": True, "target_state": "Running"})
    for one in (made, forked, other):
        assert fc.api.get(f"/instances/{one['id']}")["state"] == "Running"
        fc.api.fails(409, None, "GET", f"/instances/{one['id']}/stat?path=/")
        until("it knows its name", lambda one=one: name_on_disk(fc, one) == one["name"])
    assert fc.api.post("/instances/fork/stop")["state"] == "Stopped"
    fc.delete_all()


@pytest.mark.parametrize("setting", ["HYPEMAN_FIRECRACKER_RESTORE_RESUME_ON_LOAD=off", "HYPEMAN_RESTORE_DEEP_TRACE=1"])
def test_a_setting_keeps_the_resume_apart_and_it_still_comes_once(tmp_path, rootfs, setting):
    key, value = setting.split("=")
    with serving(tmp_path, rootfs, **{key: value}) as fc:
        made = create(fc)
        fc.api.post("/instances/vm/standby")
        assert fc.api.post("/instances/vm/restore")["state"] == "Running"
        told = counts(fc, made)
        assert (told["loads"], told["resumes"], told["resume_requests"]) == (1, 1, 1), told
        assert fc.log_text().count(key) == 1, "it is said once"
        assert "during snapshot load" not in fc.log_text()
        spans = [s["name"] for s in traces(fc)[0]["spans"]]
        assert "resume_vm" in spans, spans
        fc.api.delete("/instances/vm")


def test_sixty_four_forks_at_once_while_the_source_wakes(fc):
    source = create(fc, "source")
    fc.api.post("/instances/source/standby")
    before = memory_hash(fc, source)
    fork(fc, "source", "keeper", "Standby")  # so that the memory is still there to be compared
    asked = [ask_fork(fc, "source", f"fork-{n}") for n in range(64)]
    fc.api.get("/health")  # after it all of them are taken up: the restore comes after them
    waking = Background(fc.api.request, "POST", "/instances/source/restore", None, None, 120)
    made = [answer_of(one) for one in asked]
    assert waking.result(120).status == 200, "it waits until nobody copies from it any more"
    assert len({one["id"] for one in made}) == 64
    for one in made:
        assert one["state"] == "Running"
        told = counts(fc, one)
        assert (told["loads"], told["resumes"], told["resume_requests"]) == (1, 1, 0), told
        until("its disk is its own", lambda one=one: name_on_disk(fc, one) == one["name"])
        here = fc.instance_dir(one["id"])
        assert (here / "vsock.sock").is_socket() and (here / "api.sock").is_socket()
        pid = fc.vm_pid(one["id"])
        opened = {os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
        assert str(here / "overlay.raw") in opened and str(here / "app.log") in opened
    keeper = fc.api.get("/instances/keeper")
    assert memory_hash(fc, keeper) == before
    asleep = fc.api.post("/instances/fork-0/standby")
    assert asleep["state"] == "Standby" and memory_hash(fc, keeper) == before
    fc.delete_all()


@pytest.mark.parametrize("differences", ["false", "true"], ids=["Full", "Diff"])
def test_the_standby_of_a_fork_leaves_the_memory_that_it_shares_as_it_was(tmp_path, rootfs, differences):
    with serving(tmp_path, rootfs, HYPERVISOR__FIRECRACKER_DIFF_SNAPSHOTS=differences) as fc:
        create(fc, "source")
        fc.api.post("/instances/source/standby")
        keeper = fork(fc, "source", "keeper", "Standby")
        before = memory_hash(fc, keeper)
        made = fork(fc, "source", "fork")
        for round_ in range(2):  # the second is of a VM that was loaded from a difference
            assert fc.api.post("/instances/fork/standby")["state"] == "Standby"
            spans = [s["name"] for s in traces(fc)[0]["spans"]]
            assert ("complete_memory" in spans) == (differences == "true"), spans
            assert memory_hash(fc, keeper) == before, "nothing was written through"
            assert memory_hash(fc, made) != before, "the guest has counted on"
            assert fc.api.post("/instances/fork/restore")["state"] == "Running"
        # A fork of a running one begins the tracking anew: what comes after is no difference to what it maps.
        fc.api.post("/instances/fork/fork", {"name": "other", "from_running": True})
        fc.api.post("/instances/fork/standby")
        assert "complete_memory" not in [s["name"] for s in traces(fc)[0]["spans"]]
        assert fc.api.post("/instances/fork/restore")["state"] == "Running"
        assert memory_hash(fc, keeper) == before
        fc.delete_all()


def test_the_daemon_dies_in_the_middle_of_forks(fc):
    source = create(fc, "source")
    fc.api.post("/instances/source/standby")
    before = memory_hash(fc, source)
    for round_ in range(3):
        forks = [Background(fc.api.request, "POST", "/instances/source/fork", {"name": f"f{round_}-{n}", "target_state": "Running"}) for n in range(12)]
        until("some of them are under way", lambda: len(fc.vm_processes()) > round_ * 4)
        fc.restart(signal.SIGKILL)
        for one in forks:
            with contextlib.suppress(Exception):
                one.result()
        instances = fc.api.get("/instances")
        assert {fc.instance_dir(one["id"]).name for one in instances} == set(os.listdir(fc.data / "instances"))
        for one in instances:
            assert one["state"] in ("Standby",) if one["name"] == "source" else ("Standby", "Running")
            if one["name"] != "source" and one["state"] == "Standby":  # whole, and its load had not begun
                assert fc.api.post(f"/instances/{one['name']}/restore")["state"] == "Running"
            if one["name"] != "source":
                assert counts(fc, one)["resumes"] == 1
        assert len(fc.vm_processes()) == len(instances) - 1
        assert memory_hash(fc, source) == before
    assert fc.api.post("/instances/source/restore")["state"] == "Running"
    fc.delete_all()


@pytest.mark.parametrize(
    "faults, then",
    [
        ("park 1000 PUT /snapshot/load\n", {"Running"}),  # its guest runs: it is not taken away
        ("slow-bind 400\n", {"Standby"}),  # it had nothing to run yet
        ("", {"Running", "Standby"}),
    ],
    ids=["in the load", "before it", "somewhere"],
)
def test_the_daemon_dies_in_the_middle_of_a_restore(fc, faults, then):
    made = create(fc)
    fc.api.post("/instances/vm/standby")
    fc.faults.write_text(faults)
    waking = Background(fc.api.request, "POST", "/instances/vm/restore")
    until("it is under way", lambda: fc.vm_processes())
    if "park" in faults:  # the guest is on its disk and the answer is not there yet
        until("it is in the load", lambda: any("snapshot/memory" in m.read_text() for m in maps(fc)))
    fc.restart(signal.SIGKILL)
    assert fc.api.get("/instances/vm")["state"] in then
    with contextlib.suppress(Exception):
        waking.result()
    fc.faults.write_text("")
    state = fc.api.get("/instances/vm")["state"]
    if state == "Standby":
        assert not fc.vm_processes()
        assert fc.api.post("/instances/vm/restore")["state"] == "Running"
    assert fc.api.get("/instances/vm")["state"] == "Running"
    told = counts(fc, made)
    assert (told["loads"], told["resumes"]) == (1, 1), "never twice, and never left paused"
    fc.api.delete("/instances/vm")


@pytest.mark.parametrize(
    "faults, words",
    [
        ("refuse 0 PUT /snapshot/load\n", "The double was told to refuse this."),
        ("die 149 PUT /snapshot/load\n", "SIGBUS"),
        ("half 0 PUT /snapshot/load\n", "ended with status 1"),
        ("garbage 0 PUT /snapshot/load\n", "PUT /snapshot/load"),
        ("die 1\n", "ended with status 1"),
    ],
)
def test_a_restore_that_fails_says_why_and_the_instance_sleeps_on(fc, faults, words):
    made = create(fc)
    fc.api.post("/instances/vm/standby")
    before = memory_hash(fc, made)
    fc.faults.write_text(faults)
    refused = fc.api.request("POST", "/instances/vm/restore")
    assert refused.status == 500 and words in refused.json()["message"], refused
    assert fc.api.get("/instances/vm")["state"] == "Standby" and not fc.vm_processes()
    assert memory_hash(fc, made) == before
    fc.restart(signal.SIGKILL)  # that it sleeps is what the record says too
    assert fc.api.get("/instances/vm")["state"] == "Standby"
    fc.faults.write_text("")
    assert fc.api.post("/instances/vm/restore")["state"] == "Running"
    fc.api.delete("/instances/vm")


@pytest.mark.parametrize("spoil, words", zip(SPOILERS, ["smaller than the mapping", "CRC64 validation failed", "o such file"]))
def test_a_snapshot_that_is_spoilt_is_refused_in_its_own_words_and_kept(fc, spoil, words):
    check_that_a_spoilt_snapshot_is_refused_and_kept(fc, spoil, words)


def test_a_state_of_another_version_is_refused_in_its_own_words(fc):
    made = create(fc)
    fc.api.post("/instances/vm/standby")
    (fc.instance_dir(made["id"]) / "snapshot/state").write_text("firecracker-double 9.9.9\n{}")
    assert "Invalid data version" in fc.api.request("POST", "/instances/vm/restore").json()["message"]
    assert fc.api.get("/instances/vm")["state"] == "Standby" and not fc.vm_processes()
    fc.api.delete("/instances/vm")


def test_a_guest_that_wrote_to_its_disk_is_not_woken_a_second_time(fc):
    """The load was carried out and the guest runs, but the VMM dies before it says so."""
    made = create(fc)
    fc.api.post("/instances/vm/standby")
    fc.faults.write_text("park 1000 PUT /snapshot/load\nhalf 0 PUT /snapshot/load\n")
    disk = fc.instance_dir(made["id"]) / "overlay.raw"
    waking = Background(fc.api.request, "POST", "/instances/vm/restore")
    with disk.open("r+b") as f:
        while not waking.value:  # as the guest would
            f.seek(0)
            f.write(b"x")
            f.flush()
            time.sleep(0.01)
    assert waking.result().status == 500
    left = fc.api.get("/instances/vm")
    assert left["state"] == "Stopped" and "written to its disk" in left["exit_message"], left
    assert fc.api.post("/instances/vm/start")["state"] in ("Initializing", "Running")
    fc.faults.write_text("")
    fc.api.delete("/instances/vm")


def test_a_busy_one_answers_late_and_lists_do_not_wait(fc):
    create(fc)
    fc.faults.write_text("park 1500 PUT /snapshot/create\n")
    sleeping = Background(fc.api.post, "/instances/vm/standby")
    for _ in range(20):
        assert fc.api.get("/instances")[0]["name"] == "vm"
    assert sleeping.result()["state"] == "Standby"
    fc.api.delete("/instances/vm")


def test_forks_of_a_running_one_leave_it_running(fc):
    source = create(fc, "source")
    made = fc.api.post("/instances/source/fork", {"name": "one", "from_running": True})
    assert made["state"] == "Running" and fc.api.get("/instances/source")["state"] == "Running"
    told = counts(fc, source)
    assert (told["pauses"], told["resumes"], told["saves"]) == (1, 1, 1), told
    assert fc.api.post("/instances/source/stop")["exit_code"] == 0, "its agent is connected again after the snapshot"
    fc.delete_all()


@pytest.mark.core
def test_a_data_directory_with_a_long_name(tmp_path, rootfs):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with serving(tmp_path, rootfs, data=deep) as fc:
        create(fc)
        fc.api.post("/instances/vm/standby")
        assert fork(fc, "vm", "other")["state"] == "Running"
        assert fc.api.post("/instances/vm/restore")["state"] == "Running"
        fc.delete_all()


def test_one_restore_at_a_time_where_the_setting_says_so(tmp_path, rootfs):
    with serving(tmp_path, rootfs, HYPERVISOR__FIRECRACKER_MAX_CONCURRENT_RESTORES="1") as fc:
        create(fc, "source")
        fc.api.post("/instances/source/standby")
        fc.faults.write_text("slow-bind 100\n")
        forks = [Background(fork, fc, "source", f"f{n}") for n in range(4)]
        for one in forks:
            assert one.result()["state"] == "Running"
        forked = [t for t in traces(fc) if t["name"] == "instances.fork"]
        waits = [s["duration_us"] for t in forked for s in t["spans"] if s["name"] == "firecracker_restore_capacity_wait"]
        assert len(waits) == 4 and max(waits) > 100_000, waits
        fc.faults.write_text("")
        fc.delete_all()


def test_a_fork_whose_client_left_before_it_began_is_not_made(tmp_path, rootfs):
    with serving(tmp_path, rootfs, HYPERVISOR__FIRECRACKER_MAX_CONCURRENT_RESTORES="1") as fc:
        create(fc, "source")
        fc.api.post("/instances/source/standby")
        fc.faults.write_text("slow-bind 1500\n")
        first = Background(fork, fc, "source", "first")
        until("it is under way", lambda: fc.vm_processes())
        left = ask_fork(fc, "source", "left")
        third = Background(fork, fc, "source", "third")
        left.close()
        assert first.result()["state"] == "Running" and third.result()["state"] == "Running"
        assert {one["name"] for one in fc.api.get("/instances")} == {"source", "first", "third"}
        fc.faults.write_text("")
        fc.delete_all()


def test_a_snapshot_of_another_version_is_refused_before_anything_starts(fc):
    create(fc)
    fc.api.post("/instances/vm/standby")
    fc.environment["HYPEMAN_DOUBLE_VERSION"] = "1.15.0"
    fc.restart(signal.SIGTERM)
    refused = fc.api.fails(409, None, "POST", "/instances/vm/restore")
    assert "1.15.0" in refused["message"] and "1.16.1" in refused["message"] and not fc.vm_processes()
    del fc.environment["HYPEMAN_DOUBLE_VERSION"]
    fc.restart(signal.SIGTERM)
    assert fc.api.post("/instances/vm/restore")["state"] == "Running"
    fc.api.delete("/instances/vm")


def test_the_code_that_it_ends_with_becomes_a_reason(fc):
    made = create(fc)
    fc.faults.write_text("die 149 GET /double\n")
    with contextlib.suppress(Exception):
        counts(fc, made)
    ended = fc.api.wait("vm", "Stopped")
    assert "SIGBUS: the memory file" in ended["exit_message"], ended
    fc.faults.write_text("")
    fc.api.delete("/instances/vm")


@pytest.mark.parametrize("refused", [None, "PUT /actions"], ids=["the keys", "SIGKILL"])
def test_a_guest_that_does_not_hear_its_agent_gets_the_keys_and_then_the_kill(tmp_path, rootfs, refused):
    with serving(tmp_path, rootfs, INSTANCES__STOP_TIMEOUT="1s") as fc:
        check_that_a_deaf_guest_is_pressed_and_then_killed(fc, refused, "Ctrl-Alt-Del")
