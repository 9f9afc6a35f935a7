# SPDX-License-Identifier: Apache-2.0
"""A host with an uplink and guests, each in a namespace of its own, and src/net at work in the host's."""
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))

from netns import PATIENCE, Ns  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
BUILD = pathlib.Path(os.environ.get("HYPEMAN_BUILD", ROOT / "build")).resolve()
NET_HOST = BUILD / "tests/net/net_host"
SANITIZER = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:")
GATEWAY, INNER = "192.0.0.1", "192.0.0.2"
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
            self.ns.command([str(NET_HOST), str(ready), *words]),
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
        assert line and line[0] == "ok", f"{' '.join(line)}\n{self.said()}"
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
        return dict(zip(("ready", "claimed", "addresses", "repairs", "listings"), map(int, self.tell("counts"))))

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
        try:
            self.stop()
        finally:
            self._end()
        found = SANITIZER.search(self.log)
        assert not found, self.log

    def _end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        for pid in self.ns.processes():  # what a killed one left
            os.kill(pid, signal.SIGKILL)
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
