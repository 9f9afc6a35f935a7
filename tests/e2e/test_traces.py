# SPDX-License-Identifier: Apache-2.0
"""Where the time of an operation went; that the answers fit their description is checked with every request."""
import pytest

from harness import until
from sockets import execute, wait_for
from test_cp import get, put


# What each operation shows at least, whichever driver does it.
SPANS = {
    "instances.standby": {"queue", "snapshot", "store.commit"},
    "instances.restore": {"queue", "restore_from_snapshot", "resume_vm", "store.commit"},
    "instances.fork.capture": {"queue", "clone_disks"},
    "instances.fork": {"queue", "clone_directory", "restore_from_snapshot", "resume_vm", "store.commit"},
}


def newest(api, key):
    return {one["name"]: one for one in reversed(api.get("/debug/traces")) if one["instance_id"] == key}


@pytest.mark.core
def test_standby_restore_and_fork_show_their_spans(api):
    key = api.run(name="traced")["id"]
    fork = api.post(f"/instances/{key}/fork", {"name": "forked", "from_running": True})["id"]
    api.post(f"/instances/{key}/standby")
    api.post(f"/instances/{key}/restore")
    seen = newest(api, key) | {"instances.fork": newest(api, fork)["instances.fork"]}
    for name, wanted in SPANS.items():
        trace = seen[name]
        root, *others = trace["spans"]
        assert not trace["failed"] and root["name"] == name and root["parent"] == -1 and root["start_us"] == 0
        assert wanted <= {span["name"] for span in others}, f"{name}: {trace['spans']}"
        for i, span in enumerate(others, 1):
            above = trace["spans"][span["parent"]]
            assert 0 <= span["parent"] < i, "a span comes after the one that it is a part of"
            assert above["start_us"] <= span["start_us"]
            assert span["start_us"] + span["duration_us"] <= root["duration_us"]


def test_an_operation_that_failed_says_so(api):
    key = api.create("exit 0", name="short")["id"]
    api.wait(key, "Stopped")
    api.fails(409, "invalid_state", "POST", f"/instances/{key}/restore")
    assert newest(api, key)["instances.restore"]["failed"]


def test_the_newest_come_first_and_128_are_kept(api):
    key = api.create("exit 0", name="many")["id"]
    api.wait(key, "Stopped")
    for _ in range(130):
        api.fails(409, "invalid_state", "POST", f"/instances/{key}/restore")
    reads = {"instances.list", "instances.get", "instances.derive_state", "exec.session", "cp.session"}  # these have a ring of their own
    traces = [one for one in api.get("/debug/traces") if one["name"] not in reads]
    assert len(traces) == 128 and {one["name"] for one in traces} == {"instances.restore"}
    began = [one["began_at"] for one in traces]
    assert began == sorted(began, reverse=True)


def test_commands_and_copies_have_their_spans(daemon, api):
    key = api.run(name="sessions")["id"]
    assert execute(daemon, key, ["sh", "-c", "printf four; exit 3"]).code == 3
    execute(daemon, key, ["/no/such/program"])
    assert wait_for(put(daemon, key, "/tmp/new", b"12345"))["success"]
    assert not wait_for(put(daemon, key, "/tmp", b"12345"))["success"]
    _, error = wait_for(get(daemon, key, "/tmp/new"))
    assert error is None

    def seen():
        found = [one for one in api.get("/debug/traces") if one["instance_id"] == key and one["name"].endswith(".session")]
        return found if len(found) == 5 else None

    out, refused, into, unstarted, ran = [(one["name"], one["failed"], one["attributes"]) for one in until("all have ended", seen)]
    subject = {"subject": ran[2]["subject"]}
    assert ran == ("exec.session", False, {**subject, "command": "sh", "exit_code": 3, "bytes_transferred": 4, "success": 1})
    assert unstarted == ("exec.session", True, {**subject, "command": "/no/such/program", "bytes_transferred": 0, "success": 0})
    cp = {**subject, "direction": "to", "guest_path": "/tmp/new", "bytes_transferred": 5, "success": 1}
    assert into == ("cp.session", False, cp)
    assert refused == ("cp.session", True, {**cp, "guest_path": "/tmp", "bytes_transferred": 0, "success": 0})
    assert out == ("cp.session", False, {**cp, "direction": "from"})
