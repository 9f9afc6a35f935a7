# SPDX-License-Identifier: Apache-2.0
"""One guest under QEMU, without the daemon: its disks, its command line, and the host's end of the agent channel."""
import io
import json
import os
import pathlib
import secrets
import select
import socket
import struct
import subprocess
import tarfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("HYPEMAN_BUILD", ROOT / "build"))
GUEST = BUILD / "guest"

MAGIC = b"\x89HYPEMAN\r\n\x1a\nWIRE"
VERSION = 3
HELLO, IDENTITY, STARTED, EXITED, SHUTDOWN, FAILED = 1, 2, 3, 4, 5, 6
EXEC, COPY_IN, COPY_OUT, STAT, DATA, ZEROS, ENTRY, END_INPUT, CREDIT, RESIZE, SIGNAL, CLOSE, DONE = range(16, 29)
STDERR = 1
CONFIG_OFFSET = 4096
DEADLINE = 120  # seconds; a loaded machine under TCG


def busybox_image(path, extra=()):
    """A squashfs of busybox with its applets; extra is (name, mode, bytes or link target)."""
    busybox = pathlib.Path("/bin/busybox").read_bytes()
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    files = [("bin/busybox", 0o755, busybox)]
    files += [(f"bin/{a}", None, "busybox") for a in applets if a != "busybox"]
    files += [
        ("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"),
        ("etc/group", 0o644, b"root:x:0:\nstaff:x:50:app\nvideo:x:44:app,other\nappg:x:1001:\n"),
        ("etc/hosts", 0o644, b""),
        *extra,
    ]
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for directory in ("bin", "etc", "proc", "dev", "sys"):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for name, mode, content in files:
            info = tarfile.TarInfo(name)
            if mode is None:
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.mode, info.size = mode, len(content)
                archive.addfile(info, io.BytesIO(content))
    subprocess.run(["tar2sqfs", "-q", "-f", "-c", "lz4", str(path)], input=tar.getvalue(), check=True, capture_output=True)


def config_disk(path, config):
    text = json.dumps(config).encode()
    body = b"\0" * CONFIG_OFFSET + b"HYPCONF1" + struct.pack("<I", len(text)) + text
    path.write_bytes(body + b"\0" * (-len(body) % 512))


def exit_record(path):
    """The record in the exit sector, or None."""
    sector = path.read_bytes()[:512]
    if sector == b"\0" * 512:
        return None
    assert sector[:8] == b"HYPEXIT1"
    (length,) = struct.unpack_from("<I", sector, 8)
    return json.loads(sector[12 : 12 + length])


def tsc_khz():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("cpu MHz"):
            return round(float(line.split(":")[1]) * 1000)
    return None


def frame(kind, data=b"", stream=0):
    if not isinstance(data, bytes):
        data = json.dumps(data).encode()
    return struct.pack("<IBBHI", len(data), kind, 0, 0, stream) + data


def connected(path):
    """QEMU binds the socket and listens a moment later."""
    until = time.monotonic() + DEADLINE
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
            return sock
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            if time.monotonic() > until:
                raise
            time.sleep(0.002)


class Channel:
    """The host's end: one connection."""

    def __init__(self, path, junk=b"", hello=True):
        self.socket = connected(path)
        self.nonce = secrets.token_hex(16)
        self.data = b""
        self.synchronised = False
        if hello:
            self.send(junk + MAGIC + frame(HELLO, {"version": VERSION, "nonce": self.nonce}))

    def send(self, data):
        self.socket.sendall(data)

    def frame(self, timeout=DEADLINE):
        """The next (type, JSON)."""
        kind, _, _, body = self.raw_frame(timeout)
        return kind, json.loads(body or b"null")

    def raw_frame(self, timeout=DEADLINE):
        """The next (type, flags, stream, content)."""
        until = time.monotonic() + timeout
        while True:
            if not self.synchronised and MAGIC in self.data:
                self.data = self.data.split(MAGIC, 1)[1]
                self.synchronised = True
            if self.synchronised and len(self.data) >= 12:
                length, kind, flags, zero, stream = struct.unpack_from("<IBBHI", self.data)
                assert zero == 0 and length <= 65536
                if len(self.data) >= 12 + length:
                    body, self.data = self.data[12 : 12 + length], self.data[12 + length :]
                    return kind, flags, stream, body
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                raise TimeoutError("the guest said nothing")
            more = self.socket.recv(65536)
            if not more:
                raise EOFError("the channel was closed")
            self.data += more

    def expect(self, kind, timeout=DEADLINE):
        got, body = self.frame(timeout)
        assert got == kind, f"wanted frame {kind}, got {got}: {body}"
        return body

    def greet(self, timeout=DEADLINE):
        body = self.expect(HELLO, timeout)
        assert body == {"version": VERSION, "nonce": self.nonce}
        return self

    def close(self):
        self.socket.close()


class Guest:
    """A VM in a directory. The image is shared; the other two disks are its own."""

    def __init__(self, directory, image, config, machine="microvm", net=False, append="", memory=256):
        self.dir = directory
        self.dir.mkdir(exist_ok=True)
        self.machine = machine
        self.overlay, self.config = self.dir / "overlay.raw", self.dir / "config.raw"
        if not self.overlay.exists():
            subprocess.run(
                ["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self.overlay), "64M"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        config_disk(self.config, {"incarnation": 1, "hostname": "box", "env": {}, **config})
        self.log, self.agent = self.dir / "serial.log", self.dir / "agent.sock"
        self.agent.unlink(missing_ok=True)
        self.process = subprocess.Popen(self.command(image, net, append, memory), cwd=self.dir, stderr=open(self.dir / "stderr", "wb"))

    def command(self, image, net, append, memory):
        suffix = "device" if self.machine == "microvm" else "pci"
        khz = tsc_khz()
        cmdline = ["console=ttyS0", "loglevel=3", "reboot=t", "panic=-1", "no_timer_check", "tsc=reliable"]
        cmdline += ["cryptomgr.notests", "mitigations=off"]
        cmdline += [f"tsc_early_khz={khz}"] if khz else []
        line = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg"]
        line += ["-cpu", "max,erms=off,fsrm=off", "-m", str(memory), "-kernel", GUEST / "vmlinux", "-initrd", GUEST / "initramfs.cpio", "-append", " ".join([*cmdline, append])]
        if self.machine == "microvm":
            line += ["-M", "microvm", "-bios", "/usr/share/qemu/qboot.rom"]
        else:
            line += ["-M", "q35,smm=off,hpet=off,vmport=off,sata=off,smbus=off,i8042=off"]
        line += ["-chardev", "file,id=ser,path=serial.log,append=on", "-serial", "chardev:ser"]
        line += ["-chardev", "socket,id=ag,path=agent.sock,server=on,wait=off", "-device", f"virtio-serial-{suffix},max_ports=2"]
        line += ["-device", "virtserialport,chardev=ag,name=org.hypeman.agent.0,id=agp"]
        for i, (file, readonly) in enumerate([(image, "on"), (self.overlay, "off"), (self.config, "off")]):
            line += ["-drive", f"if=none,id=d{i},file={file},format=raw,readonly={readonly}"]
            line += ["-device", f"virtio-blk-{suffix},drive=d{i}"]
        if net:
            romfile = "" if self.machine == "microvm" else ",romfile="
            line += ["-netdev", "user,id=n0,restrict=on", "-device", f"virtio-net-{suffix},netdev=n0{romfile}"]
        return [str(word) for word in line]

    def connect(self, **options):
        return Channel(self.agent, **options)

    def reconnect(self, junk=b""):
        """As the daemon does it: no HELLO back may mean that the guest takes ours for the rest of a cut frame."""
        for _ in range(5):
            channel = self.connect(junk=junk)
            try:
                return channel.greet(timeout=5)
            except TimeoutError:
                channel.close()
                time.sleep(0.5)
                junk = b""
        raise TimeoutError("the guest answers no HELLO")

    def wait(self, timeout=DEADLINE):
        return self.process.wait(timeout)

    def output(self):
        return self.log.read_text(errors="replace")

    def wait_output(self, *texts):
        until = time.monotonic() + DEADLINE
        while not all(text in self.output() for text in texts):
            assert time.monotonic() < until, self.output()
            time.sleep(0.01)

    def record(self):
        return exit_record(self.config)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
