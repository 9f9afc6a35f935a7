# SPDX-License-Identifier: Apache-2.0
"""A daemon whose VMMs are doubles (tests/doubles): what they are told to do wrong, and what they were told.

The double's guest is imagined: it greets, says that its workload runs, and writes what it is
called to the end of its disk. It counts what it was told (GET /double).
"""
import contextlib
import hashlib
import json
import os

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


def counts(daemon, instance):
    """What the double was told, over its own socket, which nobody else asks meanwhile."""
    here = os.open(daemon.instance_dir(instance["id"]), os.O_RDONLY)
    try:
        answer = Api(f"/proc/self/fd/{here}/api.sock").open("GET", "/double")
        return json.loads(answer[1].read())
    finally:
        answer[0].close()
        os.close(here)


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
