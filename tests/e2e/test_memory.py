# SPDX-License-Identifier: Apache-2.0
"""Who owns what of a guest's memory and disk (design, 2.6): what is published never changes, and nobody shares a disk."""
import contextlib
import hashlib
import os
import re

import pytest

from harness import PATIENCE, Background, until

# Writes its name into one file, has it read from the disk, and says what it read. The host name of a fork is its own.
WRITER = """found=$(cat /same 2>/dev/null); echo "found ${found:-nothing}"; i=0
while :; do
    me=$(cat /proc/sys/kernel/hostname); echo "$me $i" > /same; sync; echo 3 > /proc/sys/vm/drop_caches
    echo "wrote $me $i read $(cat /same)"; i=$((i+1)); sleep 0.1
done"""
COUNTS = "i=0; while :; do echo count $i; i=$((i+1)); sleep 0.2; done"


def written(api, name):
    """(who, number, what was read) of each line."""
    found = [re.fullmatch(r"wrote (\S+) (\d+) read (.*)", line) for line in api.logs(name, tail=500)]
    return [(m[1], int(m[2]), m[3]) for m in found if m]


def writes(api, name, times=4):
    """Until it has written so often under its own name from now on; every line is held against what it says."""
    before = max([number for who, number, _ in written(api, name) if who == name], default=-1)
    until(f"{name} writes", lambda: any(w == name and n >= before + times for w, n, _ in written(api, name)))
    for who, number, read in written(api, name):
        assert read == f"{who} {number}", f"{name} wrote {who} {number} and read {read}"


def last_count(api, name):
    counts = [int(m[1]) for m in (re.fullmatch(r"count (\d+)", line) for line in api.logs(name, tail=50)) if m]
    return counts[-1] if counts else -1


def goes_on(api, name):
    before = last_count(api, name)
    until(f"{name} goes on", lambda: last_count(api, name) > before + 2)


@pytest.mark.parametrize("from_running", [True, False], ids=["from-running", "from-standby"])
def test_source_and_forks_write_the_same_file_at_once_and_each_reads_its_own(api, from_running):
    api.run(WRITER, name="source", size="128MB")
    writes(api, "source")
    if not from_running:
        api.post("/instances/source/standby")
    for name in ("one", "two"):
        api.post("/instances/source/fork", {"name": name, "target_state": "Running", "from_running": from_running})
    if not from_running:
        api.post("/instances/source/restore")
    everybody = ("source", "one", "two")
    side_by_side(writes, api, everybody)
    # What each has on its disk is there for a guest that boots from it.
    side_by_side(boots_again, api, everybody)
    for name in everybody:
        found = [line for line in api.logs(name, tail=500) if line.startswith("found ")]
        assert re.fullmatch(rf"found {name} \d+", found[-1]), f"{name}: {found}"


def side_by_side(call, api, names):
    for one in [Background(call, api, name) for name in names]:
        one.result(2 * PATIENCE)


def boots_again(api, name):
    lines = lambda: sum(line.startswith("found ") for line in api.logs(name, tail=500))
    before = lines()
    api.post(f"/instances/{name}/stop")
    api.post(f"/instances/{name}/start", {})
    until(f"{name} boots", lambda: lines() > before)


class Published:
    """Memory files, from the moment on at which they are published; held open, so that they outlive their names."""

    def __init__(self, daemon):
        self.daemon, self.files = daemon, {}

    def take(self, name):
        asleep = self.daemon.api.get(f"/instances/{name}")
        file = (self.daemon.instance_dir(asleep["id"]) / "snapshot" / "memory").open("rb")
        assert os.fstat(file.fileno()).st_ino not in {os.fstat(f.fileno()).st_ino for f, _ in self.files.values()}
        self.files[name, len(self.files)] = file, self.hash(file)
        return file

    @staticmethod
    def hash(file):
        """Of what is in it; holes are not read."""
        digest, fd, at = hashlib.blake2b(), file.fileno(), 0
        size = os.fstat(fd).st_size
        with contextlib.suppress(OSError):  # no data after at
            while at < size:
                at = os.lseek(fd, at, os.SEEK_DATA)
                end = os.lseek(fd, at, os.SEEK_HOLE)
                while at < end:
                    piece = os.pread(fd, min(1 << 20, end - at), at)
                    digest.update(f"{at} ".encode() + piece)
                    at += len(piece)
        return size, digest.hexdigest()

    def check(self, after):
        for name, (file, was) in self.files.items():
            assert self.hash(file) == was, f"the memory of {name} has changed after {after}"

    def close(self):
        for file, _ in self.files.values():
            file.close()


def mappings(daemon, key, name):
    """The permissions with which its VMM maps a file."""
    maps = open(f"/proc/{daemon.vm_pid(key)}/maps").read()
    return re.findall(rf"^\S+ (\S+) .*{re.escape(name)}(?: \(deleted\))?$", maps, re.M)


def test_a_published_memory_file_never_changes_whoever_lives_on_it(daemon):
    api = daemon.api
    published = Published(daemon)

    def do(verb, key, **body):
        done = api.post(f"/instances/{key}/{verb}", body or None)
        published.check(f"{verb} {key} {body}")
        if verb == "standby":
            published.take(key)
        return done

    with contextlib.closing(published):
        golden = api.run(COUNTS, name="golden", size="128MB")["id"]
        assert mappings(daemon, golden, "/memfd:hypeman-ram") == ["rw-s"], "a guest that booted owns its memory"
        goes_on(api, "golden")
        do("standby", "golden")
        for name in ("a", "b"):
            key = do("fork", "golden", name=name, target_state="Running")["id"]
            assert mappings(daemon, key, "/snapshot/memory") == ["rw-p"], "a clone writes to pages of its own"
        for name in ("a", "b"):
            goes_on(api, name)
        do("standby", "a")  # while b lives on the same file
        goes_on(api, "b")
        do("fork", "a", name="c", target_state="Running")  # a clone of a clone
        do("fork", "a", name="d")
        goes_on(api, "c")
        do("standby", "c")
        do("fork", "c", name="e", target_state="Running")
        do("standby", "b")
        do("restore", "golden")
        goes_on(api, "golden")
        do("standby", "golden")
        # The source, a snapshot and siblings go; whoever stays lives on.
        for name in ("golden", "a", "c"):
            api.delete(f"/instances/{name}", graceful_shutdown=False)
            published.check(f"delete {name}")
            goes_on(api, "e")
        for name in ("b", "d"):
            do("restore", name)
            goes_on(api, name)
        published.check("all")


def test_links_count_the_users_of_a_memory_file(daemon):
    api = daemon.api
    api.run(COUNTS, name="source", size="128MB")
    api.post("/instances/source/standby")
    with contextlib.closing(Published(daemon)) as published:
        memory = published.take("source")
        users = lambda: os.fstat(memory.fileno()).st_nlink
        assert users() == 1
        for n, name in enumerate(("a", "b"), 2):
            api.post("/instances/source/fork", {"name": name})
            assert users() == n
        api.post("/instances/a/restore")  # its memory is no longer this one, once the used snapshot has gone
        until("two users", lambda: users() == 2)
        api.delete("/instances/source", graceful_shutdown=False)
        assert users() == 1
        published.check("the deletion of the source")
        api.post("/instances/b/stop")  # gives its memory up
        until("no user", lambda: users() == 0)
        goes_on(api, "a")  # which still lives on it
