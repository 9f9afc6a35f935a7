# SPDX-License-Identifier: Apache-2.0
"""The real daemon in a directory of its own, clients whose every answer is checked, and what is left behind."""
import contextlib
import http.client
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
import urllib.parse

import description
import netns

ROOT = pathlib.Path(__file__).parents[2]
BUILD = pathlib.Path(os.environ.get("HYPEMAN_BUILD", ROOT / "build")).resolve()
HYPEMAN = next((p for p in (BUILD / "hypeman", BUILD / "src/daemon/hypeman") if p.exists()), BUILD / "hypeman")
IMAGE = "docker.io/library/e2e:latest"
BAD_REQUEST = ("Bad Request", "invalid_request")  # what breaks the description, and what makes no sense
PATIENCE = 60.0  # seconds for anything that must happen; far more than it takes, also under a sanitizer
SANITIZER = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:")


def until(what, condition, seconds=PATIENCE):
    """The first true value of condition(). The only loop that asks again; everything else waits for an event."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.01)


def wait_gone(pid, seconds=PATIENCE):
    """Until a process, which need not be our child, has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], seconds)[0], f"process {pid} lives on"
    finally:
        os.close(fd)


def make_rootfs(where):
    """A root file system with busybox and nothing else."""
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "run"):
        (where / name).mkdir(parents=True)
    busybox = next(p for p in map(pathlib.Path, ("/bin/busybox", "/usr/bin/busybox")) if p.exists())
    shutil.copy(busybox, where / "bin/busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (where / "bin" / applet).symlink_to("busybox")
    (where / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    (where / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    return where


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body!r:.1000}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class _InsideConnection(http.client.HTTPConnection):
    def __init__(self, ns, address, timeout):
        super().__init__(*address, timeout=timeout)
        self.ns = ns

    def connect(self):
        self.sock = self.ns.connect((self.host, self.port), self.timeout)


class Api:
    """Requests to one address. Every answer is held against the API's description."""

    def __init__(self, address, token=None, ns=None):
        self.address, self.token, self.ns = address, token, ns  # a path, or (host, port) in a namespace

    def connect(self, timeout=PATIENCE):
        if isinstance(self.address, tuple):
            return _InsideConnection(self.ns, self.address, timeout)
        return _UnixConnection(self.address, timeout)

    def open(self, method, path, body=None, headers=None, timeout=PATIENCE):
        """The connection and the answer whose body is yet to be read. A str or bytes body goes out as it is."""
        headers = {"Connection": "close", **(headers or {})}
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        connection = self.connect(timeout)
        try:
            try:
                connection.request(method, path, body=body, headers=headers)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before all was sent: the answer is there all the same
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def request(self, method, path, body=None, headers=None, timeout=PATIENCE):
        connection, response = self.open(method, path, body, headers, timeout)
        with connection_closing(connection):
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        description.check_answer(method, path, answer.status, answer.headers, answer.body)
        return answer

    def get(self, path, **query):
        return self.ok("GET", with_query(path, query))

    def post(self, path, body=None):
        return self.ok("POST", path, body)

    def delete(self, path, **query):
        return self.ok("DELETE", with_query(path, query))

    def ok(self, method, path, body=None):
        answer = self.request(method, path, body)
        assert answer.status < 400, f"{method} {path}: {answer}"
        return answer.json() if answer.body else None

    def fails(self, status, code, method, path, body=None, headers=None):
        """The refusal's body. code: one, or several of which each will do, or None for any."""
        answer = self.request(method, path, body, headers)
        assert answer.status == status, f"{method} {path}: {answer}, {status} expected"
        codes = (code,) if isinstance(code, str) else code
        assert code is None or answer.json()["code"] in codes, f"{method} {path}: {answer}, {code} expected"
        return answer.json()

    def logs(self, key, until=None, seconds=PATIENCE, **query):
        """The lines, until the stream ends or until(line) is true."""
        path = with_query(f"/instances/{key}/logs", query)
        connection, response = self.open("GET", path, timeout=seconds)
        seen = []
        with connection_closing(connection):
            headers = {k.lower(): v for k, v in response.getheaders()}
            if response.status != 200:
                body = response.read()
                description.check_answer("GET", path, response.status, headers, body)
                raise AssertionError(f"GET {path}: {response.status} {body!r}")
            assert headers["content-type"].startswith("text/event-stream"), headers
            assert headers.get("cache-control") == "no-cache" and headers.get("x-accel-buffering") == "no", headers
            end = time.monotonic() + seconds
            for raw in iter(response.readline, b""):
                assert time.monotonic() < end, f"the stream did not get there; seen: {seen[-5:]}"
                if not raw.startswith(b"data:"):
                    assert raw.strip() == b"" or raw.startswith(b":"), f"not an event: {raw!r:.200}"
                    continue
                line = json.loads(raw[5:])
                description.check_event(path, line)
                seen.append(line)
                if until and until(line):
                    return seen
        assert until is None, f"the stream ended before what was waited for; seen: {seen[-5:]}"
        return seen

    def create(self, script="while :; do sleep 1; done", **fields):
        """An instance of the test image that runs a shell script."""
        body = {
            "image": IMAGE,
            "size": "256MB",
            "overlay_size": "64MB",
            "vcpus": 1,
            "entrypoint": ["/bin/sh", "-c"],
            "cmd": [script],
            **fields,
        }
        return self.post("/instances", body)

    def wait(self, key, state, timeout="60s"):
        answer = self.get(f"/instances/{key}/wait", state=state, timeout=timeout)
        assert answer["state"] == state, f"{key}: {answer}, {state} expected"
        return self.get(f"/instances/{key}")

    def run(self, script="while :; do sleep 1; done", **fields):
        """The same, once its script runs."""
        return self.wait(self.create(script, **fields)["id"], "Running")


    def events(self, seconds=PATIENCE, headers=None, **query):
        """Each event of GET /events as it comes; the generator ends with the stream. Close it to leave."""
        path = with_query("/events", query)
        connection, response = self.open("GET", path, timeout=seconds, headers=headers)
        with connection_closing(connection):
            assert response.status == 200, f"GET {path}: {response.status} {response.read()!r}"
            for raw in iter(response.readline, b""):
                if raw.startswith(b"data:"):
                    event = json.loads(raw[5:])
                    description.check_event(path, event)
                    yield event

    def watch(self, **query):
        """GET /events without since, read up to where it is complete: the rest of the stream, and the rows."""
        stream, rows = self.events(**query), {}
        for event in stream:
            if event["type"] == "existing":
                rows[event["id"]] = event["instance"]
            if event["type"] == "synced":
                return stream, rows
        raise AssertionError("the stream ended before it was complete")


class connection_closing:
    def __init__(self, connection):
        self.connection = connection

    def __enter__(self):
        return self.connection

    def __exit__(self, *_):
        self.connection.close()


def with_query(path, query):
    pairs = [(k, str(v).lower() if isinstance(v, bool) else str(v)) for k, v in query.items()]
    return path + ("?" + urllib.parse.urlencode(pairs) if pairs else "")


class Background(threading.Thread):
    """A call on a thread; result() gives what it returned or raises what it raised."""

    def __init__(self, call, *args):
        super().__init__(daemon=True)
        self.call, self.args, self.value, self.error = call, args, None, None
        self.start()

    def run(self):
        try:
            self.value = self.call(*self.args)
        except BaseException as error:  # handed over
            self.error = error

    def result(self, seconds=PATIENCE):
        self.join(seconds)
        assert not self.is_alive(), f"{self.call} does not return"
        if self.error:
            raise self.error
        return self.value


def cwd_of(pid):
    """None once it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except (FileNotFoundError, ProcessLookupError):
        return None


class Daemon:
    """
    hypeman serve on a directory, in a network namespace of its own, so that daemons side by side and the host have
    nothing to do with one another. The TCP address that it got stands in run/listen below the data directory.
    """

    def __init__(self, root, data=None, settings=None):
        self.root = pathlib.Path(root)
        self.data = pathlib.Path(data or self.root / "data")
        self.socket = self.root / "h.sock"
        self.log = self.root / "daemon.log"
        self.process = None
        self.environment = dict(settings or {})  # of the daemon, beside ours
        self.kept = set()  # instances that outlive a test
        self.fds_before = None
        self.wrapper = []  # words in front of its command
        self.listen = "127.0.0.1:0"
        self.ns = netns.Ns()

    # --- its life ---

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.ns.command(
                    ["env", *(f"{key}={value}" for key, value in self.environment.items()),
                     *self.wrapper, HYPEMAN, "serve", "--data-dir", self.data, "--listen", self.listen, "--socket", self.socket]
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until("the daemon answers", self._answers)
        self.api = Api(self.socket)
        return self

    def _answers(self):
        assert self.process.poll() is None, f"the daemon ended with {self.process.returncode}\n{self.log_tail()}"
        try:
            return Api(self.socket).get("/health") == {"status": "ok"}
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except ConnectionResetError:  # a child of one that was killed had the socket until its exec
            return False

    def end(self, number):
        """Ends it by a signal; to the group, as a terminal does."""
        with contextlib.suppress(ProcessLookupError):  # it may have ended before
            os.killpg(self.process.pid, number)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon ignores signal {number}\n{self.log_tail()}") from None
        if number != signal.SIGKILL:
            assert code == 0, f"the daemon ended with {code}\n{self.log_tail()}"
        self.process = None

    def restart(self, number=signal.SIGKILL):
        self.end(number)
        return self.start()

    def stop(self):
        if self.process:
            self.end(signal.SIGTERM)
        found = SANITIZER.search(self.log_text())
        assert not found, f"{found[0]} in the daemon's log\n{self.log_tail(200)}"

    def kill_all(self):
        """Whatever happened: nothing that we started runs afterwards."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        for pid in {*self.vm_processes(), *self.ns.processes()}:
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid)
        self.ns.close()

    # --- ways to talk to it ---

    def cli(self, *args, check=True, env=None, **more):
        """The command line, over TCP with a token of full rights."""
        host, port = self.tcp_address()
        env = {"HYPEMAN_BASE_URL": f"http://{host}:{port}", "HYPEMAN_API_KEY": self.token(), **(env or {})}
        return self._run(args, check, env, **more)

    def _run(self, args, check=True, env=None, **more):
        done = subprocess.run(
            self.ns.command([HYPEMAN, *args]),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "NO_COLOR": "1", **(env or {})},
            **more,
        )
        assert not check or done.returncode == 0, f"hypeman {args}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def token(self, *permissions, ttl=None):
        args = ["token", "--data-dir", str(self.data)]
        for one in permissions:
            args += ["--permission", one]
        return self._run(args + (["--ttl", ttl] if ttl else [])).stdout.strip()

    def tcp_address(self):
        host, port = (self.data / "run/listen").read_text().strip().rsplit(":", 1)
        return host, int(port)

    def tcp(self, token=None):
        return Api(self.tcp_address(), token, self.ns)

    def import_image(self, rootfs, name=IMAGE):
        self.cli("image", "import", f"dir:{rootfs}", name)

    # --- what can be seen of it from outside ---

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self, lines=60):
        return "\n".join(self.log_text().splitlines()[-lines:])

    def fds(self):
        where = pathlib.Path(f"/proc/{self.process.pid}/fd")
        seen = []
        for one in where.iterdir():
            try:
                seen.append(re.sub(r":\[\d+\]", "", os.readlink(one)))
            except FileNotFoundError:
                pass
        return sorted(one for one in seen if one != "/dev/net/tun")  # the pool's, which may grow

    def vm_processes(self):
        """{pid: arguments} of processes whose working directory is below the data directory."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                cwd = os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")
                arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if (self.process and int(pid) == self.process.pid) or not pathlib.Path(cwd).is_relative_to(self.data):
                continue
            found[int(pid)] = [one.decode(errors="replace") for one in arguments]
        return found

    def vm_pid(self, instance_id):
        """The one process that runs an instance."""
        here = str(self.instance_dir(instance_id))
        pids = [pid for pid in self.vm_processes() if cwd_of(pid) == here]
        assert len(pids) == 1, f"processes of {instance_id}: {pids}"
        return pids[0]

    def instance_dir(self, instance_id):
        return self.data / "instances" / instance_id

    def sockets(self):
        found = []
        for where, _, files in os.walk(self.root):
            for name in files:
                path = pathlib.Path(where, name)
                try:
                    if stat.S_ISSOCK(path.lstat().st_mode) and path != self.socket:
                        found.append(path)
                except FileNotFoundError:
                    pass
        return found

    # --- nothing may be left ---

    def mark(self, *kept):
        """From here on: these instances may stay, and the present fds are the measure."""
        self.kept |= set(kept)
        self.fds_before = self.fds()

    def delete_all(self):
        for one in self.api.get("/instances"):
            if one["id"] not in self.kept:
                self.api.delete(f"/instances/{one['id']}", graceful_shutdown=False)

    def leftovers(self):
        """What is there beyond the kept instances; empty when all is well."""
        kept = [self.instance_dir(one) for one in self.kept]

        def below_kept(path):
            return any(pathlib.Path(path).is_relative_to(one) for one in kept)

        left = []
        for pid, arguments in self.vm_processes().items():
            try:
                if not below_kept(os.readlink(f"/proc/{pid}/cwd")):
                    left.append(f"process {pid}: {' '.join(arguments):.200}")
            except (FileNotFoundError, ProcessLookupError):
                pass
        instances = self.data / "instances"
        if instances.exists():
            left += [f"file {one}" for one in instances.iterdir() if not below_kept(one)]
        left += [f"socket {one}" for one in self.sockets() if not below_kept(one)]
        if self.fds_before is not None:
            now, before = self.fds(), list(self.fds_before)
            for one in before:
                if one in now:
                    now.remove(one)
            left += [f"open file {one}" for one in now]
        return left

    def assert_nothing_left(self):
        self.delete_all()
        end = time.monotonic() + PATIENCE / 6
        left = self.leftovers()
        while left and time.monotonic() < end:  # connections that close, processes that are reaped
            time.sleep(0.01)
            left = self.leftovers()
        assert not left, "left behind:\n" + "\n".join(left)
