# SPDX-License-Identifier: Apache-2.0
"""VMMs that run no guest and can be told to misbehave (tests/doubles), and a daemon that uses them."""
import os
import pathlib
import shutil
import signal

import harness


class Doubles:
    """The program in a directory of its own, and the moods of the instances that run on it, by name."""

    def __init__(self, where):
        self.where = pathlib.Path(where)
        self.program = self.where / "qemu-system-x86_64"
        self.moods = self.where / "moods"
        self.moods.mkdir(parents=True)
        shutil.copy(harness.BUILD / "tests/doubles/qemu-system-x86_64", self.program)
        (self.where / "qboot.rom").write_bytes(b"none")

    def settings(self):
        return {"HYPERVISOR__QEMU_BINARY_PATH": str(self.program), "HYPERVISOR__ACCELERATION": "tcg"}

    def mood(self, name, text):
        """name may be "all"."""
        temporary = self.where / "mood"
        temporary.write_text(text)
        temporary.rename(self.moods / name)


def serve(root, rootfs, settings_in=lambda ns: {}):
    """A daemon on doubles, with the test image; the doubles are its attribute. Settings may need its namespace."""
    doubles = Doubles(root / "doubles")
    daemon = harness.Daemon(root, settings=doubles.settings())
    daemon.environment.update(settings_in(daemon.ns))
    daemon.doubles = doubles
    try:
        daemon.start()
        daemon.import_image(rootfs)
        daemon.mark()
        yield daemon
        for pid in daemon.vm_processes():
            os.kill(pid, signal.SIGCONT)
        daemon.kept.clear()
        daemon.fds_before = None
        daemon.assert_nothing_left()
        daemon.stop()
    finally:
        daemon.kill_all()


def create(daemon, name, **fields):
    """A running instance; the workload is never looked at."""
    body = {"name": name, "image": harness.IMAGE, "size": "128MB", "overlay_size": "16MB", "vcpus": 1, **fields}
    made = daemon.api.post("/instances", body)
    return daemon.api.wait(made["id"], "Running")


def tell(daemon, instance, number):
    os.kill(daemon.vm_pid(instance["id"]), number)
