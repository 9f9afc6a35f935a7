# SPDX-License-Identifier: Apache-2.0
"""At every step of standby, restore and fork: the daemon is killed, the disk is full, the VMM is killed.

The steps are those of a good run (see faults.py), so a step that is added is met as well. By default the decisive ones
are met; make test-faults meets each. What must hold afterwards is in World.agree() and Scenario.check().
"""
import collections
import contextlib
import itertools
import os
import pathlib
import re
import signal
import sqlite3

import pytest

import harness
from faults import FULL, KILL, STALL, Faults
from harness import Background, until, wait_gone

EVERY_STEP = os.environ.get("HYPEMAN_EVERY_STEP") == "1"
COUNTS = "i=0; while :; do echo count $i; echo $i >> /disk; i=$((i+1)); sleep 0.05; done"
HAS_PROCESS = ("Initializing", "Running")

# Where one state of things becomes another; one out of several that are alike.
DECISIVE = re.compile(
    r"(qmp (stop|xen-save-devices-state|migrate-incoming|cont)"
    r"|pwrite \S+/memory|sync \S+/memory|renameat instances/\S+|sync instances/SOURCE|sync instances"
    r"|copy_file_range \S+/overlay.raw|linkat \S+/state|create \S+/vmm.log"
    r"|sync hypeman.db-wal|unlinkat \S+/api.sock|unlinkat \S+/snapshot/memory)"
)


# How much of it there is is the guest's matter: of these one that is early in the row, counted from the command before it.
VARIES = re.compile(r"pwrite \S+/memory")


class World:
    """A daemon under faults, and one instance that sleeps: every source is a fork of it."""

    def __init__(self, daemon, faults):
        self.d, self.faults, self.made = daemon, faults, 0
        self.source = None
        self.d.api.create(COUNTS, name="golden", size="128MB", overlay_size="16MB")
        self.d.api.wait("golden", "Running")
        until("it counts", lambda: self.numbers(self.get("golden")["id"]), 20)
        self.golden = self.d.api.post("/instances/golden/standby")["id"]

    def get(self, key):
        """The instance, or None."""
        answer = self.d.api.request("GET", f"/instances/{key}")
        assert answer.status in (200, 404), answer
        return answer.json() if answer.status == 200 else None

    def name(self, what):
        self.made += 1
        return f"{what}-{self.made}"

    # --- the guests' own word ---

    def numbers(self, instance_id):
        """What the guest has counted on its console, from one number on without gap or repetition."""
        log = self.d.instance_dir(instance_id) / "app.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        seen = [int(n) for n in re.findall(r"^count (\d+)\r?\n", text, re.M)]
        assert seen == list(range(seen[0], seen[0] + len(seen))) if seen else True, f"{instance_id} counted {seen[-40:]}"
        return seen

    def last(self, instance_id):
        return (self.numbers(instance_id) or [-1])[-1]

    def goes_on(self, instance_id):
        before = self.last(instance_id)
        until(f"{instance_id} counts on", lambda: self.last(instance_id) > before + 1, 20)

    # --- a source in a state ---

    def source_in(self, state):
        """Its id. One that the last fault has spared is taken again."""
        now = self.source and self.get(self.source)
        if now and now["state"] != state and {now["state"], state} == {"Running", "Standby"}:
            now = self.d.api.post(f"/instances/{self.source}/{'restore' if state == 'Running' else 'standby'}")
        if not now or now["state"] != state:
            if now:
                self.d.api.delete(f"/instances/{self.source}", graceful_shutdown=False)
            body = {"name": self.name("source"), "target_state": state}
            self.source = self.d.api.post("/instances/golden/fork", body)["id"]
            if state == "Running":
                self.goes_on(self.source)
        self.faults.subject(self.source)
        return self.source

    def others(self):
        return [one for one in self.d.api.get("/instances") if one["id"] not in (self.golden, self.source)]

    def reset(self):
        """After a failure: only the golden one stays."""
        self.faults.clear()
        if self.d.process.poll() is not None:
            self.d.restart()
        for one in self.d.api.get("/instances"):
            if one["id"] != self.golden:
                self.d.api.delete(f"/instances/{one['id']}", graceful_shutdown=False)
        self.source = None
        self.d.restart()

    # --- what must hold whenever nothing is under way ---

    def stored(self):
        with contextlib.closing(sqlite3.connect(f"file:{self.d.data}/hypeman.db?mode=ro", uri=True)) as db:
            query = "SELECT id, name, json_extract(state, '$.state') FROM instances"
            return {row[0]: row[1:] for row in db.execute(query)}

    def agree(self, and_store=True):
        """The table, the store, the directories and the processes are of one mind."""
        listed = {one["id"]: one for one in self.d.api.get("/instances")}
        if and_store:
            assert self.stored() == {key: (one["name"], one["state"]) for key, one in listed.items()}
        assert {one.name for one in (self.d.data / "instances").iterdir()} == set(listed)
        living = sorted(pathlib.Path(os.readlink(f"/proc/{pid}/cwd")).name for pid in self.d.vm_processes())
        assert living == sorted(key for key, one in listed.items() if one["state"] in HAS_PROCESS)
        for key, one in listed.items():
            here = self.d.instance_dir(key)
            assert not (here / "snapshot.new").exists(), f"a half-made snapshot of {one['name']} is left"
            assert (here / "snapshot").exists() == (one["state"] == "Standby"), f"{one['name']}, {one['state']}"

    def settled(self, and_store=True):
        """What is observed is written a moment after it is shown."""
        problem = None

        def holds():
            nonlocal problem
            try:
                self.agree(and_store)
                return True
            except (AssertionError, FileNotFoundError) as error:
                problem = error
                return False

        try:
            until("all agree", holds, 5)
        except AssertionError:
            raise problem from None


class Scenario:
    def __init__(self, name, before, path, body, promised):
        self.name, self.before, self.path, self.body, self.promised = name, before, path, body, promised
        self.is_fork = path == "fork"
        self.fork_name = None

    def prepare(self, w):
        self.source = w.source_in(self.before)
        if self.is_fork:
            self.fork_name = w.name("fork")

    def act(self, w):
        """The answer, or None when the daemon is gone."""
        body = {**self.body, "name": self.fork_name} if self.is_fork else self.body
        try:
            return w.d.api.request("POST", f"/instances/{self.source}/{self.path}", body)
        except OSError:
            return None

    def whole(self, w, key):
        """It is what its state says: it wakes, it goes on."""
        now = w.get(key)
        if now["state"] == "Standby":
            now = w.d.api.post(f"/instances/{key}/restore")
        if now["state"] == "Initializing":
            now = w.d.api.wait(key, "Running")
        if now["state"] == "Running":
            w.goes_on(key)

    def check_source(self, w, answer, may_be):
        """may_be: the states in which a source is unharmed. One that the fault has killed is not asked to go on."""
        now = w.get(self.source)["state"]
        assert now in may_be, f"the source is {now}, not {may_be}"
        if now != "Stopped":
            self.whole(w, self.source)

    def check_fork(self, w, answer, vmm_killed):
        made = w.get(self.fork_name)
        if answer and answer.status >= 400:
            assert made is None, "it was refused and is there"
        if answer and answer.status < 400 and not vmm_killed:
            assert made and made["state"] in self.promised, f"acknowledged, but {made}"
        if made:
            states = ("Stopped", *self.promised) if vmm_killed else self.promised
            assert made["state"] in states, f"it is {made['state']}, not {states}"
            self.whole(w, made["id"])
            w.d.api.delete(f"/instances/{made['id']}", graceful_shutdown=False)

    def check(self, w, answer, source_may_be, vmm_killed=False):
        w.settled()
        if self.is_fork:
            self.check_fork(w, answer, vmm_killed)
        elif answer and answer.status < 400 and not vmm_killed:
            source_may_be = self.promised
        self.check_source(w, answer, source_may_be)
        w.settled()

    def unharmed(self):
        return (self.before,) if self.is_fork else ("Running", "Standby")


SCENARIOS = [
    Scenario("standby", "Running", "standby", None, ("Standby",)),
    Scenario("restore", "Standby", "restore", None, ("Running",)),
    Scenario("fork-stopped", "Stopped", "fork", {}, ("Stopped",)),
    Scenario("fork-stopped-run", "Stopped", "fork", {"target_state": "Running"}, HAS_PROCESS),
    Scenario("fork-standby", "Standby", "fork", {}, ("Standby",)),
    Scenario("fork-standby-run", "Standby", "fork", {"target_state": "Running"}, ("Running",)),
    Scenario("fork-running", "Running", "fork", {"from_running": True}, ("Running",)),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory, rootfs):
    d = harness.Daemon(tmp_path_factory.mktemp("faults"))
    faults = Faults(d)
    try:
        d.start()
        d.import_image(rootfs)
        yield World(d, faults)
        faults.clear()
        d.assert_nothing_left()
        d.stop()
    finally:
        d.kill_all()


@pytest.fixture(scope="module")
def recorded():
    """The steps of a good run of each scenario."""
    return {}


def numbered(labels):
    """(label, which one, since which step) of each step; of a row of equal ones the first, one in the middle, the last."""
    steps, seen, mark, at_mark = [], collections.Counter(), None, collections.Counter()
    for label, group in itertools.groupby(labels):
        n, before = len(list(group)), seen[label]
        if VARIES.fullmatch(label):
            before -= at_mark[label]
            steps += [(label, before + k, mark) for k in sorted({1, min(n, 4)})]
        else:
            steps += [(label, before + k, None) for k in sorted({1, (n + 1) // 2, n})]
        seen[label] += n
        if label.startswith("qmp "):
            mark, at_mark = (label, seen[label]), seen.copy()
    return steps


def steps_of(w, recorded, scenario):
    if scenario.name not in recorded:
        scenario.prepare(w)
        answer, labels = w.faults.record(lambda: scenario.act(w))
        assert answer.status < 400, answer
        scenario.check(w, answer, scenario.unharmed())
        recorded[scenario.name] = numbered(labels)
    steps = recorded[scenario.name]
    return steps if EVERY_STEP else decisive(steps)


def decisive(steps):
    """Of a row the one in the middle only, where there is one."""
    rows = [list(row) for _, row in itertools.groupby(steps, key=lambda step: step[0])]
    return [row[len(row) // 2] for row in rows if DECISIVE.fullmatch(row[0][0])]


def meet_each(w, steps, meet):
    """All steps are met also when one goes wrong."""
    wrong, missed = [], []
    for step in steps:
        try:
            if not meet(*step):
                missed.append(step)
        except Exception as error:
            wrong.append(f"--- at {step[0]} ({step[1]}): {type(error).__name__} {error}\n{w.d.log_tail(6)}")
            w.reset()
    assert not wrong, f"{len(wrong)} of {len(steps)} steps\n" + "\n".join(wrong)
    assert not missed, f"these {len(missed)} of {len(steps)} steps did not come again: {missed}"


def scenarios(*names):
    """Every one where every step is asked for, else these."""
    chosen = [one for one in SCENARIOS if EVERY_STEP or not names or one.name in names]
    return pytest.mark.parametrize("scenario", chosen, ids=lambda one: one.name)


@scenarios()
def test_a_daemon_that_is_killed_at_a_step_finishes_or_undoes_it(world, recorded, scenario):
    w = world

    def meet(label, at, since):
        scenario.prepare(w)
        w.faults.arm(KILL, label, at, since)
        answer = scenario.act(w)
        hit = w.faults.came()
        w.faults.clear()
        if hit:
            w.d.restart()
        scenario.check(w, answer, scenario.unharmed())
        return hit

    meet_each(w, steps_of(w, recorded, scenario), meet)


@scenarios("standby", "restore", "fork-stopped", "fork-running")
def test_a_disk_that_is_full_from_a_step_on_refuses_it_and_harms_nothing(world, recorded, scenario):
    w = world

    def meet(label, at, since):
        scenario.prepare(w)
        w.faults.arm(FULL, label, at, since)
        answer = scenario.act(w)
        hit = w.faults.came()
        assert answer is not None, "the daemon ended"
        # What a failed sync says is lost in SQLite.
        assert answer.status < 400 or answer.status == 507 or label == "sync hypeman.db-wal", answer
        w.faults.clear()
        if label.endswith("hypeman.db-wal"):
            # What is observed is not written down; and what was refused must not come back.
            w.settled(and_store=False)
            w.d.restart()
        scenario.check(w, answer, scenario.unharmed())
        return hit

    steps = steps_of(w, recorded, scenario)
    meet_each(w, [step for step in steps if not re.match("qmp|unlinkat|clone|create .*hypeman.log", step[0])], meet)


@scenarios("standby", "restore", "fork-standby-run", "fork-running")
def test_a_vmm_that_is_killed_at_a_step_takes_nobody_with_it(world, recorded, scenario):
    w = world
    steps = steps_of(w, recorded, scenario)

    def victim():
        """The new one's VMM if there is one yet, else the source's."""
        pids = {pathlib.Path(os.readlink(f"/proc/{pid}/cwd")).name: pid for pid in w.d.vm_processes()}
        new = [pid for name, pid in pids.items() if name not in (w.source, w.golden)]
        return (new or [pids.get(w.source)])[0]

    def meet(label, at, since):
        scenario.prepare(w)
        w.faults.arm(STALL, label, at, since)
        work = Background(scenario.act, w)
        until("that step", lambda: w.faults.hit() or not work.is_alive())
        hit, pid = w.faults.came(), victim()
        sources = pid and pathlib.Path(os.readlink(f"/proc/{pid}/cwd")).name == w.source
        if hit and pid:
            os.kill(pid, signal.SIGKILL)
            if label != "qmp cont":  # that it is told before it is seen is part of the game
                wait_gone(pid)
        w.faults.clear()
        answer = work.result()
        may_be = scenario.unharmed()
        if hit and sources:
            may_be = ("Stopped",) if scenario.is_fork else ("Stopped", "Standby")
        scenario.check(w, answer, may_be, vmm_killed=bool(hit and pid))
        return hit

    meet_each(w, steps if EVERY_STEP else steps[::2], meet)


def test_a_snapshot_is_on_the_disk_before_it_has_its_name(world):
    """Memory, state and what made it, then the name, then the record: nothing is told before."""
    w = world
    source = w.source_in("Running")
    _, steps = w.faults.record(lambda: w.d.api.post(f"/instances/{source}/standby"))
    place = {label: i for i, label in enumerate(steps)}  # of the last one

    def in_order(*labels):
        at = [place[label] for label in labels]
        assert at == sorted(at), f"{labels} came at {at}"

    here = "instances/SOURCE"
    named = f"renameat {here}/snapshot"
    for file in ("memory", "state", ".made-by.new"):
        in_order(f"sync {here}/snapshot.new/{file}", named)
    in_order(f"renameat {here}/snapshot.new/made-by", f"sync {here}/snapshot.new", named)
    in_order("qmp stop", f"sync {here}/overlay.raw", named, f"sync {here}", "sync hypeman.db-wal")
    assert steps.index(f"mkdirat {here}/snapshot.new") < steps.index("qmp stop"), "a crash would leave it paused"
    assert steps.index(f"sync {here}/overlay.raw") < steps.index("qmp stop"), "the disk is flushed before the pause"


def test_a_standby_whose_record_cannot_be_written_is_one_all_the_same(world):
    w = world
    source = w.source_in("Running")
    w.faults.arm(FULL, "sync hypeman.db-wal", 1)
    assert w.d.api.post(f"/instances/{source}/standby")["state"] == "Standby"
    assert w.faults.hit() and w.get(source)["state"] == "Standby"
    w.faults.clear()
    w.d.restart()
    assert w.d.api.post(f"/instances/{source}/restore")["state"] == "Running"
    w.goes_on(source)


# Each meets a disk that stands still on behalf of one operation; the last on behalf of the records of all.
STALLS = {
    "standby": ("Running", "standby", None, "sync instances/SOURCE/snapshot.new/memory"),
    "standby-named": ("Running", "standby", None, "sync instances/SOURCE"),
    "restore": ("Standby", "restore", None, "create instances/SOURCE/vmm.log"),
    "capture": ("Running", "fork", {"from_running": True}, "create instances/NEW/overlay.raw"),
}


def answers(w, *keys):
    """Reads do not wait for the disk."""
    listed = [one["id"] for one in w.d.api.get("/instances")]
    for key in keys:
        assert key in listed and w.get(key)["id"] == key


STRONGER = list(itertools.product(["stop", "delete"], STALLS)) if EVERY_STEP else [
    ("stop", "standby-named"), ("delete", "restore"), ("delete", "capture")]  # each takes 10 s of patience


@pytest.mark.parametrize("stronger,name", STRONGER)
def test_what_waits_for_a_disk_that_stands_still_can_be_stopped_and_deleted(world, stronger, name):
    w = world
    state, path, body, label = STALLS[name]
    source = w.source_in(state)
    w.faults.arm(STALL, label, 1)
    fork = w.name("stalled")
    body = {**body, "name": fork} if path == "fork" else body
    work = Background(w.d.api.request, "POST", f"/instances/{source}/{path}", body)
    until("it stands still", lambda: w.faults.hit() or not work.is_alive())
    assert w.faults.hit()
    answers(w, source, w.golden)
    refusal = w.d.api.fails(409, "busy", "POST", f"/instances/{source}/{path}", body and {**body, "name": "another"})
    assert "under way" in refusal["message"]
    assert w.d.api.post("/instances/golden/fork", {"name": w.name("beside")})["state"] == "Standby", "others go on"
    end = ("POST", f"/instances/{source}/stop") if stronger == "stop" else ("DELETE", f"/instances/{source}")
    ended = w.d.api.request(*end)  # it is told, although the disk still stands still
    assert work.is_alive() and ended.status in (200, 204), ended
    answers(w, w.golden)
    w.faults.clear()
    assert work.result().status >= 400
    for one in w.others():
        w.d.api.delete(f"/instances/{one['id']}", graceful_shutdown=False)
    for _ in range(2):  # and what came late is undone, also in the records
        w.settled()
        now = w.get(source)
        assert (now["state"] if now else None) == ("Stopped" if stronger == "stop" else None)
        w.d.restart()


def test_a_store_that_stands_still_holds_back_promises_and_no_reads(world):
    w = world
    source = w.source_in("Running")
    w.faults.arm(STALL, "sync hypeman.db-wal", 1)
    work = Background(w.d.api.request, "POST", f"/instances/{source}/standby")
    until("it stands still", w.faults.hit)
    answers(w, source, w.golden)
    late = [
        Background(w.d.api.request, "DELETE", f"/instances/{source}?graceful_shutdown=false"),
        Background(w.d.api.request, "POST", "/instances/golden/fork", {"name": w.name("late")}),
    ]
    answers(w, source, w.golden)
    assert all(one.is_alive() for one in (work, *late)), "nothing is acknowledged that is not on the disk"
    w.faults.clear()
    assert work.result().status in (200, 409)
    assert [one.result().status for one in late] == [204, 201]
    for one in w.others():
        w.d.api.delete(f"/instances/{one['id']}", graceful_shutdown=False)
    w.settled()
    assert w.get(source) is None


WITHDRAWN = "renameat instances/SOURCE/snapshot/used"  # from here on a snapshot counts for nothing


@pytest.mark.parametrize("again", [WITHDRAWN, "unlinkat instances/SOURCE/snapshot/memory", "qmp cont"])
def test_a_daemon_that_is_killed_again_while_it_recovers_tells_no_stale_memory(world, again):
    """What it finds after that, the VMM being gone too, is the memory that fits the disk, or none."""
    w = world
    source = w.source_in("Running")
    w.faults.arm(KILL, "sync instances/SOURCE", 1)  # the snapshot has its name, the VM is paused
    with pytest.raises(OSError):  # the connection breaks with the daemon
        w.d.api.request("POST", f"/instances/{source}/standby")
    pid = w.d.vm_pid(source)
    w.d.end(signal.SIGKILL)
    w.faults.clear()
    w.faults.arm(KILL, again, 1)
    with pytest.raises(AssertionError, match="the daemon ended"):
        w.d.start()
    assert w.faults.hit()
    w.faults.clear()
    before = w.last(source)
    with contextlib.suppress(AssertionError):  # it may be paused, then nothing comes
        until("the guest runs on", lambda: w.last(source) > before + 2, 1)
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    w.d.start()
    w.settled()
    now = w.get(source)["state"]
    assert now == ("Standby" if again == WITHDRAWN else "Stopped")
    if now == "Standby":
        w.d.api.post(f"/instances/{source}/restore")
        w.goes_on(source)
