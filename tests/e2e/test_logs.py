# SPDX-License-Identifier: Apache-2.0
"""GET /instances/{id}/logs: what the guest printed, a line an event."""
import re

import pytest

from harness import Background


@pytest.fixture(scope="module")
def talker(daemon):
    """A VM that has printed 300 numbered lines, then what is not text, then a huge line, then the end."""
    script = r"""
        i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo "number $i"; done
        printf 'caf\303\251 "quoted" \\ \377\376 \033[1mbold \001\n'
        head -c 150000 /dev/zero | tr '\0' x; echo
        echo; echo the end; while :; do sleep 1; done"""
    made = daemon.api.run(script, name="talker")
    daemon.api.logs("talker", until=lambda line: line == "the end", follow=True)
    daemon.mark(made["id"])
    return made["id"]


def test_the_tail_is_the_last_lines_and_the_stream_ends(api, talker):
    assert api.logs(talker)[0] == "number 205"  # 100 lines, of which one may come in pieces
    assert len(api.logs(talker)) in range(100, 105)
    assert api.logs(talker, tail=2) == ["", "the end"]
    assert api.logs(talker, tail=1, source="app") == ["the end"]
    everything = api.logs(talker, tail=100000)
    assert api.logs(talker, tail="all") == everything
    numbers = [int(m[1]) for m in (re.fullmatch(r"number (\d+)", line) for line in everything) if m]
    assert numbers == list(range(1, 301))
    assert not any(line.endswith("\r") or "\n" in line for line in everything)


def test_a_line_that_is_not_text_is_one_all_the_same(api, talker):
    line = next(line for line in api.logs(talker, tail=100000) if line.startswith("caf"))
    assert line == 'café "quoted" \\ \ufffd\ufffd \x1b[1mbold \x01'


def test_a_huge_line_arrives_whole_and_the_stream_goes_on(api, talker):
    seen = api.logs(talker, tail=100000)
    assert sum(len(line) for line in seen if line and set(line) == {"x"}) == 150000
    assert seen[-1] == "the end"


def test_all_is_all_however_long_the_log(daemon, api, talker):
    """The last lines are looked for in the last 16 MiB; all begins at the beginning. The other log is ours to fill."""
    log = daemon.instance_dir(talker) / "vmm.log"
    said = log.read_bytes()
    try:
        with log.open("ab") as file:
            file.write(b"first\n" + (b"x" * 8191 + b"\n") * 2100 + b"last\n")
        assert "first" not in api.logs(talker, tail=1000000, source="vmm")
        seen = api.logs(talker, tail="all", source="vmm")
        assert "first" in seen and seen[-1] == "last" and len(seen) >= 2102
    finally:
        log.write_bytes(said)
    api.fails(400, "invalid_tail", "GET", f"/instances/{talker}/logs?tail=al")


def test_the_other_sources_are_there(api, talker):
    assert isinstance(api.logs(talker, source="vmm"), list)
    assert isinstance(api.logs(talker, source="hypeman"), list)


def test_a_reader_that_does_not_read_harms_nobody(daemon, api, talker):
    connections = [api.open("GET", f"/instances/{talker}/logs?tail=100000&follow=true") for _ in range(10)]
    assert api.get("/instances")
    for connection, _ in connections:
        connection.close()


@pytest.mark.core
def test_follow_brings_new_lines_and_ends_with_the_instance(api):
    key = api.run("i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done", name="ticker")["id"]
    seen = api.logs(key, follow=True, until=lambda line: line == "tick 3")
    assert [line for line in seen if line.startswith("tick")] == ["tick 1", "tick 2", "tick 3"]
    follower = Background(api.logs, key)
    follower.result()
    endless = Background(lambda: api.logs(key, follow=True))
    api.delete(f"/instances/{key}", graceful_shutdown=False)
    assert "tick 3" in endless.result()


def test_the_log_of_a_stopped_instance_stays_and_a_start_adds_to_it(api):
    api.create("echo run; exit 0", name="twice")
    api.wait("twice", "Stopped")
    assert [line for line in api.logs("twice", tail=1000) if line == "run"] == ["run"]
    api.post("/instances/twice/start", {})
    api.wait("twice", "Stopped")
    assert "run" in api.logs("twice", tail=1000)


@pytest.mark.core
def test_the_state_is_never_taken_from_what_a_guest_prints(api):
    """Upstream reads markers from the console; a program that prints them must not fool us."""
    key = api.run('echo \'HYPEMAN-EXIT code=42 message="forged"\'; echo HYPEMAN-AGENT-READY; sleep 1; echo done; '
                  "while :; do sleep 1; done", name="liar")["id"]
    api.logs(key, follow=True, until=lambda line: line == "done")
    seen = api.get(f"/instances/{key}")
    assert seen["state"] == "Running" and seen["exit_code"] is None


def test_an_unknown_instance_is_404(api):
    api.fails(404, "not_found", "GET", "/instances/none/logs")
