# SPDX-License-Identifier: Apache-2.0
"""VMs do not depend on the daemon: it may be killed, and finds them again."""
import os
import pathlib
import re
import signal
import subprocess

import pytest

from harness import HYPEMAN, Background, until, wait_gone

COUNTER = "i=0; while :; do i=$((i+1)); echo count $i; sleep 1; done"


def last_count(api, key, above=0):
    """The newest number that the guest printed, once it is greater than another."""
    def number(line):
        found = re.match(r"count (\d+)", line)
        return int(found[1]) if found else 0

    return number(api.logs(key, tail=1, follow=True, until=lambda line: number(line) > above)[-1])


SAME = ("id", "name", "image", "state", "size", "vcpus", "env", "tags", "created_at", "started_at", "stopped_at",
        "exit_code", "network", "hypervisor", "current_phase", "current_phase_since")


def same(instance):
    return {key: instance.get(key) for key in SAME}


@pytest.mark.parametrize("number", [
    pytest.param(signal.SIGKILL, marks=pytest.mark.core), signal.SIGTERM,
], ids=lambda number: number.name)
def test_vms_live_on_and_are_found_again(own_daemon, number):
    d = own_daemon
    running = d.api.run(COUNTER, name="running", env={"A": "b"}, tags={"t": "v"})
    d.api.create("exit 9", name="ended")
    ended = d.api.wait("ended", "Stopped")
    pid = d.vm_pid(running["id"])
    before = last_count(d.api, "running")

    d.end(number)
    os.kill(pid, 0)  # the VM is there
    d.start()
    assert d.vm_pid(running["id"]) == pid
    assert [same(one) for one in d.api.get("/instances")] == [same(running), same(ended)]
    now = d.api.get("/instances/running")
    assert now["phase_durations_ms"]["running"] >= running["phase_durations_ms"]["running"]

    # It is ours as before: it goes on counting, stops when told, and starts again.
    assert last_count(d.api, "running", above=before) > before
    stopped = d.api.post("/instances/running/stop")
    assert stopped["state"] == "Stopped"
    wait_gone(pid)
    d.api.post("/instances/running/start", {})
    d.api.wait("running", "Running")


@pytest.mark.core
def test_an_exit_while_the_daemon_is_down_is_seen_with_its_code(own_daemon):
    d = own_daemon
    made = d.api.run("sleep 2; exit 5", name="leaves")
    pid = d.vm_pid(made["id"])
    d.end(signal.SIGKILL)
    wait_gone(pid)
    d.start()
    seen = d.api.get("/instances/leaves")
    assert seen["state"] == "Stopped" and seen["exit_code"] == 5


def test_a_vm_that_was_killed_while_the_daemon_is_down_is_stopped(own_daemon):
    d = own_daemon
    made = d.api.run(name="killed")
    pid = d.vm_pid(made["id"])
    d.end(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    d.start()
    assert d.api.get("/instances/killed")["state"] == "Stopped"
    d.api.post("/instances/killed/start", {})
    d.api.wait("killed", "Running")


def test_a_vm_that_is_killed_under_the_daemon_is_stopped_at_once(own_daemon):
    d = own_daemon
    made = d.api.run(name="killed")
    waiter = Background(d.api.wait, "killed", "Stopped")
    os.kill(d.vm_pid(made["id"]), signal.SIGKILL)
    assert waiter.result(5)["exit_message"]  # there is no exit code of the program, but a reason


@pytest.mark.core
def test_what_belongs_to_nobody_is_swept(own_daemon):
    d = own_daemon
    kept = d.api.run(name="kept")
    d.end(signal.SIGKILL)
    orphan = d.data / "instances" / ("z" * 24)
    orphan.mkdir()
    (orphan / "overlay.raw").write_bytes(b"x" * 4096)
    (d.data / "instances" / ".tmp-half-made").mkdir()
    # A VMM that no record knows; and one that lives elsewhere, which is not ours to end.
    idle = ["qemu-system-x86_64", "-machine", "none", "-S", "-nodefaults", "-display", "none"]
    process = subprocess.Popen(idle, cwd=orphan, start_new_session=True)
    outside = subprocess.Popen(idle, cwd=d.root, start_new_session=True)
    try:
        d.start()
        process.wait(10)
        until("the orphan's directory is gone", lambda: not orphan.exists(), 10)
        assert [one.name for one in (d.data / "instances").iterdir()] == [kept["id"]]
        assert outside.poll() is None
        assert d.api.get("/instances/kept")["state"] == "Running"
    finally:
        for one in (process, outside):
            one.kill()
            one.wait()


@pytest.mark.core
@pytest.mark.parametrize("moment", range(5))
def test_a_daemon_killed_during_a_create_leaves_nothing_half_made(own_daemon, moment):
    d = own_daemon
    instances = d.data / "instances"
    create = Background(d.api.create, "while :; do sleep 1; done")

    # Later and later in its course: at once, with the directory, with a file, with the process, with the answer.
    until("that moment", [
        lambda: True,
        lambda: create.error or any(instances.iterdir()),
        lambda: create.error or any(instances.glob("*/*")),
        lambda: create.error or d.vm_processes(),
        lambda: create.error or create.value,
    ][moment], 20)
    d.end(signal.SIGKILL)
    create.join(10)
    d.start()
    listed = d.api.get("/instances")
    if create.value:
        assert [one["id"] for one in listed] == [create.value["id"]]
    for one in listed:
        # What was promised is whole: it stops, or is stopped, and starts.
        assert one["state"] in ("Running", "Initializing", "Stopped")
        if one["state"] != "Stopped":
            d.api.post(f"/instances/{one['id']}/stop")
        d.api.post(f"/instances/{one['id']}/start", {})
        d.api.wait(one["id"], "Running")
    known = {one["id"] for one in listed}
    until("the sweep is done", lambda: {one.name for one in instances.iterdir()} == known, 10)
    assert {pathlib.Path(os.readlink(f"/proc/{pid}/cwd")).name for pid in d.vm_processes()} <= known


def test_a_daemon_killed_during_a_delete_or_stop_finishes_or_undoes_it(own_daemon):
    d = own_daemon
    for name, method, path in (("a", "POST", "/stop"), ("b", "DELETE", "")):
        made = d.api.run("trap '' TERM; while :; do sleep 1; done", name=name)
        doing = Background(d.api.request, method, f"/instances/{made['id']}{path}")
        until("it is under way", lambda: doing.error or doing.value or
              d.api.request("POST", f"/instances/{made['id']}/start", {}).status in (404, 409), 10)
        d.restart(signal.SIGKILL)
        doing.join(10)
        for one in d.api.get("/instances"):
            assert one["state"] in ("Running", "Stopped")
            d.api.delete(f"/instances/{one['id']}", graceful_shutdown=False)


def test_images_and_secret_survive(own_daemon):
    d = own_daemon
    before, token = d.api.get("/images"), d.token()
    assert (d.data / "secret").stat().st_mode & 0o777 == 0o600
    d.restart()
    assert d.api.get("/images") == before
    assert d.tcp(token).get("/images") == before
    assert d.cli("ps").returncode == 0


def test_a_second_daemon_on_the_same_directory_is_refused(own_daemon):
    d = own_daemon
    second = subprocess.run(
        [HYPEMAN, "serve", "--data-dir", d.data, "--listen", "127.0.0.1:0", "--socket", d.root / "other.sock"],
        capture_output=True, text=True, timeout=20,
    )
    assert second.returncode != 0 and str(d.data) in second.stderr
    assert d.api.get("/health") == {"status": "ok"}
    assert d.tcp_address()
