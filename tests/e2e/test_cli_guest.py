# SPDX-License-Identifier: Apache-2.0
"""hypeman exec and hypeman cp, as typed."""
import bz2
import fcntl
import gzip
import io
import lzma
import os
import pty
import select
import signal
import socket
import stat
import struct
import subprocess
import tarfile
import termios
import time

import pytest

from harness import HYPEMAN, PATIENCE, until


@pytest.fixture(scope="module")
def box(daemon):
    made = daemon.api.run(name="box", env={"FROM": "the workload"})
    daemon.mark(made["id"])
    return "box"


@pytest.fixture
def terminal(daemon):
    """Makes terminals; none outlives its test."""
    made = []
    yield lambda *args, **size: made.append(Terminal(daemon, *args, **size)) or made[-1]
    for one in made:
        one.kill()


def hypeman(daemon, *args, code=0, over="unix", **more):
    """What it did, as bytes; over the unix socket or TCP."""
    env = dict(os.environ)
    if over == "tcp":
        host, port = daemon.tcp_address()
        env.update(HYPEMAN_BASE_URL=f"http://{host}:{port}", HYPEMAN_API_KEY=daemon.token())
    else:
        env.update(HYPEMAN_SOCKET=str(daemon.socket))
    more.setdefault("stdin", None if "input" in more else subprocess.DEVNULL)
    command = daemon.ns.command([HYPEMAN, *args])
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, env=env, **more)
    assert code is None or done.returncode == code, f"{args}: {done}"
    return done


# --- exec ---

@pytest.mark.core
@pytest.mark.parametrize("over", ["unix", "tcp"])
def test_exec_passes_input_both_outputs_and_the_exit_code(daemon, box, over):
    done = hypeman(daemon, "exec", box, "sh", "-c", "cat; echo err >&2; exit 7", input=b"in\0put", code=7, over=over)
    assert (done.stdout, done.stderr) == (b"in\0put", b"err\n")


def test_exec_takes_environment_directory_user_and_timeout(daemon, box):
    env = {**os.environ, "HYPEMAN_SOCKET": str(daemon.socket), "OURS": "passed on"}
    args = ["exec", "-e", "A=b c", "-e", "OURS", "-e", "NOT_SET", "--cwd", "/tmp", "-u", "nobody", box]
    done = subprocess.run([HYPEMAN, *args, "sh", "-c", 'echo "$A, $OURS, $PWD, $FROM, $(id -u)"'],
                          capture_output=True, env=env, stdin=subprocess.DEVNULL, timeout=PATIENCE)
    assert done.stdout == b"b c, passed on, /tmp, the workload, 65534\n", done
    assert hypeman(daemon, "exec", "--timeout", "1s", box, "sleep", "100", code=124).stdout == b""
    hypeman(daemon, "exec", "--timeout", "1500ms", box, "true", code=2)


@pytest.mark.parametrize("words", [
    ["{}", "echo", "-n", "--", "x"],
    ["{}", "--", "echo", "-n", "--", "x"],
    ["--", "{}", "echo", "-n", "--", "x"],
    ["-T", "{}", "--cwd", "/tmp", "--", "echo", "-n", "--", "x"],
    ["{}", "-e", "A=b", "--timeout=30", "echo", "-n", "--", "x"],
])
def test_exec_takes_flags_and_two_dashes_behind_the_name(daemon, box, words):
    assert hypeman(daemon, "exec", *(word.format(box) for word in words)).stdout == b"-- x"


def test_exec_without_input_ends_a_command_that_reads_it(daemon, box):
    done = hypeman(daemon, "exec", "--interactive=false", box, "cat", input=b"not passed on")
    assert done.stdout == b""


def test_exec_says_what_is_wrong(daemon, box):
    assert b"no such instance: nobody" in hypeman(daemon, "exec", "nobody", "true", code=1).stderr
    assert b"/no/such" in hypeman(daemon, "exec", box, "/no/such", code=127).stderr
    assert b"name an instance" in hypeman(daemon, "exec", code=2).stderr
    daemon.api.create("exit 0", name="ended")
    daemon.api.wait("ended", "Stopped")
    assert b"must be running" in hypeman(daemon, "exec", "ended", "true", code=1).stderr


def test_exec_streams_megabytes_to_a_slow_reader(daemon, box):
    reader = subprocess.Popen(["sh", "-c", "sleep 2; sha256sum"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    done = subprocess.run([HYPEMAN, "--socket", daemon.socket, "exec", box, "head", "-c", "3000000", "/dev/zero"],
                          stdout=reader.stdin, stdin=subprocess.DEVNULL, timeout=PATIENCE)
    reader.stdin.close()
    want = subprocess.run("head -c 3000000 /dev/zero | sha256sum", shell=True, capture_output=True).stdout
    assert reader.stdout.read() == want and done.returncode == 0
    reader.stdout.close()
    reader.wait()


@pytest.mark.parametrize("closed, script, code, out, err", [
    ("<&-", "cat; echo out", 0, b"out\n", b""),
    (">&-", "echo out; echo err >&2", 1, b"", b"write the output"),
    ("2>&-", "echo err >&2; echo out", 1, b"", b""),
])
def test_exec_does_not_take_a_socket_for_a_stream_that_is_closed(daemon, box, closed, script, code, out, err):
    line = f'exec "$0" exec {box} sh -c "{script}" {closed}'
    done = subprocess.run(["sh", "-c", line, HYPEMAN], capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE,
                          env={**os.environ, "HYPEMAN_SOCKET": str(daemon.socket)})
    assert done.returncode == code and err in done.stderr, done
    assert not closed.startswith("<") or done.stdout == out


def test_a_signal_ends_an_exec_whose_output_nobody_reads(daemon, box):
    with subprocess.Popen([HYPEMAN, "--socket", daemon.socket, "exec", box, "yes"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as stuck:
        size = fcntl.fcntl(stuck.stdout, fcntl.F_GETPIPE_SZ)
        pending = lambda: struct.unpack("i", fcntl.ioctl(stuck.stdout, termios.FIONREAD, b"\0" * 4))[0]
        until("the pipe is full", lambda: pending() > size - 8192)
        stuck.send_signal(signal.SIGTERM)
        assert stuck.wait(PATIENCE) == 130


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, daemon, *args, rows=24, cols=80):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
            os.environ.update(HYPEMAN_SOCKET=str(daemon.socket), TERM="vt100")
            os.execv(HYPEMAN, [str(HYPEMAN), *args])
        self.seen = b""

    def type(self, text):
        os.write(self.fd, text)

    def wait_for(self, text):
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert select.select([self.fd], [], [], max(0, end - time.monotonic()))[0], self.seen
            try:
                self.seen += os.read(self.fd, 65536)
            except OSError:
                raise AssertionError(f"it ended; seen: {self.seen}") from None

    def resize(self, rows, cols):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def is_raw(self):
        return not termios.tcgetattr(self.fd)[3] & termios.ICANON

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.fd)

    def end(self):
        """The exit code, once it has ended."""
        until("it ends", lambda: os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), 30)
        was_raw = self.is_raw()
        os.close(self.fd)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = None
        assert not was_raw, "it left the terminal raw"
        return code


@pytest.mark.core
def test_exec_on_a_terminal_is_a_terminal_in_the_guest(terminal, box):
    t = terminal("exec", box, "/bin/sh", rows=33, cols=99)
    t.wait_for(b"# ")
    assert t.is_raw()
    t.type(b"stty size; echo $TERM\r")
    t.wait_for(b"33 99\r\nvt100\r\n")
    t.resize(44, 111)
    t.type(b"while [ \"$(stty size)\" != '44 111' ]; do sleep 0.1; done; echo re''sized\r")
    t.wait_for(b"resized")
    t.type(b"sh -c \"echo slee''ps; exec sleep 1000\"\r")
    t.wait_for(b"sleeps")  # said by what is interrupted: the terminal is its by now
    t.type(b"\x03")  # the guest's to deal with: the shell lives on
    t.type(b"echo still $((40+2)); exit 9\r")
    t.wait_for(b"still 42")
    assert t.end() == 9


def test_ctrl_c_ends_an_exec_without_a_terminal_and_its_command(daemon, terminal, box):
    t = terminal("exec", "-T", box, "sh", "-c", "echo pid $$; exec sleep 4321")
    t.wait_for(b"\n")
    pid = t.seen.split()[1].decode()
    t.type(b"\x03")
    assert t.end() == 130
    until("the command ends", lambda: hypeman(daemon, "exec", box, "kill", "-0", pid, code=None).returncode != 0, 30)


def test_a_signal_gives_the_terminal_back(terminal, box):
    t = terminal("exec", box, "/bin/sh")
    t.wait_for(b"# ")
    os.kill(t.pid, signal.SIGTERM)
    assert t.end() == 130


# --- cp ---

@pytest.fixture
def tree(tmp_path):
    """src/: a file, a directory with one, links, odd names."""
    src = tmp_path / "src"
    (src / "sub").mkdir(parents=True)
    (src / "file").write_bytes(b"content")
    (src / "file").chmod(0o640)
    (src / "sub/below").write_bytes(os.urandom(70000))
    (src / "link").symlink_to("file")
    (src / "sub/dangling").symlink_to("/no/such/place")
    (src / "ö \n'\"").write_bytes(b"odd")
    with open(os.fsencode(src) + b"/\xff", "wb") as file:
        file.write(b"not UTF-8")
    os.utime(src / "file", (1600000000, 1600000000))
    return tmp_path


def look(root):
    """{relative name: what it is}, by lstat."""
    found = {}
    root = os.fsencode(root)
    for where, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(where, name)
            st = os.lstat(path)
            what = os.readlink(path) if os.path.islink(path) else None if os.path.isdir(path) else open(path, "rb").read()
            found[os.path.relpath(path, root)] = (oct(st.st_mode), what)
    return found


def in_guest(daemon, script):
    return hypeman(daemon, "exec", "box", "sh", "-c", script).stdout.decode(errors="surrogateescape")


@pytest.mark.core
@pytest.mark.parametrize("over", ["unix", "tcp"])
def test_cp_takes_a_tree_there_and_back_with_every_name(daemon, box, tree, over):
    in_guest(daemon, "rm -rf /tmp/*")
    hypeman(daemon, "cp", "src", "box:/tmp/dst", cwd=tree, over=over)
    hypeman(daemon, "cp", "box:/tmp/dst", "back", cwd=tree, over=over)
    assert look(tree / "back") == look(tree / "src")
    assert os.stat(tree / "back/file").st_mtime == 1600000000


# Docker's table: source, destination, what is there afterwards.
IN = [
    ("src/file", "/tmp/new", "/tmp/new"),
    ("src/file", "/tmp/old", "/tmp/old"),
    ("src/file", "/tmp/dir", "/tmp/dir/file"),
    ("src/file", "/tmp/dir/", "/tmp/dir/file"),
    ("src", "/tmp/new", "/tmp/new/file"),
    ("src/", "/tmp/new", "/tmp/new/file"),
    ("src/.", "/tmp/new", "/tmp/new/file"),
    ("src", "/tmp/dir", "/tmp/dir/src/file"),
    ("src/", "/tmp/dir", "/tmp/dir/src/file"),
    ("src/.", "/tmp/dir", "/tmp/dir/file"),
    ("src/sub/..", "/tmp/dir", "/tmp/dir/src/file"),
    ("src/file", "tmp/relative", "/tmp/relative"),
]


@pytest.mark.parametrize("source, to, there", IN)
def test_cp_into_a_guest_follows_docker(daemon, box, tree, source, to, there):
    in_guest(daemon, "rm -rf /tmp/*; mkdir /tmp/dir; echo before > /tmp/old")
    hypeman(daemon, "cp", source, f"box:{to}", cwd=tree)
    assert in_guest(daemon, f"cat {there}; stat -c ' %a %Y' {there}") == "content 640 1600000000\n"


@pytest.mark.parametrize("source, to, there", IN[:-2])
def test_cp_out_of_a_guest_follows_docker(daemon, box, tmp_path, source, to, there):
    in_guest(daemon, "rm -rf /tmp/*; mkdir -p /tmp/src/sub; cd /tmp/src; printf content > file; chmod 640 file")
    (tmp_path / "dir").mkdir()
    (tmp_path / "old").write_text("before")
    hypeman(daemon, "cp", f"box:/tmp/{source}", to.replace("/tmp/", "./", 1), cwd=tmp_path)
    assert (tmp_path / there.removeprefix("/tmp/")).read_text() == "content"


@pytest.mark.parametrize("args, text", [
    (["src/file", "box:/tmp/none/x"], "no such directory: box:/tmp/none"),
    (["src/file", "box:/tmp/none/"], "no such directory: box:/tmp/none"),
    (["src", "box:/tmp/old"], "box:/tmp/old is no directory"),
    (["src/nothing", "box:/tmp"], "no such file or directory: src/nothing"),
    (["box:/tmp/nothing", "."], "no such file or directory: box:/tmp/nothing"),
    (["box:/tmp/dir", "src/file"], "src/file is no directory"),
    (["box:/tmp/old", "none/x"], "no such directory: none"),
    (["box:/tmp/old", "none/"], "no such directory: none"),
    (["nobody:/x", "."], "no such instance: nobody"),
    (["-", "box:/tmp/old"], "no such directory: box:/tmp/old"),
])
def test_cp_refuses_what_docker_refuses(daemon, box, tree, args, text):
    in_guest(daemon, "rm -rf /tmp/*; mkdir /tmp/dir; echo before > /tmp/old")
    assert text in hypeman(daemon, "cp", *args, cwd=tree, code=1).stderr.decode()


@pytest.mark.parametrize("args", [["a", "b"], ["box:/a", "box:/b"], ["box:/a"], ["./box:/a", "b"]])
def test_cp_wants_one_side_in_an_instance(daemon, box, args):
    assert hypeman(daemon, "cp", *args, code=2).stderr


def test_cp_follows_a_link_only_when_told(daemon, box, tree):
    in_guest(daemon, "rm -rf /tmp/*")
    hypeman(daemon, "cp", "src/link", "box:/tmp/as-link", cwd=tree)
    hypeman(daemon, "cp", "-L", "src/link", "box:/tmp/as-file", cwd=tree)
    assert in_guest(daemon, "readlink /tmp/as-link; cat /tmp/as-file") == "file\ncontent"
    in_guest(daemon, "mkdir /tmp/d; echo x > /tmp/d/f; ln -s d /tmp/l; ln -s f /tmp/d/g")
    hypeman(daemon, "cp", "box:/tmp/l", "kept", cwd=tree)
    hypeman(daemon, "cp", "-L", "box:/tmp/l", "followed", cwd=tree)
    hypeman(daemon, "cp", "-L", "box:/tmp/d/g", "file-followed", cwd=tree)
    assert os.readlink(tree / "kept") == "d"
    assert sorted(os.listdir(tree / "followed")) == ["f", "g"] and os.readlink(tree / "followed/g") == "f"
    assert (tree / "file-followed").read_text() == "x\n"


def test_cp_dash_is_an_archive_on_standard_input_and_output(daemon, box, tree):
    in_guest(daemon, "rm -rf /tmp/*")
    archive = subprocess.run(["tar", "c", "-C", tree, "src"], capture_output=True, check=True).stdout
    hypeman(daemon, "cp", "-", "box:/tmp", input=archive)
    out = hypeman(daemon, "cp", "box:/tmp/src", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(out), errors="surrogateescape") as tar:
        tar.extractall(tree / "back")
    assert look(tree / "back/src") == look(tree / "src")
    assert b"hypeman: " in hypeman(daemon, "cp", "-", "box:/tmp", input=b"no archive" * 99, code=1).stderr


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_cp_expands_an_archive_on_standard_input(daemon, box, tree, compress):
    in_guest(daemon, "rm -rf /tmp/*")
    packed = compress(subprocess.run(["tar", "c", "-C", tree, "src"], capture_output=True, check=True).stdout)
    hypeman(daemon, "cp", "-", "box:/tmp", input=packed)
    out = hypeman(daemon, "cp", "box:/tmp/src", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(out), errors="surrogateescape") as tar:
        tar.extractall(tree / "back")
    assert look(tree / "back/src") == look(tree / "src")
    for broken in (packed[: len(packed) // 2], packed[:40] + b"damaged" + packed[47:]):
        assert b"does not expand" in hypeman(daemon, "cp", "-", "box:/tmp", input=broken, code=1).stderr


def test_cp_keeps_what_has_several_names_one_file_and_leaves_out_what_is_none(daemon, box, tmp_path):
    in_guest(daemon, "rm -rf /tmp/*")
    src = tmp_path / "src"
    (src / "sub").mkdir(parents=True)
    (src / "one").write_bytes(b"one file")
    os.link(src / "one", src / "sub/two")
    os.link(src / "one", os.fsencode(src) + b"/three \xff")
    os.mkfifo(src / "pipe")
    os.mknod(src / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(src / "socket"))
    told = hypeman(daemon, "cp", "src", "box:/tmp/there", cwd=tmp_path).stderr.decode()
    assert all(f"src/{name}\n" in told for name in ("pipe", "device", "socket")), told
    assert in_guest(daemon, "cd /tmp/there; find . | wc -l; stat -c %h one; test one -ef sub/two && cat sub/two") == "5\n3\none file"
    in_guest(daemon, "cd /tmp/there; mkfifo pipe; mknod device c 1 5")
    for as_, args in {"back": ["box:/tmp/there", "back"], "content": ["box:/tmp/there/.", "content"]}.items():
        hypeman(daemon, "cp", *args, cwd=tmp_path)
        names = [os.path.join(where, name) for where, _, files in os.walk(os.fsencode(tmp_path / as_)) for name in files]
        assert len(names) == 3 and len({os.stat(name).st_ino for name in names}) == 1, names
    out = hypeman(daemon, "cp", "box:/tmp/there", "-").stdout
    with tarfile.open(fileobj=io.BytesIO(out), errors="surrogateescape") as tar:
        assert sorted(one.type for one in tar) == [tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.DIRTYPE]
    hypeman(daemon, "cp", "-", "box:/tmp/there/sub", input=out)  # and in again, over nothing
    hypeman(daemon, "cp", "-", "box:/tmp", input=out)  # and over itself
    assert in_guest(daemon, "cd /tmp/there; stat -c %h one sub/there/one; cat sub/two") == "3\n3\none file"


def test_cp_of_the_whole_root_leaves_out_what_the_kernel_shows_there(daemon, box, tmp_path):
    in_guest(daemon, "rm -rf /tmp/*; echo x > /tmp/file")
    hypeman(daemon, "cp", "box:/", "all", cwd=tmp_path)
    assert (tmp_path / "all/bin/busybox").read_bytes() == open("/bin/busybox", "rb").read()
    assert (tmp_path / "all/tmp/file").read_text() == "x\n"
    assert os.listdir(tmp_path / "all/proc") == os.listdir(tmp_path / "all/sys") == []
    hypeman(daemon, "cp", "box:/tmp/..", "again", cwd=tmp_path)
    (tmp_path / "here").mkdir()
    hypeman(daemon, "cp", "box:/", "here", cwd=tmp_path)
    assert sorted(os.listdir(tmp_path / "again")) == sorted(os.listdir(tmp_path / "here")) == sorted(os.listdir(tmp_path / "all"))
    hypeman(daemon, "cp", "box:/proc/sys/kernel/ostype", "asked", cwd=tmp_path)  # if it is named, it is copied, as it is


def test_a_guest_cannot_make_cp_link_to_what_is_outside(daemon, box, tmp_path):
    """As an archive of its own making would have it; ours is made by hand, and unpacked by the same code on the way in."""
    in_guest(daemon, "rm -rf /tmp/*; mkdir -p /tmp/in; echo secret > /tmp/secret")
    for target in ("../secret", "/tmp/in/../secret"):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as tar:
            link = tarfile.TarInfo("stolen")
            link.type, link.linkname = tarfile.LNKTYPE, target
            tar.addfile(link)
        refused = hypeman(daemon, "cp", "-", "box:/tmp/in", input=made.getvalue(), code=1)
        assert b"no path of the archive" in refused.stderr, refused
    assert in_guest(daemon, "stat -c %h /tmp/secret; ls /tmp/in") == "1\n"


def test_cp_keeps_owners_when_told(daemon, box, tree):
    in_guest(daemon, "rm -rf /tmp/*")
    os.chown(tree / "src/file", 1234, 5678)
    hypeman(daemon, "cp", "src/file", "box:/tmp/plain", cwd=tree)
    hypeman(daemon, "cp", "-a", "src/file", "box:/tmp/kept", cwd=tree)
    assert in_guest(daemon, "stat -c %u:%g /tmp/plain /tmp/kept") == "0:0\n1234:5678\n"
    hypeman(daemon, "cp", "-a", "box:/tmp/kept", "back", cwd=tree)
    assert (os.stat(tree / "back").st_uid, os.stat(tree / "back").st_gid) == (1234, 5678)


def test_cp_says_how_much_on_a_terminal_and_nothing_without(daemon, terminal, box, tmp_path):
    (tmp_path / "big").write_bytes(bytes(12 << 20))
    assert hypeman(daemon, "cp", str(tmp_path / "big"), "box:/tmp/big").stderr == b""
    t = terminal("cp", str(tmp_path / "big"), "box:/tmp/big")
    t.wait_for(b"copied 12.0 MB\r\n")
    assert t.end() == 0


def test_a_guest_cannot_make_cp_write_outside_the_destination(daemon, box, tmp_path):
    """Its tree holds a link to a directory outside, and the same name as a directory again."""
    outside, here = tmp_path / "outside", tmp_path / "here"
    outside.mkdir(), here.mkdir()
    (here / "tree").mkdir()
    (here / "tree/d").symlink_to(outside)  # as if an earlier copy had left it
    in_guest(daemon, "rm -rf /tmp/*; mkdir -p /tmp/tree/d; echo bad > /tmp/tree/d/planted")
    hypeman(daemon, "cp", "box:/tmp/tree", ".", cwd=here, code=None)
    assert list(outside.iterdir()) == []
