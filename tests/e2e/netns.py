# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that last as long as their object, and what talks in them."""
import ctypes
import os
import pathlib
import socket
import subprocess
import threading

PATIENCE = 30.0
CLONE_NEWNET = 0x40000000
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

    def processes(self):
        """What runs in it, ourselves apart."""
        here, found = os.fstat(self.fd).st_ino, []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.stat(f"/proc/{pid}/ns/net").st_ino == here and int(pid) != os.getpid():
                    found.append(int(pid))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                pass
        return found

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
        """A TCP server: answer(connection) runs on a thread for each connection."""
        return Server(self.socket(bind=("0.0.0.0", port)), answer)

    def echo_udp(self, port):
        return UdpEcho(self.socket(socket.SOCK_DGRAM, bind=("0.0.0.0", port)))


class Server:
    """Accepts TCP connections; answer(connection) runs on a thread for each, and closes it."""

    def __init__(self, listening, answer):
        self.listening, self.answer, self.peers = listening, answer, []
        listening.listen(64)
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

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
        self.thread.join(PATIENCE)  # who waits in accept() keeps the port
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
