# SPDX-License-Identifier: Apache-2.0
"""VMMs that do not answer, on doubles: what a read shows of them, who is asked, and how it heals."""
import datetime
import os
import signal
import socket

import pytest

import doubles
import harness


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, rootfs):
    yield from doubles.serve(tmp_path_factory.mktemp("doubles"), rootfs)


def until_state(api, key, state, **query):
    """Reads, as a client would that does not wait; each read asks for a question."""
    return harness.until(f"{key} is {state}", lambda: (lambda i: i if i["state"] == state else None)(api.get(f"/instances/{key}", **query)))


@pytest.fixture
def made(daemon, request):
    """An instance in a mood that the test names, else a good one."""
    def make(name, mood=None, **fields):
        if mood:
            daemon.doubles.mood(name, mood)
        return doubles.create(daemon, name, **fields)

    yield make
    for pid in daemon.vm_processes():
        os.kill(pid, signal.SIGCONT)


@pytest.mark.core
def test_a_stopped_vmm_becomes_unknown_with_a_reason_and_heals(daemon, api, made):
    vm = made("frozen")
    assert vm["responsive"] is True and vm["unresponsive_since"] is None
    doubles.tell(daemon, vm, signal.SIGSTOP)
    first = api.get("/instances/frozen", fresh=True)  # the first miss
    assert first["state"] == "Running" and first["responsive"] is False and first["unresponsive_since"]
    assert first["last_probe"]["result"] == "timeout"
    second = until_state(api, "frozen", "Unknown")  # the second question was asked without anybody's doing
    assert "does not answer" in second["state_error"] and second["state_source"] == "probe"
    assert second["current_phase"] == "unknown" and second["unresponsive_since"] == first["unresponsive_since"]
    assert [i["state"] for i in api.get("/instances", state="Unknown")] == ["Unknown"]
    doubles.tell(daemon, vm, signal.SIGCONT)
    healed = until_state(api, "frozen", "Running")  # the question that it was asked is answered late
    assert healed["state_error"] is None and healed["responsive"] is True and healed["unresponsive_since"] is None
    assert healed["phase_durations_ms"]["unknown"] > 0


def test_reads_alone_find_out_and_answer_at_once_all_the_while(daemon, api, made):
    vm = made("slowly")
    doubles.tell(daemon, vm, signal.SIGSTOP)
    state = harness.until("a list shows it", lambda: next((i for i in api.get("/instances") if i["state"] == "Unknown"), None))
    assert state["name"] == "slowly"
    api.get(f"/instances/{vm['id']}/wait", state="Stopped")  # a dead end, said at once
    doubles.tell(daemon, vm, signal.SIGCONT)


@pytest.mark.core
@pytest.mark.parametrize("verb", ["stop", "delete"])
def test_what_can_recover_an_unknown_instance_is_allowed(daemon, api, made, verb):
    vm = made(f"lost-{verb}")
    doubles.tell(daemon, vm, signal.SIGSTOP)
    until_state(api, vm["id"], "Unknown", fresh=True)
    api.fails(409, "invalid_state", "POST", f"/instances/{vm['id']}/start", {})
    if verb == "stop":
        assert api.post(f"/instances/{vm['id']}/stop")["state"] == "Stopped"
        api.post(f"/instances/{vm['id']}/start", {})
        assert api.wait(vm["id"], "Running")["phase_durations_ms"]["unknown"] > 0
    else:
        api.delete(f"/instances/{vm['id']}", graceful_shutdown=False)
        api.fails(404, "not_found", "GET", f"/instances/{vm['id']}")


@pytest.mark.core
def test_fresh_asks_all_side_by_side_and_waits_no_longer_than_one_question(daemon, api, made):
    vms = [made(f"side-{i}") for i in range(6)]
    for vm in vms[:5]:
        doubles.tell(daemon, vm, signal.SIGSTOP)
    listed = {i["id"]: i for i in api.get("/instances", fresh=True)}
    assert [listed[vm["id"]]["responsive"] for vm in vms] == [False] * 5 + [True]
    first = {}  # the time of each one's first question, from and to
    for trace in api.get("/debug/traces"):
        if trace["name"] == "instances.derive_state" and trace["failed"]:
            began = datetime.datetime.fromisoformat(trace["began_at"])
            took = datetime.timedelta(microseconds=trace["spans"][0]["duration_us"])
            first[trace["instance_id"]] = (began, began + took)
    asked = [first[vm["id"]] for vm in vms[:5]]
    assert max(began for began, _ in asked) < min(ended for _, ended in asked), "asked one after another"


@pytest.mark.parametrize("mood", ["mute", "garbage", "half", "drip 30"])
def test_whatever_a_vmm_does_to_its_questions_nobody_else_notices(daemon, api, made, mood):
    good = made(f"good-{mood.split()[0]}")
    bad = made(f"bad-{mood.split()[0]}")
    daemon.doubles.mood(bad["name"], mood)
    seen = until_state(api, bad["id"], "Stopped" if mood == "half" else "Unknown", fresh=True)
    if mood == "half":  # it died of it
        assert "status 1" in seen["exit_message"] and seen["exit_code"] is None
    elif mood == "garbage":
        assert seen["last_probe"]["result"] == "refused"
    assert api.get(f"/instances/{good['id']}", fresh=True)["responsive"] is True
    daemon.doubles.mood(bad["name"], "")
    if mood != "half":
        until_state(api, bad["id"], "Running", fresh=True)


def test_a_slow_vmm_is_waited_for_at_its_start(daemon, api, made):
    assert made("late", "slow 700")["state"] == "Running"


@pytest.mark.core
def test_a_parked_vmm_is_its_operations_business_and_no_readers(daemon, api, made):
    vm = made("parked", "park 3000")
    standby = harness.Background(api.post, "/instances/parked/standby")
    harness.until("the save is under way", lambda: "snapshot.new" in os.listdir(daemon.instance_dir(vm["id"])) or (daemon.instance_dir(vm["id"]) / "snapshot").exists())
    now = api.get("/instances/parked", fresh=True)
    assert now["state"] != "Unknown" and now["responsive"] is not False
    assert standby.is_alive(), "the list took as long as the save"
    assert standby.result()["state"] == "Standby"
    assert api.post("/instances/parked/restore")["state"] in ("Initializing", "Running")


@pytest.mark.parametrize(
    "mood, code, message",
    [("exit 0", 0, None), ("exit 3", 3, None), ("panic", None, "panicked"), ("fail 7", None, "status 7"), ("reboot", None, "without a report")],
)
def test_however_it_ends_the_state_and_the_reason_are_right(daemon, api, made, mood, code, message):
    vm = made(f"ends-{mood.replace(' ', '-')}", mood)
    doubles.tell(daemon, vm, signal.SIGUSR1)
    ended = api.wait(vm["id"], "Stopped")
    assert ended["exit_code"] == code and ended["state_source"] == "exit" and ended["responsive"] is None
    assert message is None or message in ended["exit_message"], ended


def test_a_killed_vmm_is_stopped_with_the_signal_as_the_reason(daemon, api, made):
    vm = made("killed")
    doubles.tell(daemon, vm, signal.SIGSTOP)
    until_state(api, "killed", "Unknown", fresh=True)
    doubles.tell(daemon, vm, signal.SIGKILL)
    ended = until_state(api, "killed", "Stopped")  # a wait may still find the dead end that Unknown is
    assert ended["exit_code"] is None and "signal 9" in ended["exit_message"] and ended["state_error"] is None


@pytest.mark.core
def test_the_policy_kills_what_stays_silent_though_nobody_reads(tmp_path, rootfs):
    for daemon in doubles.serve(tmp_path, rootfs, lambda ns: {"UNRESPONSIVE": "kill-after 2s"}):
        vm = doubles.create(daemon, "doomed")
        kept = doubles.create(daemon, "kept")
        pid = daemon.vm_pid(vm["id"])
        os.kill(pid, signal.SIGSTOP)
        harness.wait_gone(pid)
        ended = daemon.api.wait("doomed", "Stopped")
        assert "did not answer" in ended["exit_message"]
        assert daemon.api.get("/instances/kept")["state"] == "Running" and daemon.vm_pid(kept["id"])


def test_a_policy_that_is_none_is_refused_at_the_start(tmp_path):
    daemon = harness.Daemon(tmp_path, settings={"UNRESPONSIVE": "kill"})
    with pytest.raises(AssertionError, match="unresponsive"):
        daemon.start()


def qmp(daemon, instance, command):
    """Somebody else's hand on a VMM, while no daemon has the socket."""
    here = os.open(daemon.instance_dir(instance["id"]), os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(harness.PATIENCE)
            s.connect(f"/proc/self/fd/{here}/events.sock")
            lines = s.makefile()
            assert "QMP" in lines.readline()
            for one in ("qmp_capabilities", command):
                s.sendall(b'{"execute":"%s","id":1}\n' % one.encode())
                while "return" not in lines.readline():
                    pass
    finally:
        os.close(here)


@pytest.mark.core
def test_what_happened_while_no_daemon_listened_is_asked_for_without_any_reader(tmp_path, rootfs):
    for daemon in doubles.serve(tmp_path, rootfs):
        vm = doubles.create(daemon, "paused")
        daemon.end(signal.SIGKILL)
        qmp(daemon, vm, "stop")
        daemon.start()
        state = daemon.api.wait("paused", "Paused")
        assert state["state_source"] == "probe" and state["responsive"] is True
        assert "instances.derive_state" in [t["name"] for t in daemon.api.get("/debug/traces") if t["instance_id"] == vm["id"]]
