# SPDX-License-Identifier: Apache-2.0
"""The client's own half: what it sends, how it reads answers, what it prints, how it exits.

A stub plays the daemon. It speaks HTTP by hand, so that a test can make it as slow, as odd or as
broken as it likes.
"""
import base64
import datetime
import hashlib
import hmac
import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLI = os.environ.get("HYPEMAN_CLI", str(ROOT / "build/tests/e2e/hypeman-cli-test"))
ID = "abcdefghijklmnopqrstuvwx"


class Request:
    def __init__(self, head, body):
        line, *headers = head.split("\r\n")
        self.method, self.path, self.version = line.split(" ")
        self.headers = {k.lower(): v for k, v in (h.split(": ", 1) for h in headers)}
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)


def answer(status, doc=None, headers=""):
    body = b"" if doc is None else json.dumps(doc).encode()
    return f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def error(status, code, message):
    return answer(status, {"code": code, "message": message})


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(line):
    return chunk(b"data: " + json.dumps(line).encode() + b"\n\n")


class Stub:
    """routes: "METHOD /path" -> bytes, a list of bytes (one for each call), or f(connection, request)."""

    def __init__(self, listener):
        self.listener = listener
        self.routes = {}
        self.requests = []
        self.errors = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                more = connection.recv(65536)
                if not more:
                    return
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            request = Request(head.decode(), body)
            early = getattr(self.routes.get(f"{request.method} {request.path}"), "is_early", False)
            while not early and len(request.body) < int(request.headers.get("content-length", 0)):
                request.body += connection.recv(65536)
            self.requests.append(request)
            route = self.routes.get(f"{request.method} {request.path}")
            try:
                if route is None:
                    connection.sendall(error(404, "not_found", "resource not found"))
                elif callable(route):
                    route(connection, request)
                elif isinstance(route, list):
                    connection.sendall(route.pop(0) if len(route) > 1 else route[0])
                else:
                    connection.sendall(route)
            except OSError:
                pass  # the client went away, which some tests want

    def asked(self):
        return [f"{r.method} {r.path}" for r in self.requests]


@pytest.fixture
def stub(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(16)
    s = Stub(listener)
    s.env = {"HYPEMAN_SOCKET": str(tmp_path / "s")}
    yield s
    listener.close()


def environment(extra):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HYPEMAN_") and k not in ("NO_COLOR", "JWT_SECRET")}
    return {**kept, "TERM": "xterm", **extra}


def run(stub_or_env, *args, timeout=20):
    env = getattr(stub_or_env, "env", stub_or_env)
    return subprocess.run([CLI, *args], env=environment(env), capture_output=True, text=True, timeout=timeout)


def start(stub, *args):
    return subprocess.Popen([CLI, *args], env=environment(stub.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ago(**how):
    return (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**how)).isoformat()


def instance(name="web", **other):
    return {"id": ID, "name": name, "image": "docker.io/library/alpine:3", "state": "Running", "created_at": ago(days=3),
            "current_phase_since": ago(seconds=190), "exit_code": None, "state_error": None, "expires_at": None,
            "hypervisor": "qemu-microvm", "size": "1024.0 MB", "network": {"enabled": True, "ip": "10.100.0.2", "mac": None}, **other}


# --- ps ---

def test_ps_prints_a_table_of_what_runs(stub):
    stub.routes["GET /instances"] = answer(200, [
        instance(),
        instance("done", state="Stopped", exit_code=137),
        instance("asleep", state="Standby"),
        instance("hung", state="Unknown", state_error="the VMM does not answer", network={"enabled": False, "ip": None, "mac": None}),
    ])
    r = run(stub, "ps")
    assert (r.returncode, r.stderr) == (0, "")
    assert [re.split(" {3,}", line) for line in r.stdout.splitlines()] == [
        ["NAME", "ID", "IMAGE", "STATE", "HYPERVISOR", "SIZE", "IP"],
        ["web", ID[:12], "alpine:3", "Running 3m", "qemu-microvm", "1024.0 MB", "10.100.0.2"],
        ["hung", ID[:12], "alpine:3", "Unknown 3m: the VMM does not answer", "qemu-microvm", "1024.0 MB", ""],
    ]
    all_of_it = run(stub, "ps", "-a").stdout
    assert "Stopped (137) 3m" in all_of_it and "asleep" in all_of_it


def test_ps_columns_line_up(stub):
    stub.routes["GET /instances"] = answer(200, [instance("a"), instance("a-much-longer-name", image="r.example/x:1")])
    lines = run(stub, "ps").stdout.splitlines()
    for heading, cell in (("ID", "abcdefghijkl"), ("STATE", "Running"), ("IP", "10.100.0.2")):
        assert {line.index(cell) for line in lines[1:]} == {lines[0].index(heading)}


def test_ps_of_nothing_is_the_headings(stub):
    stub.routes["GET /instances"] = answer(200, [])
    assert run(stub, "ps").stdout.split() == ["NAME", "ID", "IMAGE", "STATE", "HYPERVISOR", "SIZE", "IP"]
    assert run(stub, "ps", "-q").stdout == ""
    assert json.loads(run(stub, "ps", "--format", "json").stdout) == []
    assert run(stub, "ps", "--format", "jsonl").stdout == ""


def test_ps_quiet_prints_whole_ids(stub):
    stub.routes["GET /instances"] = answer(200, [instance(), instance("b", id="z" * 24)])
    assert run(stub, "ps", "-q").stdout == f"{ID}\n{'z' * 24}\n"


def test_ps_json_is_what_the_daemon_said(stub):
    rows = [instance(), instance("b", exit_code=3, tags={"k": "ü \" \u0001"})]
    stub.routes["GET /instances"] = answer(200, rows)
    assert json.loads(run(stub, "ps", "--format", "json").stdout) == rows
    assert [json.loads(line) for line in run(stub, "ps", "--format=jsonl").stdout.splitlines()] == rows


def test_ps_filters_are_the_daemons(stub):
    path = "/instances?state=Stopped&tags%5Bteam%2Fx%5D=a%20b&tags%5Bk%5D="
    stub.routes["GET " + path] = answer(200, [instance("done", state="Stopped")])
    r = run(stub, "ps", "--state", "stopped", "--tag", "team/x=a b", "--tag", "k=")
    assert "done" in r.stdout and stub.asked() == ["GET " + path]


def test_ps_does_not_let_a_guest_paint_the_terminal(stub):
    stub.routes["GET /instances"] = answer(200, [instance(state="Unknown", state_error="\x1b]0;x\x07\u009b31m\n evil")])
    out = run(stub, "ps").stdout
    assert "\x1b" not in out and "\u009b" not in out and out.count("\n") == 2


# --- colours and progress: only on a terminal ---

def on_a_terminal(stub, *args, env=None, keys=None, after=0.0):
    """Runs it on a pseudo-terminal and returns (exit code, output)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(CLI, [CLI, *args], environment({**stub.env, **(env or {})}))
    out = b""
    deadline = time.monotonic() + 20
    type_at = time.monotonic() + after if keys else None
    while time.monotonic() < deadline:
        if type_at and time.monotonic() > type_at:
            os.write(fd, keys)
            type_at = None
        if select.select([fd], [], [], 0.05)[0]:
            try:
                more = os.read(fd, 65536)
            except OSError:
                break
            if not more:
                break
            out += more
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


def test_colours_are_for_terminals_that_want_them(stub):
    stub.routes["GET /instances"] = answer(200, [instance()])
    assert "\x1b[32mRunning" in on_a_terminal(stub, "ps")[1]
    assert "\x1b" not in on_a_terminal(stub, "ps", env={"NO_COLOR": "1"})[1]
    assert "\x1b" not in on_a_terminal(stub, "ps", env={"TERM": "dumb"})[1]
    assert "\x1b" not in run(stub, "ps").stdout


def slow(seconds, then):
    def serve(connection, _request):
        time.sleep(seconds)
        connection.sendall(then)
    return serve


def test_progress_shows_what_takes_long_and_wipes_itself(stub):
    stub.routes["POST /instances/web/stop"] = slow(1.3, answer(200, instance(state="Stopped")))
    code, out = on_a_terminal(stub, "stop", "web")
    assert code == 0 and "stopping web 0s" in out and "stopping web 1s" in out
    assert out.endswith("\r\x1b[Kweb\r\n")
    assert run(stub, "stop", "web").stderr == ""


def test_what_is_quick_shows_no_progress(stub):
    stub.routes["POST /instances/web/stop"] = answer(200, instance(state="Stopped"))
    assert on_a_terminal(stub, "stop", "web") == (0, "web\r\n")


# --- Ctrl-C ---

def test_ctrl_c_ends_a_wait_with_130(stub):
    stub.routes["GET /instances"] = slow(10, answer(200, []))
    code, _ = on_a_terminal(stub, "ps", keys=b"\x03", after=0.3)
    assert code == 130


def test_ctrl_c_stops_a_row_of_names(stub):
    stub.routes["POST /instances/a/stop"] = slow(10, answer(200, {}))
    p = start(stub, "stop", "a", "b", "c")
    wait_until(lambda: stub.requests)
    p.send_signal(signal.SIGINT)
    assert p.communicate(timeout=5) == ("", "") and p.returncode == 130
    assert stub.asked() == ["POST /instances/a/stop"]


def wait_until(what, seconds=10):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# --- the transport ---

def test_no_daemon_says_where_it_looked_and_what_to_do(tmp_path):
    r = run({"HYPEMAN_SOCKET": str(tmp_path / "none")}, "ps")
    assert r.returncode == 1 and r.stdout == ""
    assert r.stderr == (f"hypeman: cannot connect to the daemon at {tmp_path}/none: No such file or directory; "
                        "is it running? 'hypeman serve' starts it\n")


def test_a_dead_socket_and_a_closed_port_are_refused(tmp_path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "dead"))
    assert "dead: Connection refused" in run({"HYPEMAN_SOCKET": str(tmp_path / "dead")}, "ps").stderr
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
    r = run({}, "--base-url", url, "ps")
    assert r.returncode == 1 and f"{url}: Connection refused" in r.stderr and "HYPEMAN_BASE_URL" in r.stderr


def test_a_socket_path_that_is_too_long_is_said_so():
    assert "too long" in run({"HYPEMAN_SOCKET": "/tmp/" + "x" * 120}, "ps").stderr


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "http://:80", "http://u@h", "http://h:", "http://[::1",
                                 "http://h/?x", "http://h x", "http://[::1]x"])
def test_odd_base_urls_are_refused(url):
    r = run({"HYPEMAN_BASE_URL": url}, "ps")
    assert r.returncode == 1 and "base URL" in r.stderr


def test_https_is_refused_with_a_way_out():
    r = run({"HYPEMAN_BASE_URL": "https://example.org"}, "ps")
    assert r.returncode == 1 and "TLS proxy" in r.stderr and "socket" in r.stderr


@pytest.fixture
def tcp():
    listener = socket.create_server(("127.0.0.1", 0))
    s = Stub(listener)
    s.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    s.env = {"HYPEMAN_BASE_URL": s.url}
    yield s
    listener.close()


def test_tcp_sends_the_token_and_who_it_is(tcp):
    tcp.routes["GET /instances"] = answer(200, [])
    tcp.env["HYPEMAN_API_KEY"] = "a.b.c"
    assert run(tcp, "ps").returncode == 0
    headers = tcp.requests[0].headers
    assert headers["authorization"] == "Bearer a.b.c"
    assert headers["host"] == tcp.url[len("http://"):]
    assert headers["user-agent"].startswith("Hypeman/CLI ")


def test_a_base_url_may_have_a_path(tcp):
    tcp.routes["GET /a/b/instances"] = answer(200, [])
    assert run({}, "ps", "--base-url", tcp.url + "/a/b/").returncode == 0


def test_flags_win_over_the_environment(stub, tcp):
    stub.routes["GET /instances"] = answer(200, [])
    env = {"HYPEMAN_BASE_URL": "http://127.0.0.1:1"}
    assert run(env, "--socket", stub.env["HYPEMAN_SOCKET"], "ps").returncode == 0
    assert run(env, "ps", "--socket=" + stub.env["HYPEMAN_SOCKET"]).returncode == 0
    tcp.routes["GET /instances"] = answer(200, [])
    assert run(stub, "ps", "--base-url", tcp.url).returncode == 0 and len(tcp.requests) == 1
    r = run(stub, "ps", "--base-url", tcp.url, "--socket", "/x")
    assert r.returncode == 1 and "exclude each other" in r.stderr


def test_a_key_cannot_add_a_header(tcp):
    tcp.env["HYPEMAN_API_KEY"] = "a\r\nX-Evil: 1"
    assert "HYPEMAN_API_KEY" in run(tcp, "ps").stderr and not tcp.requests


def test_answers_may_come_in_chunks_and_byte_by_byte(stub):
    body = json.dumps([instance()]).encode()
    raw = (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(body[:5]) +
           b"A;x=y\r\n" + body[5:15] + b"\r\n" + chunk(body[15:]) + b"0\r\nTrailer: x\r\n\r\n")

    def drip(connection, _request):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for b in raw:
            connection.sendall(bytes([b]))
    stub.routes["GET /instances"] = drip
    assert "web" in run(stub, "ps").stdout
    stub.routes["GET /instances"] = b"HTTP/1.0 200\r\n\r\n" + body  # ends with the connection
    assert "web" in run(stub, "ps").stdout


@pytest.mark.parametrize("raw, why", [
    (b"", "without an answer"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[", "within the answer"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[", "within the answer"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n[]", "Content-Length"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n[]", "Content-Length"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n", "two lengths"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n[]", "Transfer-Encoding"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "chunk"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[]\r\n", "chunk"),
    (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n[]", "carriage return"),
    (b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n[]", "NUL"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20000 + b"\r\n\r\n", "too long"),
    (b"HTTP/1.1 2000 OK\r\n\r\n", "no status"),
    (b"SSH-2.0-x\r\n", "not an HTTP answer"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html", "invalid JSON"),
])
def test_broken_answers_are_errors(stub, raw, why):
    stub.routes["GET /instances"] = raw
    r = run(stub, "ps")
    assert r.returncode == 1 and why in r.stderr and r.stdout == "" and r.stderr.count("\n") == 1


def test_an_answer_that_comes_before_the_request_was_read_counts(stub):
    def refuse(connection, _request):
        connection.sendall(error(413, "body_too_large", "the body is too large"))
    refuse.is_early = True
    stub.routes["POST /instances"] = refuse
    r = run(stub, "run", "--name", "x", *(f"-eK{i}=" + "v" * 100000 for i in range(10)), "alpine")
    assert r.returncode == 1 and r.stderr == "hypeman: the body is too large\n"


def test_a_full_disk_is_not_success(stub):
    stub.routes["GET /instances"] = answer(200, [instance()])
    with open("/dev/full", "w") as full:
        r = subprocess.run([CLI, "ps"], env=environment(stub.env), stdout=full, stderr=subprocess.PIPE, text=True)
    assert r.returncode == 1 and r.stderr.count("No space left") == 1


# --- errors of the daemon ---

def test_an_unknown_instance_is_named_with_the_next_step(stub):
    for verb in (["stop"], ["start"], ["rm"], ["rm", "-f"], ["inspect"], ["logs"], ["wait"]):
        r = run(stub, *verb, "web")
        assert r.returncode == 1 and r.stderr == "hypeman: no such instance: web; see 'hypeman ps -a'\n"


def test_an_ambiguous_beginning_is_named(stub):
    stub.routes["POST /instances/a/stop"] = error(409, "ambiguous", "multiple resources match, use full ID")
    assert run(stub, "stop", "a").stderr == "hypeman: more than one instance begins with a; see 'hypeman ps -a'\n"


def test_the_daemons_message_is_printed_after_the_name(stub):
    stub.routes["POST /instances/web/stop"] = error(409, "invalid_state", "cannot stop: \x1b[31m\nit is Paused")
    assert run(stub, "stop", "web").stderr == "hypeman: web: cannot stop: ?[31m?it is Paused\n"


def test_401_and_403_say_where_a_token_comes_from(stub):
    stub.routes["GET /instances"] = error(401, "Unauthorized", "authorization header required")
    assert "HYPEMAN_API_KEY" in run(stub, "ps").stderr and "hypeman token" in run(stub, "ps").stderr
    stub.routes["GET /instances"] = error(403, "Forbidden", "missing required scope: instance:read")
    assert run(stub, "ps").stderr.startswith("hypeman: missing required scope: instance:read; ")


def test_an_error_that_is_not_ours_shows_its_status(stub):
    stub.routes["GET /instances"] = b"HTTP/1.1 502 Bad\r\nContent-Length: 6\r\n\r\n<html>"
    assert run(stub, "ps").stderr == "hypeman: the daemon answered with status 502\n"
    stub.routes["GET /instances"] = b"HTTP/1.1 500 Bad\r\nContent-Length: 60\r\n\r\n{\"code\":"
    assert run(stub, "ps").stderr == "hypeman: the daemon answered with status 500\n"


# --- usage ---

@pytest.mark.parametrize("args, why", [
    (["pss"], "did you mean 'ps'"),
    (["isnpect"], "did you mean 'inspect'"),
    (["frobnicate"], "see 'hypeman help'"),
    (["image", "lsit"], "did you mean 'list'"),
    (["stop"], "see 'hypeman stop --help'"),
    (["stop", "--frob", "x"], "unknown flag: --frob"),
    (["ps", "-z"], "unknown flag: -z"),
    (["ps", "--tag"], "--tag needs a value"),
    (["ps", "--tag", "x"], "KEY=VALUE"),
    (["ps", "--format", "yaml"], "no such format: yaml"),
    (["ps", "web"], "takes no names"),
    (["ps", "-a=no"], "unknown flag"),
    (["logs", "a", "b"], "name one instance"),
    (["logs", "--tail", "0", "a"], "--tail takes a number"),
    (["logs", "--tail", "-1", "a"], "--tail takes a number"),
    (["logs", "--tail", "All", "a"], "--tail takes a number"),
    (["run"], "name an image"),
    (["run", "--cpus", "two", "x"], "--cpus takes a number"),
    (["run", "-e", "=x", "x"], "--env takes"),
    (["run", "-l", "x", "x"], "--tag takes"),
    (["run", "-a", "-d", "x"], "exclude each other"),
    (["run", "--cmd", "a", "x", "b"], "give the command once"),
    (["run", "--entrypoint", "[1]", "x"], "--entrypoint takes"),
    (["run", "--network=maybe", "x"], "true or false"),
    (["run", "-p", "80", "x"], "[IP:]HOST:GUEST"),
    (["run", "-p", "80:0", "x"], "[IP:]HOST:GUEST"),
    (["run", "-p", "80:80/icmp", "x"], "[IP:]HOST:GUEST"),
    (["rm", "--all", "x"], "--all takes no names"),
    (["rm"], "name an instance"),
    (["wait", "--timeout", "5", "x"], "--timeout takes a duration"),
    (["image", "import", "x"], "give a source and a name"),
    (["image", "import", "docker:x", "y"], "dir:PATH or oci:PATH"),
    (["token", "--ttl", "0"], "--ttl takes a duration"),
    (["token", "--permission", "root"], "instance:write"),
    (["update", "network", "x"], "say what is to change"),
    (["update", "network", "--bandwidth-up", "0"], "name an instance"),
    (["--frob"], "hypeman help"),
])
def test_misuse_exits_with_2_and_a_hint(args, why):
    r = run({"HYPEMAN_SOCKET": "/nonexistent", "JWT_SECRET": "x"}, *args)
    assert r.returncode == 2 and r.stdout == "" and why in r.stderr and r.stderr.count("\n") == 1


def verbs():
    return re.findall(r"^  (\w+)  ", run({}, "help").stdout, re.M)


def test_every_verb_has_help():
    assert verbs()[:3] == ["serve", "run", "ps"]
    for verb in [v for v in verbs() if v not in ("serve", "image", "update")] + ["image import", "image list", "update network"]:
        for asked in (run({}, *verb.split(), "--help"), run({}, *verb.split()[:-1], "help", verb.split()[-1])):
            assert asked.returncode == 0 and asked.stdout.startswith(f"usage: hypeman {verb}") and asked.stderr == ""
    assert run({}, "--help").stdout == run({}).stdout == run({}, "help").stdout
    assert "serve with 1 arguments" in run({}, "help", "serve").stdout


# --- inspect, stop, start, rm ---

def test_inspect_masks_the_environment_unless_asked(stub):
    stub.routes["GET /instances/web"] = answer(200, instance(env={"KEY": "secret", "B": ""}))
    stub.routes["GET /instances/b"] = answer(200, instance("b"))
    shown = json.loads(run(stub, "inspect", "web", "b").stdout)
    assert shown[0]["env"] == {"KEY": "***", "B": "***"} and [x["name"] for x in shown] == ["web", "b"]
    assert json.loads(run(stub, "inspect", "--show-env", "web").stdout)[0]["env"]["KEY"] == "secret"


def test_inspect_goes_on_after_a_failure_and_exits_with_1(stub):
    stub.routes["GET /instances/b"] = answer(200, instance("b"))
    r = run(stub, "inspect", "nope", "b")
    assert r.returncode == 1 and [x["name"] for x in json.loads(r.stdout)] == ["b"] and "nope" in r.stderr


def test_names_are_sent_as_typed_and_encoded(stub):
    path = "/instances/..%2Fa%20b%3F%23%25%C3%BC"
    stub.routes[f"POST {path}/stop"] = answer(200, {})
    r = run(stub, "stop", "../a b?#%ü")
    assert r.returncode == 0 and r.stdout == "../a b?#%ü\n"


def test_start_sends_a_body_and_what_is_asked_for(stub):
    stub.routes["POST /instances/web/start"] = answer(200, instance())
    assert run(stub, "start", "web").stdout == "web\n"
    run(stub, "start", "web", "--entrypoint", "/bin/sh -c", "--cmd", '["echo \\"a b\\"", ""]')
    assert stub.requests[0].json == {} and stub.requests[0].headers["content-type"] == "application/json"
    assert stub.requests[1].json == {"entrypoint": ["/bin/sh", "-c"], "cmd": ['echo "a b"', ""]}


def test_rm_refuses_what_runs_unless_forced(stub):
    stub.routes["GET /instances/web"] = answer(200, instance())
    stub.routes["DELETE /instances/web"] = answer(204)
    r = run(stub, "rm", "web")
    assert r.returncode == 1 and "web is Running" in r.stderr and "rm -f web" in r.stderr
    assert stub.asked() == ["GET /instances/web"]
    assert run(stub, "rm", "-f", "web").stdout == "web\n"


def test_rm_takes_many_and_exits_with_1_when_one_failed(stub):
    stub.routes["GET /instances/a"] = answer(200, instance("a", state="Stopped", id="a" * 24))
    stub.routes["GET /instances/c"] = answer(200, instance("c", state="Standby", id="c" * 24))
    stub.routes["DELETE /instances/" + "a" * 24] = answer(204)
    stub.routes["DELETE /instances/" + "c" * 24] = answer(204)
    r = run(stub, "rm", "a", "b", "c")
    assert r.returncode == 1 and r.stdout == "a\nc\n" and r.stderr.count("\n") == 1 and "instance: b" in r.stderr


def test_rm_all_takes_them_from_the_list(stub):
    stub.routes["GET /instances"] = answer(200, [instance("a"), instance("b")])
    stub.routes["DELETE /instances/a"] = stub.routes["DELETE /instances/b"] = answer(204)
    assert run(stub, "rm", "-f", "--all").stdout == "a\nb\n"
    stub.routes["GET /instances"] = error(500, "internal_error", "oh")
    r = run(stub, "rm", "-f", "--all")
    assert (r.returncode, r.stdout, r.stderr) == (1, "", "hypeman: oh\n")


# --- logs ---

def test_logs_are_printed_raw_line_by_line(stub):
    lines = ["one", "", "tab\tand \x1b[31mred\x1b[0m", "ü \" \\ \u0000 end", "x" * 200000]
    stub.routes["GET /instances/web/logs?tail=5&follow=false&source=vmm"] = (
        STREAM + chunk(b": alive\n\nevent: x\nid: 1\n") + b"".join(map(event, lines)) + b"0\r\n\r\n")
    r = run(stub, "logs", "--tail", "5", "-s", "vmm", "web")
    assert r.returncode == 0 and r.stdout == "".join(line + "\n" for line in lines) and r.stderr == ""


def test_logs_takes_all_for_all_lines(stub):
    stub.routes["GET /instances/web/logs?tail=all&follow=false&source=app"] = STREAM + chunk(event("first")) + b"0\r\n\r\n"
    assert run(stub, "logs", "--tail", "all", "web").stdout == "first\n"


def test_logs_follow_prints_each_line_when_it_comes(stub):
    goes_on = threading.Event()

    def serve(connection, _request):
        connection.sendall(STREAM + event("first")[:9])
        time.sleep(0.05)
        connection.sendall(event("first")[9:])
        goes_on.wait(10)
        connection.sendall(event("second") + b"0\r\n\r\n")
    stub.routes["GET /instances/web/logs?tail=100&follow=true&source=app"] = serve
    p = start(stub, "logs", "-f", "web")
    assert p.stdout.readline() == "first\n"
    goes_on.set()
    assert p.communicate(timeout=10) == ("second\n", "") and p.returncode == 0


def test_logs_follow_ends_with_130_on_ctrl_c(stub):
    def serve(connection, _request):
        connection.sendall(STREAM + event("first"))
        time.sleep(10)
    stub.routes["GET /instances/web/logs?tail=100&follow=true&source=app"] = serve
    p = start(stub, "logs", "-f", "web")
    assert p.stdout.readline() == "first\n"
    p.send_signal(signal.SIGINT)
    assert p.communicate(timeout=5) == ("", "") and p.returncode == 130


@pytest.mark.parametrize("raw, why", [
    (STREAM + event("a"), "closed within"),
    (STREAM + chunk(b"data: {}\n\n"), "no JSON string"),
    (STREAM + chunk(b"data: nonsense\n\n"), "no JSON string"),
    (answer(200, []), "no event stream"),
    (error(404, "log_not_found", "there is no such log"), "web: there is no such log"),
])
def test_broken_logs_are_errors(stub, raw, why):
    stub.routes["GET /instances/web/logs?tail=100&follow=false&source=app"] = raw
    r = run(stub, "logs", "web")
    assert r.returncode == 1 and why in r.stderr


# --- wait ---

def waited(state, timed_out=False, reason=None):
    return answer(200, {"state": state, "state_error": reason, "timed_out": timed_out})


def test_wait_prints_the_exit_code_like_docker(stub):
    stub.routes["GET /instances/web/wait?state=Stopped&timeout=300000ms"] = [waited("Running", True), waited("Stopped")]
    stub.routes["GET /instances/web"] = answer(200, instance(state="Stopped", exit_code=3))
    r = run(stub, "wait", "web")
    assert (r.returncode, r.stdout, r.stderr) == (0, "3\n", "")
    assert len(stub.requests) == 3  # what timed out was asked again
    stub.routes["GET /instances/web"] = answer(200, instance(state="Stopped"))
    assert "without an exit code" in run(stub, "wait", "web").stderr


def test_wait_for_a_state_prints_it(stub):
    stub.routes["GET /instances/web/wait?state=Running&timeout=300000ms"] = waited("Running")
    r = run(stub, "wait", "--state", "running", "web")
    assert (r.returncode, r.stdout) == (0, "Running\n")


def test_wait_says_a_timeout_and_a_dead_end(stub):
    def serve(connection, request):
        ms = int(re.search(r"timeout=(\d+)ms", request.path)[1])
        assert 0 <= ms <= 400
        time.sleep(ms / 1000)
        connection.sendall(waited("Running", True))
    for ms in range(401):
        stub.routes[f"GET /instances/web/wait?state=Stopped&timeout={ms}ms"] = serve
    r = run(stub, "wait", "--state", "Stopped", "--timeout", "400ms", "web")
    assert (r.returncode, r.stdout, r.stderr) == (1, "Running\n", "hypeman: web is still Running\n")
    stub.routes["GET /instances/web/wait?state=Running&timeout=300000ms"] = waited("Stopped", reason="no kernel")
    r = run(stub, "wait", "--state", "Running", "web")
    assert (r.returncode, r.stdout) == (1, "Stopped\n") and "will not become Running: no kernel" in r.stderr


# --- stats and top ---

def usage(cpu, name="web"):
    return answer(200, {"instance_id": ID, "instance_name": name, "cpu_seconds": cpu, "memory_rss_bytes": 128 << 20, "memory_vms_bytes": 1 << 30, "network_rx_bytes": 2048, "network_tx_bytes": 0, "allocated_vcpus": 1, "allocated_memory_bytes": 256 << 20, "memory_utilization_ratio": 0.5})


def test_stats_measures_the_cpu_between_two_looks(stub):
    stub.routes["GET /instances"] = answer(200, [{"id": ID, "name": "web", "state": "Running"}, {"id": "x", "name": "off", "state": "Stopped"}])
    stub.routes[f"GET /instances/{ID}/stats"] = [usage(1.0), usage(61.0)]
    result = run(stub, "stats", "--interval", "100ms", "--format", "jsonl")
    (row,) = map(json.loads, result.stdout.splitlines())
    assert row["name"] == "web" and row["cpu_percent"] > 1000 and row["memory_bytes"] == 128 << 20
    stub.routes["GET /instances/web/stats"] = usage(61.0)
    lines = run(stub, "stats", "--interval", "10ms", "web").stdout.splitlines()
    assert lines[0].split()[0] == "NAME" and lines[1].split() == ["web", "0.0", "128.0MiB", "256.0MiB", "50.0", "2.00KiB", "0B"]


def test_top_is_for_terminals_and_ends_with_q(stub):
    stub.routes["GET /instances"] = answer(200, [{"id": ID, "name": "web", "state": "Running"}])
    stub.routes[f"GET /instances/{ID}/stats"] = usage(1.0)
    assert run(stub, "top").returncode == 2
    code, shown = on_a_terminal(stub, "top", keys=b"mq", after=1)
    assert code == 0 and "128.0MiB" in shown and "by memory" not in shown.split("128.0MiB")[0]


# --- run ---

def test_run_sends_what_the_flags_say_and_prints_the_id(stub):
    stub.routes["POST /instances"] = answer(201, instance())
    stub.env["PASSED"] = "on"
    r = run(stub, "run", "--name", "web", "-e", "A=1=2", "-e", "PASSED", "--env=NOT_SET_ANYWHERE", "--memory", "512MB", "--cpus", "4",
            "--overlay-size", "5GB", "--hotplug-size", "3GB", "--hypervisor", "microvm", "--entrypoint", "", "-l", "team=x", "--tag", "e=",
            "-p", "8080:80", "--publish", "127.0.0.1:53:5353/udp", "--bandwidth-down", "10MB/s", "--bandwidth-up", "1Gbps",
            "--disk-io", "100MB/s", "--network=false", "--skip-guest-agent", "--skip-kernel-headers", "-d", "alpine:3", "sh", "-c", "echo -n $A", "--name")
    assert (r.returncode, r.stdout, r.stderr) == (0, ID + "\n", "")
    assert stub.requests[0].json == {
        "name": "web", "image": "alpine:3", "env": {"A": "1=2", "PASSED": "on"}, "size": "512MB", "vcpus": 4, "overlay_size": "5GB",
        "hotplug_size": "3GB", "disk_io_bps": "100MB/s", "hypervisor": "qemu-microvm", "entrypoint": [], "cmd": ["sh", "-c", "echo -n $A", "--name"],
        "tags": {"team": "x", "e": ""}, "network": {"enabled": False, "bandwidth_download": "10MB/s", "bandwidth_upload": "1Gbps"}, "skip_guest_agent": True,
        "skip_kernel_headers": True, "ports": [
            {"host_port": 8080, "guest_port": 80, "protocol": "tcp"},
            {"host_port": 53, "guest_port": 5353, "protocol": "udp", "host_ip": "127.0.0.1"}]}


def test_update_changes_only_what_is_said(stub):
    stub.routes["PATCH /instances/web"] = answer(200, instance())
    r = run(stub, "update", "network", "--bandwidth-up", "0", "web", "nope")
    assert (r.returncode, r.stdout) == (1, "web\n") and "nope" in r.stderr
    assert stub.requests[0].json == {"network": {"bandwidth_upload": "0"}}
    assert run(stub, "update", "network", "--bandwidth-up", "1MB/s", "--bandwidth-down", "5Mbps", "web").returncode == 0
    assert stub.requests[-1].json == {"network": {"bandwidth_upload": "1MB/s", "bandwidth_download": "5Mbps"}}


def test_run_leaves_out_what_nobody_said(stub):
    stub.routes["POST /instances"] = answer(201, instance())
    assert run(stub, "run", "alpine").returncode == 0
    sent = stub.requests[0].json
    assert re.fullmatch(r"[a-z]+-[a-z]+", sent.pop("name"))
    assert sent == {"image": "alpine", "env": {}, "tags": {}}


def test_run_invents_another_name_when_the_first_is_taken(stub):
    stub.routes["POST /instances"] = [error(409, "name_conflict", "taken"), answer(201, instance())]
    assert run(stub, "run", "alpine").returncode == 0
    names = [r.json["name"] for r in stub.requests]
    assert len(names) == 2 and re.fullmatch(r"[a-z]+-[a-z]+-\d+", names[1])
    stub.routes["POST /instances"] = error(409, "name_conflict", "taken")
    assert run(stub, "run", "--name", "web", "alpine").returncode == 1 and len(stub.requests) == 3


def test_run_of_an_unknown_image_says_how_to_get_one(stub):
    stub.routes["POST /instances"] = error(404, "not_found", "image not found")
    r = run(stub, "run", "nope")
    assert r.returncode == 1 and r.stderr.startswith("hypeman: nope: image not found; 'hypeman image list'")


LOG = f"GET /instances/{ID}/logs?follow=true&tail=5000&source=app"
WAIT = f"GET /instances/{ID}/wait?state=Stopped&timeout=300000ms"


def attachable(stub, exit_code, log_ends, wait_answers=None):
    ended = threading.Event()

    def log(connection, _request):
        connection.sendall(STREAM + event("first"))
        ended.wait(10)
        time.sleep(0.15)  # what is last in the log may come after the wait's answer
        connection.sendall(event("last"))
        if log_ends:
            connection.sendall(b"0\r\n\r\n")
        else:
            time.sleep(5)

    answers = wait_answers or [waited("Stopped")]

    def wait(connection, _request):
        time.sleep(0.2)
        if len(answers) == 1:
            ended.set()
        connection.sendall(answers.pop(0))
    stub.routes.update({"POST /instances": answer(201, instance()), LOG: log, WAIT: wait,
                        f"GET /instances/{ID}": answer(200, instance(state="Stopped", exit_code=exit_code, exit_message="killed"))})


@pytest.mark.parametrize("log_ends", [True, False])
def test_run_attached_shows_the_log_and_exits_as_the_workload_did(stub, log_ends):
    attachable(stub, 42, log_ends, [waited("Running", True), waited("Stopped")])
    r = run(stub, "run", "-a", "--name", "web", "alpine")
    assert (r.returncode, r.stdout, r.stderr) == (42, "first\nlast\n", "")


def test_run_attached_says_when_there_is_no_exit_code(stub):
    attachable(stub, None, True)
    r = run(stub, "run", "-a", "alpine")
    assert r.returncode == 1 and "web ended without an exit code: killed" in r.stderr


def test_run_attached_leaves_the_instance_on_ctrl_c(stub):
    attachable(stub, 0, False, [waited("Running", True)] * 100)
    p = start(stub, "run", "-a", "alpine")
    assert p.stdout.readline() == "first\n"
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=5)
    assert p.returncode == 130 and err.startswith("hypeman: web goes on;")


# --- image ---

NAME = "docker.io/library/busybox:latest"


def image(status, **other):
    return {"name": NAME, "status": status, "queue_position": None, "error": None, "size_bytes": None, "created_at": ago(hours=3), **other}


def test_import_sends_an_absolute_source_and_waits(stub, tmp_path):
    (tmp_path / "rootfs").mkdir()
    path = "GET /images/docker.io%2Flibrary%2Fbusybox%3Alatest"
    stub.routes["POST /images/import"] = answer(202, image("pending"))
    stub.routes[path] = [answer(200, image("converting")), answer(200, image("ready"))]
    r = subprocess.run([CLI, "image", "import", "dir:rootfs", "busybox", "--entrypoint", '["/init"]', "--cmd", "a b", "-e", "A=b",
                        "--workdir", "/w", "--user", "1000:5"], env=environment(stub.env), cwd=tmp_path, capture_output=True, text=True)
    assert (r.returncode, r.stdout, r.stderr) == (0, NAME + "\n", "")
    assert stub.requests[0].json == {"source": f"dir:{tmp_path}/rootfs", "name": "busybox", "entrypoint": ["/init"], "cmd": ["a", "b"],
                                     "env": {"A": "b"}, "working_dir": "/w", "user": "1000:5"}
    assert stub.asked()[1:] == [path, path]


def test_import_that_is_done_at_once_asks_no_more(stub):
    stub.routes["POST /images/import"] = answer(201, image("ready"))
    assert run(stub, "image", "import", "oci:/elsewhere/x", "busybox").stdout == NAME + "\n"
    assert stub.requests[0].json["source"] == "oci:/elsewhere/x" and len(stub.requests) == 1


def test_import_says_why_it_failed(stub, tmp_path):
    stub.routes["POST /images/import"] = answer(202, image("failed", error="no such layer"))
    r = run(stub, "image", "import", "dir:/x", "busybox")
    assert r.returncode == 1 and "import failed: no such layer" in r.stderr
    r = run(stub, "image", "import", f"dir:{os.path.relpath(tmp_path)}/none", "busybox")
    assert r.returncode == 1 and "No such file" in r.stderr


def test_images_are_listed_shown_and_deleted(stub):
    stub.routes["GET /images"] = answer(200, [image("ready", size_bytes=5 << 20), image("failed", name="r.example/x:1")])
    lines = [line.split() for line in run(stub, "image", "ls").stdout.splitlines()]
    assert lines == [["NAME", "STATUS", "SIZE", "CREATED"], ["busybox:latest", "ready", "5.0", "MB", "3h"], ["r.example/x:1", "failed", "3h"]]
    assert run(stub, "image", "list", "-q").stdout == f"{NAME}\nr.example/x:1\n"
    stub.routes["GET /images/busybox"] = answer(200, image("ready"))
    assert json.loads(run(stub, "image", "get", "busybox").stdout)["name"] == NAME
    stub.routes["DELETE /images/busybox"] = answer(204)
    r = run(stub, "image", "rm", "busybox", "nope")
    assert (r.returncode, r.stdout, r.stderr) == (1, "busybox\n", "hypeman: no such image: nope; see 'hypeman image list'\n")


# --- token, version ---

def claims_of(token, secret):
    head, payload, signature = token.strip().split(".")
    mac = hmac.new(secret.encode(), f"{head}.{payload}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64encode(mac).rstrip(b"=").decode() == signature
    return json.loads(base64.urlsafe_b64decode(payload + "=="))


def test_token_is_signed_with_the_secret_that_is_configured(tmp_path):
    (tmp_path / "secret").write_text("from the file\n")
    claims = claims_of(run({"JWT_SECRET": "from the environment"}, "token").stdout, "from the environment")
    assert claims["exp"] - claims["iat"] == 86400 and abs(claims["iat"] - time.time()) < 60 and "permissions" not in claims
    for flags in (["--data-dir", str(tmp_path)], ["--secret-file", str(tmp_path / "secret")]):
        out = run({"JWT_SECRET": "x"}, "token", "--permission", "instance:read", "--permission", "image:write", "--ttl", "90s", *flags).stdout
        claims = claims_of(out, "from the file")
        assert claims["permissions"] == ["instance:read", "image:write"] and claims["exp"] - claims["iat"] == 90
    r = run({}, "token", "--data-dir", str(tmp_path / "none"))
    assert r.returncode == 1 and "secret" in r.stderr


def test_version_shows_both_halves(stub):
    stub.routes["GET /capabilities"] = answer(200, {"server": {"version": "abc123", "api_version": "0.1"}})
    r = run(stub, "version")
    assert r.returncode == 0 and re.match(r"client: \d+\.\d+\.\d+ \(commit \S+\)\nserver: abc123 \(API 0.1\) at ", r.stdout)
    assert json.loads(run(stub, "version", "--format", "json").stdout)["server"]["version"] == "abc123"
    assert run(stub, "--version").stdout == r.stdout


def test_version_does_not_need_a_daemon():
    r = run({"HYPEMAN_SOCKET": "/nonexistent"}, "version")
    assert r.returncode == 0 and "server: cannot connect" in r.stdout
    assert json.loads(run({"HYPEMAN_SOCKET": "/nonexistent"}, "version", "--format", "json").stdout)["server"] is None


# --- completion ---

@pytest.mark.parametrize("line, wanted", [
    ("hypeman st", {"standby", "start", "stats", "stop"}),
    ("hypeman image l", {"list"}),
    ("hypeman ps --st", {"--state"}),
    ("hypeman ps --state St", {"Stopped", "Standby"}),
    ("hypeman image import --w", {"--workdir"}),
    ("hypeman stop ", {"web", "worker"}),
    ("hypeman rm -f wo", {"worker"}),
    ("hypeman run --name x al", {"alpine"}),
    ("hypeman logs -s v", {"vmm"}),
    ("hypeman exec wo", {"worker"}),
    ("hypeman cp we", {"web:"}),
    ("hypeman exec --ti", {"--timeout"}),
])
def test_completion_knows_verbs_flags_and_names(stub, tmp_path, line, wanted):
    stub.routes["GET /instances"] = answer(200, [instance("web"), instance("worker", state="Stopped")])
    stub.routes["GET /images"] = answer(200, [image("ready", name="alpine")])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/hypeman").symlink_to(CLI)
    script = f'source {ROOT}/tools/completion/hypeman.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _hypeman; printf "%s\\n" "${{COMPREPLY[@]}}"'
    r = subprocess.run(["bash", "-c", script, "bash", *line.split(" ")], capture_output=True, text=True,
                       env=environment({**stub.env, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}))
    assert set(r.stdout.split()) == wanted and r.stderr == ""


# --- deadlines ---

def test_a_daemon_that_says_nothing_is_given_up(stub):
    stub.routes["GET /capabilities"] = slow(10, b"")
    assert "did not answer in time" in run(stub, "version").stdout
    stub.routes["GET /capabilities"] = slow(1, answer(200, {}))
    assert "did not answer in time" not in run(stub, "version").stdout


def test_a_daemon_that_accepts_nobody_is_given_up(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(tmp_path / "full"))
        listener.listen(0)
        first.connect(str(tmp_path / "full"))
        r = run({"HYPEMAN_SOCKET": str(tmp_path / "full")}, "ps")
        assert r.returncode == 1 and "timed out" in r.stderr
