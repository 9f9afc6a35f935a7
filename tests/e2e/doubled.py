# SPDX-License-Identifier: Apache-2.0
"""A daemon whose VMMs are doubles (tests/doubles): what they are told to do wrong, and what they were told.

The double's guest is imagined: it greets, says that its workload runs, and writes what it is
called to the end of its disk. It counts what it was told (GET /double).
"""
import contextlib
import hashlib
import json
import os
import signal

import harness
from harness import Api


@contextlib.contextmanager
def serving(hypervisor, root, rootfs, data=None, wrapper=(), **settings):
    faults = root / "faults"
    daemon = harness.Daemon(root, data)
    daemon.environment = {
        f"HYPERVISOR__{hypervisor.upper().replace('-', '_')}_BINARY_PATH": str(harness.BUILD / "tests/doubles" / hypervisor),
        "HYPERVISOR__ACCELERATION": "kvm",
        "HYPERVISOR__DEFAULT": hypervisor,
        "GUEST__KERNEL": str(harness.BUILD / "tests/guests/tiny"),
        "HYPEMAN_DOUBLE_FAULTS": str(faults),
        **settings,
    }
    daemon.wrapper = list(wrapper)
    daemon.faults = faults
    daemon.hypervisor = hypervisor
    try:
        daemon.start()
        daemon.import_image(rootfs)
        daemon.mark()
        yield daemon
        faults.write_text("")
        daemon.fds_before = None
        daemon.assert_nothing_left()
        daemon.stop()
    finally:
        daemon.kill_all()


def create(daemon, name="vm"):
    return daemon.api.run(name=name, hypervisor=daemon.hypervisor, size="64MB", overlay_size="16MB")


def ask(daemon, instance, path):
    """The VMM, over its own socket, which nobody else asks meanwhile."""
    here = os.open(daemon.instance_dir(instance["id"]), os.O_RDONLY)
    try:
        answer = Api(f"/proc/self/fd/{here}/api.sock").open("GET", path)
        return json.loads(answer[1].read())
    finally:
        answer[0].close()
        os.close(here)


def counts(daemon, instance):
    """How often a double was told what."""
    return ask(daemon, instance, "/double")


def traces(daemon):
    """The last operations, the newest first; not part of the API."""
    connection, answer = daemon.api.open("GET", "/debug/traces")
    with harness.connection_closing(connection):
        return json.loads(answer.read())


def name_on_disk(daemon, instance):
    disk = daemon.instance_dir(instance["id"]) / "overlay.raw"
    return disk.read_bytes()[-512:].rstrip(b"\0").decode()


def memory_hash(daemon, instance):
    return hashlib.sha256((daemon.instance_dir(instance["id"]) / "snapshot/memory").read_bytes()).hexdigest()


def fork(daemon, source, name, state="Running"):
    return daemon.api.post(f"/instances/{source}/fork", {"name": name, "target_state": state, "wait_for_network": True})


def truncate_memory(here):
    os.truncate(here / "snapshot/memory", 4096)


def spoil_state(here):
    (here / "snapshot/state").write_text("no state that anybody wrote")


def take_disk_away(here):
    (here / "overlay.raw").rename(here / "hidden")


SPOILERS = [truncate_memory, spoil_state, take_disk_away]


def check_that_a_spoilt_snapshot_is_refused_and_kept(daemon, spoil, words):
    """A load of it ends its process and says why; the instance sleeps on, and wakes once it is whole again."""
    made = create(daemon)
    daemon.api.post("/instances/vm/standby")
    here = daemon.instance_dir(made["id"])
    names = ("snapshot/memory", "snapshot/state", "overlay.raw")
    whole = {name: (here / name).read_bytes() for name in names}
    spoil(here)
    spoilt = {name: (here / name).read_bytes() for name in names if (here / name).exists()}
    for _ in range(2):
        refused = daemon.api.request("POST", "/instances/vm/restore")
        assert refused.status in (409, 500) and words in refused.json()["message"], refused
        assert daemon.api.get("/instances/vm")["state"] == "Standby" and not daemon.vm_processes()
        assert spoilt == {name: (here / name).read_bytes() for name in names if (here / name).exists()}
        daemon.restart(signal.SIGKILL)  # that it sleeps is what the record says too
    for name, content in whole.items():
        (here / name).write_bytes(content)
    (here / "hidden").unlink(missing_ok=True)
    assert daemon.api.post("/instances/vm/restore")["state"] == "Running"
    daemon.api.delete("/instances/vm")


def check_that_a_deaf_guest_is_pressed_and_then_killed(daemon, request, pressed):
    """A guest that does not hear its agent; request: what the VMM refuses then, so that only the kill is left."""
    faults = "keeps-on 0\n" + (f"refuse 0 {request}\n" if request else "")
    made = create(daemon)
    daemon.faults.write_text(faults)
    log = daemon.instance_dir(made["id"]) / "app.log"
    stopped = daemon.api.post("/instances/vm/stop")
    assert stopped["state"] == "Stopped" and not daemon.vm_processes()
    assert (pressed in log.read_text()) == (request is None)
    assert request is None or "did not end by itself" in stopped["exit_message"], stopped
    daemon.api.delete("/instances/vm")
