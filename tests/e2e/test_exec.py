# SPDX-License-Identifier: Apache-2.0
"""GET /instances/{id}/exec: commands inside a guest, as a WebSocket client of another make sees them."""
import asyncio
import json
import re
import shutil

import pytest
import websockets

from harness import until
from sockets import Done, connect, execute, listen, rss, run, wait_for


@pytest.fixture(scope="module")
def box(daemon):
    made = daemon.api.run(name="box", env={"FROM": "the workload"})
    daemon.mark(made["id"])
    return "box"


def sh(daemon, key, script, stdin=(), **request):
    return execute(daemon, key, ["/bin/sh", "-c", script], stdin, **request)


@pytest.mark.core
def test_output_comes_binary_and_the_exit_code_last(daemon, box):
    done = sh(daemon, box, "echo out; echo err >&2; exit 7")
    assert sorted(done.output.split()) == [b"err", b"out"], done
    assert done.texts == ['{"exitCode":7}'] and done.close_code == 1000, done


def test_no_command_is_a_shell_that_reads_its_input(daemon, box):
    done = execute(daemon, box, [], [b"echo $((6*7))\n", "exit 5\n"])  # text is input too
    assert done.output == b"42\n" and done.code == 5, done


def test_environment_and_directory(daemon, box):
    done = sh(daemon, box, 'echo "$FROM, $MORE, $PWD"', env={"MORE": 'a "b" ä='}, cwd="/tmp")
    assert done.output.decode() == 'the workload, a "b" ä=, /tmp\n' and done.code == 0, done


@pytest.mark.parametrize("command, text", [
    (["/no/such"], "/no/such"),
    (["/etc"], "/etc"),
    (["/etc/passwd"], "/etc/passwd"),
])
def test_what_cannot_start_is_127_with_the_reason(daemon, box, command, text):
    done = execute(daemon, box, command)
    assert re.fullmatch(rb"Error: .+\r\n", done.output) and text.encode() in done.output, done
    assert done.code == 127 and done.close_code == 1000, done


def test_a_directory_that_is_not_there_is_127(daemon, box):
    done = sh(daemon, box, "true", cwd="/nowhere")
    assert done.code == 127 and b"working directory /nowhere: No such file" in done.output, done


def test_a_timeout_is_124_and_a_signal_128_and_more(daemon, box):
    assert sh(daemon, box, "sleep 100", timeout=1).code == 124
    assert sh(daemon, box, "kill -9 $$").code == 137
    assert sh(daemon, box, "kill -15 $$").code == 143


def test_output_comes_while_the_command_runs(daemon, box):
    async def first_line():
        async with connect(daemon, f"/instances/{box}/exec") as socket:
            await socket.send(json.dumps({"command": ["/bin/sh", "-c", "echo now; read x; echo got $x"]}))
            assert await socket.recv() == b"now\n"
            await socket.send(b"it\n")
            assert await socket.recv() == b"got it\n"
            assert json.loads(await socket.recv()) == {"exitCode": 0}

    wait_for(first_line())


@pytest.mark.core
def test_a_terminal_has_its_size_and_takes_a_new_one(daemon, box):
    async def resized():
        async with connect(daemon, f"/instances/{box}/exec") as socket:
            script = "stty size; read x; stty size; exit 3"
            await socket.send(json.dumps({"command": ["/bin/sh", "-c", script], "tty": True, "rows": 30, "cols": 100}))
            seen = b""
            while b"30 100\r\n" not in seen:
                seen += await socket.recv()
            await socket.send(json.dumps({"resize": {"rows": 50, "cols": 132}}))
            await socket.send("go\r")  # any other text is input
            done = await listen(socket, Done())
            assert b"50 132\r\n" in done.output and done.code == 3, done

    wait_for(resized())


def test_without_a_terminal_a_resize_is_input_like_any_text(daemon, box):
    text = '{"resize":{"rows":1,"cols":2}}'
    done = sh(daemon, box, "read x; echo $x", [text, b"\n"])
    assert done.output.decode() == text + "\n", done


def test_stderr_apart_and_the_end_of_input_are_there_for_who_asks(daemon, box):
    done = sh(daemon, box, "cat; echo err >&2; exit 2", [b"in", b"put", b""], separate_stderr=True, stdin_eof=True)
    assert (done.output, done.stderr, done.code) == (b"input", b"err\n", 2), done
    lost = execute(daemon, box, ["/no/such"], separate_stderr=True)
    assert lost.output == b"" and b"/no/such" in lost.stderr and lost.code == 127


def test_an_empty_message_means_nothing_to_who_did_not_ask(daemon, box):
    done = sh(daemon, box, "read x; echo $x", [b"", b"still here\n"])
    assert done.output == b"still here\n", done


def test_many_megabytes_go_through_both_ways_unchanged(daemon, box):
    piece = bytes(range(256)) * 4096  # a megabyte
    done = execute(daemon, box, ["cat"], [piece] * 8 + [b""], stdin_eof=True)
    assert done.output == piece * 8 and done.code == 0


@pytest.mark.parametrize("first, error", [
    (b"{}", "first message must be JSON text"),
    ("not json", "invalid JSON: "),
    ("[]", "invalid JSON: "),
    ('{"command":"ls"}', "invalid JSON: "),
    ('{"command":[1]}', "invalid JSON: "),
    ('{"timeout":-1}', "invalid JSON: "),
    ('{"env":{"A=B":"c"}}', "invalid JSON: "),
])
def test_a_bad_first_message_is_refused_and_the_socket_closed(daemon, box, first, error):
    async def refused():
        async with connect(daemon, f"/instances/{box}/exec") as socket:
            await socket.send(first)
            done = await listen(socket, Done())
            assert list(json.loads(done.texts[0])) == ["error"] and error in done.texts[0], done

    wait_for(refused())


def test_before_the_upgrade_errors_are_plain_answers(daemon, box):
    def refused(path, token=None):
        with pytest.raises(websockets.InvalidStatusCode) as caught:
            wait_for(run_at(path, token))
        return caught.value.status_code

    async def run_at(path, token):
        async with connect(daemon, path, token):
            pass

    assert refused("/instances/nobody/exec") == 404
    daemon.tcp(daemon.token("instance:read")).fails(403, "Forbidden", "GET", "/instances/box/exec")
    daemon.tcp("nonsense").fails(401, "Unauthorized", "GET", "/instances/box/exec")
    daemon.api.create("exit 0", name="ended")
    daemon.api.wait("ended", "Stopped")
    assert refused("/instances/ended/exec") == 409
    refusal = daemon.api.fails(409, "invalid_state", "GET", "/instances/ended/exec")
    assert refusal["message"] == "instance must be running (current state: Stopped)"
    refusal = daemon.api.fails(400, "Bad Request", "GET", "/instances/box/exec")  # no handshake
    assert "Upgrade: websocket" in refusal["message"]


@pytest.mark.core
def test_a_client_that_leaves_ends_its_command(daemon, box):
    for tty in (False, True):
        async def leave():
            async with connect(daemon, f"/instances/{box}/exec") as socket:
                script = "echo $$; exec sleep 12345"
                await socket.send(json.dumps({"command": ["/bin/sh", "-c", script], "tty": tty}))
                return int(await socket.recv())

        pid = wait_for(leave())
        until("the command ends", lambda: sh(daemon, box, f"kill -0 {pid}").code != 0, 30)


def test_a_hundred_at_once_and_one_that_reads_nothing(daemon, box):
    """It stops nobody, and what it does not read is kept in its guest and not in the daemon."""
    async def crowd():
        deaf = await connect(daemon, f"/instances/{box}/exec", max_queue=1, read_limit=4096, ping_interval=None)
        await deaf.send(json.dumps({"command": ["cat", "/dev/zero"]}))
        await asyncio.sleep(0.5)
        before = rss(daemon)
        one = ["/bin/sh", "-c", "read x; echo got $x; head -c 20000 /dev/zero"]
        all_of_them = await asyncio.gather(*(run(daemon, box, one, [b"%d\n" % i]) for i in range(100)))
        for i, done in enumerate(all_of_them):
            assert done.output == b"got %d\n" % i + bytes(20000) and done.code == 0, done
        grown = rss(daemon) - before
        deaf.transport.abort()
        return grown

    grown = wait_for(crowd(), 200)
    assert grown < 32 << 20, f"the daemon grew by {grown >> 20} MB"


@pytest.mark.core
def test_an_exec_in_flight_at_standby_ends_with_the_reason_and_a_new_one_works_after(daemon):
    api = daemon.api
    api.run(name="sleeper")

    async def in_flight():
        async with connect(daemon, "/instances/sleeper/exec") as socket:
            await socket.send(json.dumps({"command": ["/bin/sh", "-c", "echo up; exec sleep 1000"]}))
            assert await socket.recv() == b"up\n"
            await asyncio.get_running_loop().run_in_executor(None, api.post, "/instances/sleeper/standby")
            return await listen(socket, Done())

    done = wait_for(in_flight(), 120)
    assert done.output.startswith(b"Error: ") and done.code == 127 and done.close_code == 1000, done
    api.fails(409, "invalid_state", "GET", "/instances/sleeper/exec")
    api.post("/instances/sleeper/restore")
    assert sh(daemon, "sleeper", "echo back").output == b"back\n"


def test_a_deleted_instance_ends_its_execs(daemon):
    api = daemon.api
    api.run(name="doomed")

    async def in_flight():
        async with connect(daemon, "/instances/doomed/exec") as socket:
            await socket.send(json.dumps({"command": ["/bin/sh", "-c", "echo up; exec sleep 1000"]}))
            assert await socket.recv() == b"up\n"
            delete = lambda: api.delete("/instances/doomed", graceful_shutdown=False)
            await asyncio.get_running_loop().run_in_executor(None, delete)
            return await listen(socket, Done())

    done = wait_for(in_flight(), 120)
    assert done.output.startswith(b"Error: ") and done.code == 127, done


def test_a_daemon_that_stops_ends_the_sockets_and_the_next_one_takes_new_ones(own_daemon):
    daemon = own_daemon
    daemon.api.run(name="stays")

    async def in_flight():
        async with connect(daemon, "/instances/stays/exec") as socket:
            await socket.send(json.dumps({"command": ["/bin/sh", "-c", "echo up; exec sleep 1000"]}))
            assert await socket.recv() == b"up\n"
            await asyncio.get_running_loop().run_in_executor(None, daemon.stop)
            return await listen(socket, Done())

    done = wait_for(in_flight())
    assert done.close_code in (1000, 1001), done
    daemon.start()
    assert sh(daemon, "stays", "echo back").output == b"back\n"


INIT = """#!/bin/busybox sh
# A systemd as far as the agent can tell: it runs its unit, and again when that was killed.
while :; do $(sed -n 's/^ExecStart=//p' /run/systemd/system/hypeman-agent.service); sleep 1; done
"""


def test_an_agent_that_is_killed_ends_its_execs_and_the_next_one_serves(own_daemon, rootfs, tmp_path):
    image = tmp_path / "image"
    shutil.copytree(rootfs, image, symlinks=True)
    (image / "lib/systemd").mkdir(parents=True)
    (image / "lib/systemd/systemd").write_text(INIT)
    (image / "lib/systemd/systemd").chmod(0o755)
    own_daemon.import_image(image, "init:latest")
    made = own_daemon.api.post("/instances", {"image": "init:latest", "name": "init", "size": "256MB", "overlay_size": "64MB",
                                              "vcpus": 1, "cmd": ["/lib/systemd/systemd"]})
    own_daemon.api.wait("init", "Running")
    done = sh(own_daemon, "init", "kill -9 $PPID; sleep 1000")
    assert done.code == 127 and b"the guest's agent" in done.output, done
    assert sh(own_daemon, "init", "exit 3").code == 3
    assert own_daemon.api.get("/instances/init")["state"] == "Running"
    own_daemon.api.delete(f"/instances/{made['id']}")
