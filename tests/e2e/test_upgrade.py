# SPDX-License-Identifier: Apache-2.0
"""A VMM's program that is replaced while the daemon and its VMs run on: whose snapshot it is, and who loads it."""
import re

import pytest

import doubles


@pytest.fixture
def daemon(tmp_path, rootfs):
    yield from doubles.serve(tmp_path, rootfs)


def put(daemon, version):
    """As a package does it: a new file, by rename."""
    program, new = daemon.doubles.program, daemon.doubles.where / "new"
    new.write_bytes(re.sub(rb"version 7\.2\.. \(", f"version {version} (".encode(), program.read_bytes()))
    new.chmod(0o755)
    new.rename(program)


def refused(daemon, path, body=None):
    before = set(daemon.vm_processes())
    refusal = daemon.api.fails(409, "invalid_state", "POST", f"/instances/{path}", body)
    assert "another hypervisor" in refusal["message"] and "7.2.0 (" in refusal["message"] and "7.2.9 (" in refusal["message"]
    assert set(daemon.vm_processes()) == before


def test_a_snapshot_belongs_to_the_program_that_made_it(daemon):
    api = daemon.api
    for name in ("asleep", "awake"):
        doubles.create(daemon, name)
    api.post("/instances/asleep/standby")
    put(daemon, "7.2.0")  # another file of the same version
    assert api.post("/instances/asleep/restore")["state"] in ("Initializing", "Running")
    api.post("/instances/asleep/standby")
    put(daemon, "7.2.9")
    refused(daemon, "asleep/restore")
    refused(daemon, "asleep/fork", {"name": "fork", "target_state": "Running"})
    assert api.post("/instances/awake/standby")["state"] == "Standby"  # by the old one, which runs in it
    refused(daemon, "awake/restore")
    doubles.create(daemon, "new")
    api.post("/instances/new/standby")
    assert api.post("/instances/new/restore")["state"] in ("Initializing", "Running")
    put(daemon, "7.2.0")
    for name in ("asleep", "awake"):
        assert api.post(f"/instances/{name}/restore")["state"] in ("Initializing", "Running")
