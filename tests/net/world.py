# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that last as long as their object, and src/net at work in one of them."""
import ctypes
import os
import pathlib
import select
import socket
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).parents[2]
BUILD = pathlib.Path(os.environ.get("HYPEMAN_BUILD", ROOT / "build")).resolve()
NET_HOST = BUILD / "tests/net/net_host"
PATIENCE = 30.0
CLONE_NEWNET = 0x40000000
GATEWAY, INNER = "192.0.0.1", "192.0.0.2"
libc = ctypes.CDLL(None, use_errno=True)


def on_thread(call):
    """What call() returns or raises, from a thread of its own: a namespace is a thread's."""
    box = []

    def run():
        try:
            box.append((call(), None))
        except BaseException as error:  # handed over
            box.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = box[0]
    if error:
        raise error
    return value


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Ns:
    """A network namespace. It ends when the last process and file in it do."""

    def __init__(self):
        def make():
            checked(libc.unshare(CLONE_NEWNET))
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        self.fd = on_thread(make)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self.run("ip link set lo up")

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def inside(self, call):
        def run():
            checked(libc.setns(self.fd, CLONE_NEWNET))
            return call()

        return on_thread(run)

    def command(self, words):
        return ["nsenter", f"--net={self.path}", *(words.split() if isinstance(words, str) else words)]

    def run(self, words, check=True, **more):
        done = subprocess.run(self.command(words), capture_output=True, text=True, timeout=PATIENCE, **more)
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if check else done

    def nft(self, text):
        return self.run(["nft", "-f", "-"], input=text)

    def write(self, path, text):
        """A file of /proc/sys/net, which is the namespace's own."""
        self.inside(lambda: pathlib.Path(path).write_text(text))

    def read(self, path):
        return self.inside(lambda: pathlib.Path(path).read_text().strip())

    def socket(self, kind=socket.SOCK_STREAM, bind=None, seconds=PATIENCE, family=socket.AF_INET, proto=0):
        s = self.inside(lambda: socket.socket(family, kind, proto))
        s.settimeout(seconds)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if bind:
            s.bind(bind)
        return s

    def connect(self, address, seconds=PATIENCE):
        s = self.socket(seconds=seconds)
        try:
            s.connect(address)
        except BaseException:
            s.close()
            raise
        return s

    def listen(self, port, answer):
        return Server(self.socket(bind=("0.0.0.0", port)), answer)

    def echo_udp(self, port, size=65535):
        return UdpEcho(self.socket(socket.SOCK_DGRAM, bind=("0.0.0.0", port)))


class Server:
    """Accepts TCP connections; answer(connection) runs on a thread for each, and closes it."""

    def __init__(self, listening, answer):
        self.listening, self.answer, self.peers = listening, answer, []
        listening.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        self.listening.settimeout(None)
        while True:
            try:
                connection, peer = self.listening.accept()
            except OSError:
                return
            self.peers.append(peer[0])
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            connection.settimeout(PATIENCE)
            try:
                self.answer(connection)
            except OSError:
                pass

    def close(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


class UdpEcho:
    def __init__(self, s):
        self.s, self.peers = s, []
        s.settimeout(None)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                data, peer = self.s.recvfrom(65535)
            except OSError:
                return
            self.peers.append(peer[0])
            self.s.sendto(data, peer)

    def close(self):
        self.s.close()


def link(a, name_a, address_a, b, name_b, address_b, mtu=1500):
    """A veth pair between two namespaces, with addresses. What goes from a to b may have mtu bytes."""
    a.run(f"ip link add {name_a} mtu {mtu} type veth peer name {name_b} netns {b.path}")
    a.run(f"ip addr add {address_a} dev {name_a}")
    b.run(f"ip addr add {address_b} dev {name_b}")
    a.run(f"ip link set {name_a} up")
    b.run(f"ip link set {name_b} up")


class Host:
    """A host with an uplink to an outside host, behind a router; src/net runs in it once started."""

    def __init__(self, mtu=1500):
        self.ns, self.router, self.outside = Ns(), Ns(), Ns()
        self.guests = []
        link(self.ns, "out0", "198.51.100.1/24", self.router, "in0", "198.51.100.2/24")
        link(self.router, "far0", "203.0.113.1/24", self.outside, "eth0", "203.0.113.2/24", mtu)
        self.ns.run("ip route add default via 198.51.100.2")
        self.outside.run("ip route add default via 203.0.113.1")
        self.router.write("/proc/sys/net/ipv4/ip_forward", "1")
        self.process = None
        self.log = ""

    def start(self, *words, ready=4):
        self.process = subprocess.Popen(
            self.ns.command([str(NET_HOST), "", str(ready), *words]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        os.set_blocking(self.process.stderr.fileno(), False)
        self._answer()
        return self

    def _answer(self):
        ready = select.select([self.process.stdout], [], [], PATIENCE)[0]
        line = self.process.stdout.readline().split() if ready else []
        assert line and line[0] == "ok", f"{line}\n{self.said()}"
        return line[1:]

    def tell(self, words):
        self.process.stdin.write(words + "\n")
        return self._answer()

    def settle(self):
        self.tell("settle")

    def said(self):
        """The log so far."""
        while True:
            try:
                data = os.read(self.process.stderr.fileno(), 65536)
            except BlockingIOError:
                break
            if not data:
                break
            self.log += data.decode()
        return self.log

    def until_said(self, text, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while text not in self.said():
            left = end - time.monotonic()
            assert left > 0, f"{text!r} is not in the log:\n{self.log}"
            select.select([self.process.stderr], [], [], left)
        return self.log

    def guest(self, address=None, configure=True, plain=False):
        g = Guest(self, address, plain)
        self.guests.append(g)
        if configure:
            g.configure()
        return g

    def counts(self):
        return dict(zip(("ready", "claimed", "addresses", "repairs"), map(int, self.tell("counts"))))

    def taps(self):
        return sorted(line.split()[0] for line in self.ns.run("ip -br link").splitlines() if line.startswith("hm"))

    def stop(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait(PATIENCE)
            self.said()
        code = self.process.returncode if self.process else 0
        self.process = None
        return code

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        for one in self.guests:
            one.ns.close()
        for one in (self.ns, self.router, self.outside):
            one.close()


class Guest:
    """A guest behind a slot: a namespace whose eth0 is what virtio-net would be."""

    def __init__(self, host, address, plain):
        self.host = host
        self.ns = Ns()
        self.tap, self.address = host.tell(f"guest {self.ns.path} {address or '-'}" + (" plain" if plain else ""))

    def configure(self):
        """As the agent does it at boot."""
        ns = self.ns
        ns.run("ip link set eth0 address 02:00:00:00:00:02")
        ns.run(f"ip addr add {INNER}/29 dev eth0")
        ns.run("ip link set eth0 up")
        ns.run(f"ip neigh replace {GATEWAY} dev eth0 lladdr 02:00:00:00:00:01 nud permanent")
        ns.run(f"ip route add default via {GATEWAY}")

    def end(self):
        self.host.tell(f"end {self.tap}")
        self.host.guests.remove(self)
        self.ns.close()
