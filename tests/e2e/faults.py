# SPDX-License-Identifier: Apache-2.0
"""A daemon whose every call to its disk and its VMMs can be ended, refused or stalled (tests/faults)."""
import contextlib
import mmap
import struct

from harness import BUILD, until

LIBRARY = BUILD / "tests/faults/libfaults.so"
KILL, FULL, STALL, COUNT = 1, 2, 3, 4

# As in tests/faults/control.h.
SIZE, PLANS, PLAN, N_PLANS, LABEL = 4096, 48, 256, 8, 240
RECORDING, IS_FULL, RELEASED, SUBJECT = 0, 4, 8, 16
ACTION, AT, SEEN, HIT, TEXT = 0, 4, 8, 12, 16
UNCOUNTED = 0x80000000


class Faults:
    """To be made before the daemon is started."""

    def __init__(self, daemon):
        self.log = daemon.root / "faults.log"
        control = daemon.root / "faults.control"
        control.write_bytes(bytes(SIZE))
        with control.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), SIZE)
        daemon.environment |= {
            "LD_PRELOAD": str(LIBRARY),
            "HYPEMAN_FAULTS": str(control),
            "HYPEMAN_FAULTS_LOG": str(self.log),
            "HYPEMAN_FAULTS_DATA": str(daemon.data.resolve()),
        }

    def _put(self, at, value):
        struct.pack_into("<I", self.map, at, value)

    def _get(self, at):
        return struct.unpack_from("<I", self.map, at)[0]

    def clear(self):
        """Nothing is armed, what stalls goes on, the disk has room again."""
        for plan in range(N_PLANS):
            self._put(PLANS + plan * PLAN + ACTION, 0)
        self._put(RECORDING, 0)
        self._put(IS_FULL, 0)
        self._put(RELEASED, 1)

    def arm(self, action, label, at, since=None):
        """The step that comes for the at-th time, from 1, meets its fate; counted since another, (label, at)."""
        self._put(RELEASED, 0)
        self._arm(0, action, label, at, UNCOUNTED if since else 0)
        if since:
            self._arm(1, COUNT, *since, 0)

    def _arm(self, plan, action, label, at, seen):
        here = PLANS + plan * PLAN
        for field, value in ((AT, at), (SEEN, seen), (HIT, 0)):
            self._put(here + field, value)
        self.map[here + TEXT : here + TEXT + LABEL] = label.encode().ljust(LABEL, b"\0")
        self._put(here + ACTION, action)

    def subject(self, instance_id):
        """The instance that labels call SOURCE."""
        self.map[SUBJECT : SUBJECT + 32] = instance_id.encode().ljust(32, b"\0")

    def hit(self):
        return self._get(PLANS + HIT) == 1

    def came(self):
        """Whether it struck. A step may come a moment after the answer."""
        with contextlib.suppress(AssertionError):
            until("that step", self.hit, 5)
        return self.hit()

    def record(self, call):
        """What it returns, and the steps that it took, in order."""
        self.log.write_text("")
        self._put(RECORDING, 1)
        value = call()
        self._put(RECORDING, 0)
        return value, self.log.read_text().splitlines()
