# SPDX-License-Identifier: Apache-2.0
"""A VM from its creation to its deletion."""
import itertools

import pytest

from guest_vm import exit_record
from harness import IMAGE, make_rootfs

core = pytest.mark.core

EXITS_7_ON_TERM = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 1 & wait $!; done"


@core
def test_create_run_exit_delete(api):
    made = api.create('echo "hello $WHO"; exit 5', name="short", env={"WHO": "world"}, tags={"a b": "c"},
                      later={"x": [1]})  # a field that is not known
    assert made["name"] == "short" and made["state"] in ("Created", "Initializing", "Running")
    assert made["size"] == "256.0 MB" and made["overlay_size"] == "64.0 MB" and made["hotplug_size"] == "0 B"
    assert made["vcpus"] == 1 and made["env"] == {"WHO": "world"} and made["tags"] == {"a b": "c"}
    assert made["expires_at"] is None and made["exit_code"] is None and made["has_snapshot"] is False

    ended = api.wait("short", "Stopped")
    assert ended["exit_code"] == 5 and ended["current_phase"] == "stopped"
    assert made["created_at"] <= ended["started_at"] <= ended["stopped_at"]
    assert ended["phase_durations_ms"].get("initializing", 0) > 0
    assert any("hello world" in line for line in api.logs("short"))

    api.delete("/instances/short")
    api.fails(404, "not_found", "GET", "/instances/short")
    api.fails(404, "not_found", "DELETE", "/instances/short")


@core
def test_stop_start_with_another_cmd_and_again(api):
    api.create(EXITS_7_ON_TERM, name="again")
    api.wait("again", "Running")
    api.logs("again", until=lambda line: "up" in line, follow=True)
    api.fails(409, "invalid_state", "POST", "/instances/again/start", {})

    stopped = api.post("/instances/again/stop")
    assert stopped["state"] == "Stopped" and stopped["exit_code"] == 7
    api.fails(409, "invalid_state", "POST", "/instances/again/stop")

    api.post("/instances/again/start", {"cmd": ["echo second; exit 3"]})
    second = api.wait("again", "Stopped")
    assert second["exit_code"] == 3 and second["stopped_at"] > stopped["stopped_at"]

    api.post("/instances/again/start", {})
    assert api.wait("again", "Stopped")["exit_code"] == 3
    assert second["id"] == stopped["id"]


def test_what_the_guest_wrote_is_there_after_a_start(api):
    api.create("cat /kept; echo written > /kept; sync; exit 0", name="disk")
    assert api.wait("disk", "Stopped")["exit_code"] == 0
    api.post("/instances/disk/start", {})
    api.wait("disk", "Stopped")
    assert any(line == "written" for line in api.logs("disk"))


@pytest.mark.parametrize("script, code, words", [
    ("kill -9 $$", 137, "signal"),
    ("exit 255", 255, None),
], ids=["signal", "255"])
def test_the_exit_code_is_as_a_shell_reports_it(api, script, code, words):
    api.create(script, name="end")
    ended = api.wait("end", "Stopped")
    assert ended["exit_code"] == code
    assert words is None or words in ended["exit_message"].lower()


def test_a_program_that_is_not_there_ends_with_127(api):
    api.create(name="none", entrypoint=["/no/such/program"], cmd=[])
    ended = api.wait("none", "Stopped")
    assert ended["exit_code"] == 127 and "/no/such/program" in ended["exit_message"]


INIT = """#!/bin/sh
trap 'kill -TERM -1; echo ending; while :; do sleep 1; done' TERM
echo up
while :; do sleep 1 & wait $!; done
"""


def test_an_init_that_is_killed_in_the_middle_of_its_shutdown_did_not_end_well(daemon, api, tmp_path):
    """Its agent has left word by then: that the end has begun."""
    rootfs = make_rootfs(tmp_path / "rootfs")
    (rootfs / "sbin").mkdir()
    (rootfs / "sbin/init").write_text(INIT)
    (rootfs / "sbin/init").chmod(0o755)
    daemon.import_image(rootfs, "stuck")
    made = api.create(name="stuck", image="stuck", entrypoint=["/sbin/init"], cmd=[])
    api.logs("stuck", until=lambda line: line == "up", follow=True)
    api.wait("stuck", "Running")
    stopped = api.post("/instances/stuck/stop")
    assert "ending" in api.logs("stuck")
    assert exit_record(daemon.instance_dir(made["id"]) / "config.raw")["early"] is True
    assert stopped["exit_code"] is None and "killed: the guest did not end by itself in time" in stopped["exit_message"]


def test_ids_names_and_prefixes(api):
    one = api.create(name="one")
    two = api.create(name="two")
    ids = (one["id"], two["id"])
    common = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ids)))
    for key in (one["id"], "one", one["id"][: len(common) + 1]):
        assert api.get(f"/instances/{key}")["id"] == one["id"]
    if common:
        refusal = api.fails(409, "ambiguous", "GET", f"/instances/{common}")
        assert refusal["message"] == "multiple resources match, use full ID"
    else:
        # A name goes before a prefix: a VM that is called like the other's prefix is the one that is meant.
        named = api.create(name=two["id"][:8])
        assert api.get(f"/instances/{two['id'][:8]}")["id"] == named["id"]
    for key in ("three", one["id"] + "0", one["id"][:-1] + "_", "%20", "on"):
        assert api.fails(404, "not_found", "GET", f"/instances/{key}")["message"] == "resource not found"


def test_an_ambiguous_prefix_is_409(api):
    # Ids begin with one of 26 letters, so among that many one letter is there twice; names keep out of their way.
    first = {}
    for number in itertools.count():
        made = api.create("exit 0", name=f"0-{number}", size="128MB")
        letter = made["id"][0]
        if letter in first:
            break
        first[letter] = made["id"]
        if number >= 11:  # 12 of 26 letters without a pair: as good as never (p < 0.04), and a VM costs time
            pytest.skip("no two ids with the same first letter")
    for what in ("GET", "DELETE", "POST /stop", "GET /logs", "GET /wait?state=Running"):
        method, _, rest = what.partition(" ")
        api.fails(409, "ambiguous", method, f"/instances/{letter}{rest}")


@core
def test_lists_filter_by_state_and_tags(api):
    running = api.run(name="running", tags={"kind": "a", "x/y": "1=1"})
    api.create("exit 0", name="ended", tags={"kind": "a"})
    api.wait("ended", "Stopped")

    def names(query):
        return [one["name"] for one in api.get(f"/instances{query}")]

    assert names("") == ["running", "ended"]
    assert names("?state=Running") == ["running"]
    assert names("?state=Stopped") == ["ended"]
    assert names("?state=Standby") == []
    assert names("?tags[kind]=a") == ["running", "ended"]
    assert names("?tags%5Bkind%5D=a&tags%5Bx%2Fy%5D=1%3D1") == ["running"]
    assert names("?tags[kind]=a&tags[x/y]=2") == []
    assert names("?state=Stopped&tags[kind]=a") == ["ended"]
    assert api.get("/images?tags[kind]=a") == []
    goes_on = {"phase_durations_ms": 0, "observed_at": 0, "last_probe": 0}
    assert api.get("/instances")[0] | goes_on == running | goes_on


@pytest.mark.parametrize("hypervisor", ["qemu", "qemu-microvm"])
def test_both_machines_of_qemu_run_it(api, hypervisor):
    made = api.create("echo here; exit 0", name="machine", hypervisor=hypervisor)
    assert made["hypervisor"] == hypervisor
    assert api.wait("machine", "Stopped")["exit_code"] == 0


def test_the_command_line_does_the_same(daemon):
    made = daemon.cli("run", "--name", "by-cli", "--memory", "256MB", "--overlay-size", "64MB",
                      "--entrypoint", "/bin/sh", IMAGE, "-c", "echo from the guest; exit 4")
    key = made.stdout.split()[-1]
    assert daemon.cli("wait", "by-cli", "--state", "Stopped").returncode == 0
    assert "by-cli" in daemon.cli("ps", "-a").stdout
    assert key in daemon.cli("ps", "-a", "-q", "--format", "json").stdout + daemon.cli("ps", "-a", "-q").stdout
    assert "from the guest" in daemon.cli("logs", "by-cli").stdout
    assert '"exit_code": 4' in daemon.cli("inspect", "by-cli").stdout
    daemon.cli("rm", "by-cli")
    refused = daemon.cli("inspect", "by-cli", check=False)
    assert refused.returncode != 0 and "by-cli" in refused.stderr

