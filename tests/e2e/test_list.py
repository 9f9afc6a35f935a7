# SPDX-License-Identifier: Apache-2.0
"""Lists and changes: what they hold, what they cost the loop, and who misses nothing."""
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

import doubles
import harness


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, rootfs):
    yield from doubles.serve(tmp_path_factory.mktemp("doubles"), rootfs)


def listing(api, etag=None, **query):
    headers = {"If-None-Match": etag} if etag else None
    return api.request("GET", harness.with_query("/instances", query), headers=headers)


def revision(answer):
    return int(re.fullmatch(r'W/"(\d+)"', answer.headers["etag"])[1])


@pytest.mark.core
def test_a_list_is_not_sent_again_until_something_changes(daemon, api):
    doubles.create(daemon, "a")
    first = listing(api)
    again = listing(api, first.headers["etag"])
    assert again.status == 304 and again.body == b"" and again.headers["etag"] == first.headers["etag"]
    assert listing(api, f'"x", {first.headers["etag"]}').status == 304
    assert listing(api, 'W/"1"').status == 200
    api.post("/instances/a/stop")
    changed = listing(api, first.headers["etag"])
    assert changed.status == 200 and revision(changed) > revision(first)
    assert [i["state"] for i in changed.json()] == ["Stopped"]


def test_the_time_in_the_present_state_goes_on_though_nothing_changes(daemon, api):
    made = doubles.create(daemon, "ticking")
    first = listing(api)
    time.sleep(0.02)
    second = listing(api)
    assert revision(first) == revision(second)
    a, b = (next(i for i in one.json() if i["id"] == made["id"]) for one in (first, second))
    assert b["phase_durations_ms"]["running"] > a["phase_durations_ms"]["running"]
    assert len(first.body) == len(second.body)
    one = api.get("/instances/ticking")
    assert one["phase_durations_ms"]["running"] >= b["phase_durations_ms"]["running"]
    one.pop("last_probe")
    b["phase_durations_ms"] = one["phase_durations_ms"]
    b["observed_at"] = one["observed_at"]
    assert one == b, "a row is shown alike everywhere"


def test_state_and_tags_filter_and_pages_follow_the_ids(daemon, api):
    for i in range(5):
        doubles.create(daemon, f"page-{i}", tags={"n": str(i % 2), "all": "x"})
    api.post("/instances/page-4/stop")
    assert {i["name"] for i in api.get("/instances", **{"tags[n]": "1"})} == {"page-1", "page-3"}
    assert {i["name"] for i in api.get("/instances", **{"tags[n]": "0", "tags[all]": "x", "state": "Running"})} == {"page-0", "page-2"}
    assert api.get("/instances", **{"tags[n]": "7"}) == []
    ids, page = [], api.get("/instances", limit=2)
    while page:
        assert len(page) <= 2
        ids += [i["id"] for i in page]
        page = api.get("/instances", limit=2, after=ids[-1])
    assert ids == sorted(i["id"] for i in api.get("/instances"))
    api.delete(f"/instances/{ids[2]}", graceful_shutdown=False)
    assert [i["id"] for i in api.get("/instances", limit=2, after=ids[2])] == ids[3:5], "a page goes on behind one that has gone"
    for query in ({"limit": 0}, {"limit": "x"}, {"after": "../x"}, {"fresh": "maybe"}, {"state": "Asleep"}):
        api.fails(400, "Bad Request", "GET", harness.with_query("/instances", query))


@pytest.mark.core
def test_a_name_that_is_used_again_never_shows_the_old_row(daemon, api):
    old = None
    for _ in range(5):
        new = doubles.create(daemon, "again")
        rows = [i for i in api.get("/instances") if i["name"] == "again"]
        assert [i["id"] for i in rows] == [new["id"]] and new["id"] != old
        assert api.get("/instances/again")["id"] == new["id"]
        api.delete("/instances/again", graceful_shutdown=False)
        assert api.get("/instances") == []
        old = new["id"]


def test_reads_are_traced_with_their_hits_and_misses(daemon, api):
    doubles.create(daemon, "traced")
    api.get("/instances")
    trace = next(t for t in api.get("/debug/traces") if t["name"] == "instances.list")
    assert trace["attributes"] == {"hypervisor_state.cache_hit": 1, "hypervisor_state.cache_miss": 0, "count": 1}
    api.get("/instances", fresh=True)
    question = next(t for t in api.get("/debug/traces") if t["name"] == "instances.derive_state")
    assert question["attributes"] == {"hypervisor_state.cache_hit": 0} and not question["failed"]


def writes_only(lines, fd):
    """What a thread did between reading a request on fd and its last write there, but for writes on it."""
    begin = next(i for i, line in enumerate(lines) if line.startswith(f'recvfrom({fd}, "GET /instances '))
    end = next(i for i, line in enumerate(lines) if i > begin and line.startswith((f"shutdown({fd},", f"close({fd})")))
    last = max(i for i in range(begin, end) if re.match(rf"(sendmsg|sendto|write|writev|send|sendfile)\({fd},", lines[i]))
    return [line for line in lines[begin + 1 : last] if not re.match(rf"(sendmsg|sendto|write|writev|send|sendfile)\({fd},", line)]


@pytest.mark.parametrize("hung", [False, True], ids=["all answer", "all are stopped"])
def test_between_the_request_and_its_last_write_the_loop_only_writes_there(daemon, api, hung):
    for i in range(12):
        doubles.create(daemon, f"s-{i}")
    if hung:
        for pid in daemon.vm_processes():
            os.kill(pid, signal.SIGSTOP)
        harness.until("all are known to be silent", lambda: all(i["state"] == "Unknown" for i in api.get("/instances", fresh=True)))
    time.sleep(0 if hung else 5.1)  # nothing is fresh: every row asks for a question
    traced = daemon.root / "strace"
    tracer = subprocess.Popen(["strace", "-s", "40", "-o", traced, "-p", str(daemon.process.pid)], stderr=subprocess.PIPE, text=True)
    assert "attached" in tracer.stderr.readline()
    rows = api.get("/instances")
    api.get("/health")
    if not hung:
        harness.until("afterwards every VMM is asked", lambda: traced.read_text().count("query-status") >= 12, 20)
    tracer.send_signal(signal.SIGINT)
    tracer.wait()
    lines = traced.read_text().splitlines()
    fd = next(m[1] for line in lines if (m := re.match(r'recvfrom\((\d+), "GET /instances ', line)))
    assert len(rows) == 12 and writes_only(lines, fd) == []


@pytest.mark.core
def test_a_watch_begins_with_everything_and_then_sees_each_change_in_order(daemon, api):
    kept = doubles.create(daemon, "kept")
    stream, rows = api.watch()
    assert set(rows) == {kept["id"]}
    made = doubles.create(daemon, "w")
    api.post("/instances/w/stop")
    api.delete("/instances/w", graceful_shutdown=False)
    seen = []
    for event in stream:
        seen.append(event)
        if event["type"] == "deleted":
            break
    stream.close()
    numbers = [e["revision"] for e in seen]
    assert numbers == list(range(numbers[0], numbers[0] + len(seen)))
    assert {e["id"] for e in seen} == {made["id"]}
    states = [e["instance"]["state"] for e in seen[:-1]]
    assert seen[0]["type"] == "created" and states[0] == "Initializing" and states[-1] == "Stopped" and "Running" in states


@pytest.mark.core
def test_a_watch_goes_on_where_it_was_also_over_a_restart(tmp_path, rootfs):
    for daemon in doubles.serve(tmp_path, rootfs):
        doubles.create(daemon, "a")
        stream, _ = daemon.api.watch()
        stream.close()
        seen = revision(listing(daemon.api))
        daemon.api.post("/instances/a/stop")
        daemon.restart(signal.SIGTERM)
        daemon.api.post("/instances/a/start", {})
        states = []
        for event in daemon.api.events(since=seen):
            assert event["type"] == "updated" and event["revision"] == seen + 1
            seen = event["revision"]
            states.append(event["instance"]["state"])
            if states[-1] == "Running":
                break
        assert states[0] == "Stopped" and states.count("Stopped") == 1

        daemon.restart(signal.SIGKILL)  # nobody could write down what happened last
        stream = daemon.api.events(since=seen)
        first = next(stream)
        assert first["type"] == "reset" and first["revision"] > seen and "old" in first["reason"]
        assert [next(stream)["type"] for _ in range(2)] == ["existing", "synced"]
        stream.close()
        daemon.api.fails(400, "Bad Request", "GET", "/events?since=x")


def test_a_watcher_that_does_not_read_is_started_anew_and_costs_nobody_else(daemon, api):
    doubles.create(daemon, "noisy", env={"PAD": "x" * 200000})
    slow = socket.socket(socket.AF_UNIX)
    slow.connect(str(daemon.socket))
    slow.sendall(f"GET /events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    stream, rows = api.watch()
    stop, numbers, errors = [float("inf")], [], []
    quick = threading.Thread(target=replay, args=(stream, rows, lambda: stop[0], numbers, errors), daemon=True)
    quick.start()
    for _ in range(30):  # 60 changes of 200 kB: more than its buffer and the journal hold
        api.post("/instances/noisy/stop")
        api.post("/instances/noisy/start", {})
    stop[0] = revision(listing(api))
    api.post("/instances/noisy/stop")
    quick.join(harness.PATIENCE)
    assert not errors and not quick.is_alive(), errors
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    stream.close()
    slow.settimeout(harness.PATIENCE)
    text = b""
    while b"too far behind" not in text:
        piece = slow.recv(1 << 16)
        assert piece, "the stream ended"
        text = text[-100:] + piece
    slow.close()


class Lister(threading.Thread):
    def __init__(self, api, until):
        super().__init__(daemon=True)
        self.api, self.until, self.error, self.n = api, until, None, 0

    def run(self):
        last = 0
        try:
            while time.monotonic() < self.until:
                answer = listing(self.api)
                assert answer.status == 200
                rows = answer.json()
                names = [i["name"] for i in rows]
                assert len(names) == len(set(names)), names
                assert revision(answer) >= last, "a revision went back"
                last = revision(answer)
                self.n += 1
        except BaseException as error:
            self.error = error


def churn(daemon, name, until, errors):
    try:
        while time.monotonic() < until:
            made = doubles.create(daemon, name)
            if random.random() < 0.5:
                daemon.api.post(f"/instances/{name}/stop")
            elif random.random() < 0.5:
                doubles.tell(daemon, made, signal.SIGUSR1)
                daemon.api.wait(made["id"], "Stopped")
            daemon.api.delete(f"/instances/{name}", graceful_shutdown=False)
    except BaseException as error:
        errors.append(error)


def replay(stream, rows, stop, numbers, error):
    """Keeps rows as the events say."""
    try:
        for event in stream:
            if event["revision"] > stop():
                return
            numbers.append(event["revision"])
            assert event["type"] in ("created", "updated", "deleted"), event["type"]
            assert (event["type"] == "created") == (event["id"] not in rows), event
            if event["type"] == "deleted":
                del rows[event["id"]]
            else:
                rows[event["id"]] = event["instance"]
    except BaseException as e:
        error.append(e)


@pytest.mark.core
def test_lists_are_whole_and_watches_complete_while_all_changes(daemon, api):
    seconds = float(os.environ.get("HYPEMAN_CHURN_SECONDS", "4"))
    clients, workers = (200, 50) if seconds >= 30 else (12, 6)
    stop, numbers, errors, end = [float("inf")], [], [], time.monotonic() + seconds
    stream, rows = api.watch()
    watching = threading.Thread(target=replay, args=(stream, rows, lambda: stop[0], numbers, errors), daemon=True)
    watching.start()
    listers = [Lister(daemon.api, end) for _ in range(clients)]
    churners = [threading.Thread(target=churn, args=(daemon, f"c-{i}", end, errors), daemon=True) for i in range(workers)]
    for one in (*listers, *churners):
        one.start()
    for one in (*listers, *churners):
        one.join(harness.PATIENCE + seconds)
    doubles.create(daemon, "last")
    final = listing(api)
    stop[0] = revision(final)
    doubles.create(daemon, "bell")  # behind it the watch has seen all
    watching.join(harness.PATIENCE)
    stream.close()
    assert not watching.is_alive() and not errors, errors
    assert not [one.error for one in listers if one.error], next(one.error for one in listers if one.error)
    assert all(one.n for one in listers)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a change was lost, or came twice"

    def gist(instances):
        return {i["id"]: (i["state"], i["exit_code"], i["stopped_at"]) for i in instances}

    assert gist(rows.values()) == gist(final.json()), "who followed the changes has what a list shows"


def test_every_end_is_seen(daemon, api):
    vms = [doubles.create(daemon, f"e-{i}") for i in range(20)]
    stream, rows = api.watch()
    daemon.doubles.mood("all", "exit 5")
    for pid in daemon.vm_processes():
        os.kill(pid, signal.SIGUSR1)
    ended = set()
    for event in stream:
        if event["instance"]["state"] == "Stopped" and event["instance"]["exit_code"] == 5:
            ended.add(event["id"])
        if len(ended) == len(vms):
            break
    stream.close()
    daemon.doubles.mood("all", "")
    assert {i["exit_code"] for i in api.get("/instances")} == {5}
