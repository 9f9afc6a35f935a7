# SPDX-License-Identifier: Apache-2.0
"""Streams of the guest's agent in a real VM, spoken to as the daemon does. What needs no VM is in tests/unit/test_guest.c."""
import pytest

from guest_vm import CLOSE, CREDIT, DATA, DONE, END_INPUT, ENTRY, EXEC, STARTED, STAT, STDERR, ZEROS, COPY_IN, COPY_OUT, Guest, busybox_image, frame
import json
import struct


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    """One VM for all of these; each test has its own connection."""
    where = tmp_path_factory.mktemp("exec")
    busybox_image(where / "image.sqfs")
    config = {"entrypoint": [], "cmd": ["sleep", "100000"], "env": {"FROM": "config"}, "workdir": "/etc"}
    guest = Guest(where / "vm", where / "image.sqfs", config, memory=128)
    yield guest
    guest.kill()


@pytest.fixture
def channel(guest):
    channel = guest.reconnect()
    channel.expect(STARTED)
    yield channel
    channel.close()


class Stream:
    """What one stream has said so far."""

    def __init__(self):
        self.out, self.err, self.entries, self.done = b"", b"", [], None


def finish(channel, *ids):
    """Reads until all of them are done; every byte is granted again."""
    streams = {i: Stream() for i in ids}
    while any(s.done is None for s in streams.values()):
        kind, flags, i, body = channel.raw_frame()
        if i not in streams:
            continue  # of one that was closed
        if kind == DATA and flags & STDERR:
            streams[i].err += body
        elif kind == DATA:
            streams[i].out += body
        elif kind == ZEROS:
            streams[i].out += b"\0" * struct.unpack("<I", body)[0]
        elif kind == ENTRY:
            streams[i].entries.append(body)
        elif kind == DONE:
            streams[i].done = json.loads(body)
        if kind in (DATA, ZEROS, ENTRY):
            cost = struct.unpack("<I", body)[0] if kind == ZEROS else len(body)
            channel.send(frame(CREDIT, struct.pack("<I", cost), i))
    return streams[ids[0]] if len(ids) == 1 else streams


def execute(channel, *argv, stream=1, **more):
    channel.send(frame(EXEC, {"argv": argv, "env": [], **more}, stream))


def test_a_command_runs_beside_the_workload_in_its_environment(channel):
    execute(channel, "sh", "-c", "echo $FROM $A; pwd; id -u; echo oops >&2; exit 9", env=["A=b"])
    got = finish(channel, 1)
    assert (got.out, got.err) == (b"config b\n/etc\n0\n", b"oops\n")
    assert (got.done["code"], got.done["signal"], "error" in got.done) == (9, 0, False)


def test_a_user_has_its_groups(channel):
    execute(channel, "id", user="app")
    assert b"uid=1000(app) gid=1001(appg) groups=44(video),50(staff)" in finish(channel, 1).out


def test_a_terminal_is_one_and_hangs_up(channel):
    execute(channel, "sh", "-c", "trap 'echo hup > /tmp/hup; exit' HUP; tty; stty size; while :; do sleep 1; done", tty=True, rows=30, cols=90)
    text = b""
    while b"30 90" not in text:
        kind, _, _, body = channel.raw_frame()
        text += body if kind == DATA else b""
    assert b"/dev/pts/0" in text
    channel.send(frame(CLOSE, b"", 1))
    execute(channel, "sh", "-c", "while ! [ -e /tmp/hup ]; do sleep 0.1; done; cat /tmp/hup", stream=2)
    assert finish(channel, 2).out == b"hup\n"


def test_commands_are_in_the_cgroup_of_the_workload_and_out_of_memory_is_told(channel):
    execute(channel, "cat", "/proc/self/cgroup")
    assert finish(channel, 1).out.strip() == b"0::/workload"
    execute(channel, "dd", "if=/dev/zero", "of=/dev/null", "bs=70M", "count=1", stream=2)
    done = finish(channel, 2).done
    assert (done["code"], done["signal"], done["oom"]) == (137, 9, True)


def test_a_hundred_commands_at_once_and_one_that_is_not_read(channel):
    execute(channel, "yes", stream=1000)
    for i in range(1, 101):
        execute(channel, "sh", "-c", f"echo {i}; cat", stream=i)
        channel.send(frame(DATA, b"x" * 100, i) + frame(END_INPUT, b"", i))
    streams = {}
    unread = 0
    while sum(s.done is not None for s in streams.values()) < 100:
        kind, _, i, body = channel.raw_frame()
        if i == 1000:
            unread += len(body)
            continue
        stream = streams.setdefault(i, Stream())
        stream.out += body if kind == DATA else b""
        stream.done = body if kind == DONE else stream.done
    assert all(streams[i].out == b"%d\n" % i + b"x" * 100 for i in range(1, 101))
    assert unread <= 256 * 1024
    channel.send(frame(CLOSE, b"", 1000))


def test_a_connection_that_ends_ends_its_commands(guest):
    channel = guest.reconnect()
    channel.expect(STARTED)
    execute(channel, "sh", "-c", "echo; exec sleep 4711", grace_ms=100)
    channel.raw_frame()
    channel.close()
    channel = guest.reconnect()
    channel.expect(STARTED)
    execute(channel, "sh", "-c", "while pgrep -f 'sleep 471[1]'; do sleep 0.1; done", stream=2)
    assert finish(channel, 2).done["code"] == 0
    channel.close()


def test_the_agent_stays_small(channel):
    execute(channel, "sh", "-c", "grep VmHWM /proc/1/status")
    assert int(finish(channel, 1).out.split()[1]) < 2048
