# SPDX-License-Identifier: Apache-2.0
"""GET /instances/{id}/cp and /stat: files into a guest and out of it, as a WebSocket client of another make sees them."""
import asyncio
import hashlib
import io
import json
import os
import tarfile

import pytest

from harness import with_query
from sockets import PARTS, connect, execute, rss, wait_for

JSON_LIKE = [
    b'{"type":"end","final":true}',
    b'{"type":"error","message":"no"}',
    b'[[1],[2]]',
    b"[" * 100000,
    b"{" * 40000 + b"}",
    b'[{"type":"header"}]' * 5000,
    b"",
]


@pytest.fixture(scope="module")
def box(daemon):
    made = daemon.api.run(name="box", overlay_size="4GB")
    daemon.mark(made["id"])
    return "box"


def sh(daemon, key, script):
    done = execute(daemon, key, ["/bin/sh", "-c", script])
    assert done.code == 0, done
    return done.output


async def put(daemon, key, path, content=None, **request):
    """One file, or a directory, as the contract's clients send it; the server's answer."""
    async with connect(daemon, f"/instances/{key}/cp") as socket:
        await socket.send(json.dumps({"direction": "to", "guest_path": path, "is_dir": content is None, **request}))
        for at in range(0, len(content or b""), PARTS):
            await socket.send(content[at : at + PARTS])
        await socket.send('{"type":"end"}')
        return json.loads(await socket.recv())


def put_one(daemon, key, path, content=None, **request):
    return wait_for(put(daemon, key, path, content, **request))


async def get(daemon, key, path, **request):
    """[(header, content)], and the error or None."""
    async with connect(daemon, f"/instances/{key}/cp") as socket:
        await socket.send(json.dumps({"direction": "from", "guest_path": path, **request}))
        found = []
        async for message in socket:
            if isinstance(message, bytes):
                assert len(message) <= PARTS
                found[-1][1].extend(message)
                continue
            said = json.loads(message)
            if said["type"] == "header":
                found.append((said, bytearray()))
            elif said["type"] == "end":
                found[-1][0]["final"] = said["final"]
                if said["final"]:  # from here on it is the client's to leave
                    return found, None
            else:
                return found, said


def get_all(daemon, key, path, **request):
    found, error = wait_for(get(daemon, key, path, **request))
    assert error is None, error
    assert [one["final"] for one, _ in found] == [False] * (len(found) - 1) + [True]
    return {one["path"]: (one, bytes(content)) for one, content in found}


@pytest.mark.core
def test_a_file_goes_in_and_comes_out(daemon, box):
    content = os.urandom(3 * PARTS + 17)
    answer = put_one(daemon, box, "/tmp/new/dir/file", content, mode=0o640)
    assert answer == {"type": "result", "success": True, "bytes_written": len(content)}
    assert sh(daemon, box, "stat -c %a /tmp/new/dir /tmp/new/dir/file") == b"755\n640\n"
    (header, got), = get_all(daemon, box, "/tmp/new/dir/file").values()
    assert got == content
    assert header["path"] == "file" and header["mode"] == 0o640 and header["size"] == len(content)
    assert header["is_dir"] is False and header["mtime"] > 1700000000


def test_modes_owners_and_what_is_there_already(daemon, box):
    put_one(daemon, box, "/tmp/plain", b"a long first content")
    put_one(daemon, box, "/tmp/plain", b"short")
    put_one(daemon, box, "/tmp/folder")
    put_one(daemon, box, "/tmp/owned", b"x", uid=1000, gid=0)
    put_one(daemon, box, "/tmp/both", b"x", uid=1000, gid=1001)
    seen = sh(daemon, box, "cat /tmp/plain; cd /tmp; stat -c ' %a %u:%g' plain folder owned both")
    assert seen == b"short 644 0:0\n 755 0:0\n 644 1000:0\n 644 1000:1001\n"
    onto_directory = put_one(daemon, box, "/tmp/folder", b"x")
    assert onto_directory["success"] is False
    assert onto_directory["error"] == "cannot copy file: /tmp/folder is a directory"
    onto_file = put_one(daemon, box, "/tmp/plain")
    assert onto_file["success"] is False and onto_file["error"] == "cannot create directory: /tmp/plain is a file"
    assert sh(daemon, box, "cat /tmp/plain") == b"short"


def test_a_tree_comes_out_sorted_with_its_links_and_without_its_devices(daemon, box):
    sh(daemon, box, "mkdir -p /tmp/tree/sub/empty; cd /tmp/tree; echo b > b; echo a > a; ln -s ../a sub/l; "
                    "mkfifo pipe; mknod dev c 1 3; chmod 700 sub; ln -s sub far")
    found = get_all(daemon, box, "/tmp/tree")
    assert list(found) == ["tree", "tree/a", "tree/b", "tree/far", "tree/sub", "tree/sub/empty", "tree/sub/l"]
    assert found["tree/sub"][0]["is_dir"] and found["tree/sub"][0]["mode"] == 0o700 and found["tree/sub"][0]["size"] == 0
    assert found["tree/sub/l"][0]["is_symlink"] and found["tree/sub/l"][0]["link_target"] == "../a"
    assert found["tree/b"][1] == b"b\n"
    followed = get_all(daemon, box, "/tmp/tree", follow_links=True)
    assert followed["tree/sub/l"][1] == b"a\n" and "is_symlink" not in followed["tree/sub/l"][0]
    assert followed["tree/far"][0]["is_dir"]


@pytest.mark.parametrize("i", range(len(JSON_LIKE)))
def test_content_that_looks_like_the_protocol_is_content(daemon, box, i):
    """The official client takes a binary message that parses for a message of the protocol: none may."""
    put_one(daemon, box, "/tmp/like", JSON_LIKE[i])

    async def fetch():
        async with connect(daemon, f"/instances/{box}/cp") as socket:
            await socket.send('{"direction":"from","guest_path":"/tmp/like"}')
            got = [await socket.recv()]
            while got[-1] != '{"type":"end","final":true}':
                got.append(await socket.recv())
            return got

    parts = [message for message in wait_for(fetch()) if isinstance(message, bytes)]
    assert b"".join(parts) == JSON_LIKE[i]
    for part in parts:
        if part[:1] in (b"{", b"["):
            with pytest.raises((ValueError, RecursionError)):
                json.loads(part)


def test_names_are_utf8_or_named_in_the_error_and_tar_carries_them_all(daemon, box):
    names = ["ä ö", "日本語", "🙂", "a\nb", 'quo"te\\', "-rf", "x" * 255]
    for name in names:
        put_one(daemon, box, f"/tmp/names/{name}", name.encode())
    found = get_all(daemon, box, "/tmp/names")
    assert {path: content.decode() for path, (_, content) in found.items() if path != "names"} == {f"names/{n}": n for n in names}
    sh(daemon, box, r"printf x > /tmp/names/$(printf '\377odd')")
    _, error = wait_for(get(daemon, box, "/tmp/names"))
    assert error["type"] == "error" and r"\xffodd" in error["message"] and "UTF-8" in error["message"], error
    archive, error = wait_for(get_tar(daemon, box, "/tmp/names"))
    assert error is None
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as tar:
        assert b"names/\xffodd" in [os.fsencode(one.name) for one in tar]
    assert wait_for(put_tar(daemon, box, "/tmp/again", archive))["success"]
    assert sh(daemon, box, "ls -a /tmp/names | sort; echo") == sh(daemon, box, "ls -a /tmp/again/names | sort; echo")


@pytest.mark.parametrize("request_, error", [
    ({"direction": "to"}, "guest_path"),
    ({"direction": "up", "guest_path": "/x"}, "invalid direction: up (must be 'to' or 'from')"),
    ({"direction": "from", "guest_path": "/x", "format": "zip"}, "format"),
    ({"direction": "from", "guest_path": "/nope"}, "/nope"),
    ({"direction": "from", "guest_path": "/dev/null"}, "/dev/null is no file, directory or link"),
    ({"direction": "from", "guest_path": "/dev/null", "format": "tar"}, "/dev/null is no file, directory or link"),
])
def test_what_cannot_be_done_is_an_error_message(daemon, box, request_, error):
    async def refused():
        async with connect(daemon, f"/instances/{box}/cp") as socket:
            await socket.send(json.dumps(request_))
            said = json.loads(await socket.recv())
            assert said["type"] == "error" and error in said["message"], said

    wait_for(refused())


def test_a_copy_that_a_client_leaves_in_the_middle_harms_nobody(daemon, box):
    async def leave():
        async with connect(daemon, f"/instances/{box}/cp") as socket:
            await socket.send('{"direction":"to","guest_path":"/tmp/half"}')
            await socket.send(b"x" * PARTS)
        # Messages that nobody takes may stand before the answer to its close: it waits no longer than it must.
        async with connect(daemon, f"/instances/{box}/cp", close_timeout=0.2) as socket:
            await socket.send('{"direction":"from","guest_path":"/bin/busybox"}')
            await socket.recv()

    for _ in range(5):
        wait_for(leave())
    assert put_one(daemon, box, "/tmp/half", b"whole")["success"]
    assert sh(daemon, box, "cat /tmp/half") == b"whole"


# --- tar mode ---

async def put_tar(daemon, key, path, archive, **request):
    async with connect(daemon, f"/instances/{key}/cp") as socket:
        await socket.send(json.dumps({"direction": "to", "guest_path": path, "format": "tar", **request}))
        for at in range(0, len(archive), 100000):
            await socket.send(archive[at : at + 100000])
        await socket.send('{"type":"end"}')
        return json.loads(await socket.recv())


async def get_tar(daemon, key, path, **request):
    async with connect(daemon, f"/instances/{key}/cp") as socket:
        await socket.send(json.dumps({"direction": "from", "guest_path": path, "format": "tar", **request}))
        archive = b""
        async for message in socket:
            if isinstance(message, bytes):
                archive += message
            else:
                said = json.loads(message)
                return archive, None if said == {"type": "end", "final": True} else said


def test_a_tree_of_a_thousand_files_takes_one_connection(daemon, box):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(1000):
            info = tarfile.TarInfo(f"many/{i % 10}/file-{i}")
            info.size, info.mode, info.mtime, info.uid = i * 7 % 3000, 0o600 + i % 64, 1600000000 + i, 77
            tar.addfile(info, io.BytesIO(hashlib.sha256(b"%d" % i).digest() * 100))
        link = tarfile.TarInfo("many/link")
        link.type, link.linkname = tarfile.SYMTYPE, "0/file-0"
        tar.addfile(link)
    assert wait_for(put_tar(daemon, box, "/tmp", made.getvalue()))["success"]
    archive, error = wait_for(get_tar(daemon, box, "/tmp/many"))
    assert error is None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {one.name: one for one in tar}
        assert sum(one.isfile() for one in members.values()) == 1000
        for i in range(1000):
            one = members[f"many/{i % 10}/file-{i}"]
            assert (one.size, one.mode, one.mtime, one.uid) == (i * 7 % 3000, 0o600 + i % 64, 1600000000 + i, 0)
            assert tar.extractfile(one).read() == (hashlib.sha256(b"%d" % i).digest() * 100)[: one.size]
        assert members["many/link"].linkname == "0/file-0"
    assert wait_for(put_tar(daemon, box, "/tmp/owned-tree", made.getvalue(), keep_owner=True))["success"]
    assert sh(daemon, box, "stat -c %u /tmp/owned-tree/many/3/file-3") == b"77\n"


def test_an_archive_that_is_none_or_climbs_is_refused(daemon, box):
    assert not wait_for(put_tar(daemon, box, "/tmp", b"no archive" * 1000))["success"]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../climbed"))
    answer = wait_for(put_tar(daemon, box, "/tmp", made.getvalue()))
    assert answer["success"] is False and ".." in answer["error"], answer
    archive = made.getvalue()[:300]
    assert "middle" in wait_for(put_tar(daemon, box, "/tmp", archive))["error"]


def test_a_large_file_passes_through_a_daemon_that_does_not_grow(daemon, box):
    """A gigabyte with HYPEMAN_COPY_MB=1024: "make gigabyte"."""
    megabytes = int(os.environ.get("HYPEMAN_COPY_MB", "16"))
    block = os.urandom(1 << 20)
    before = rss(daemon)

    async def both():
        async with connect(daemon, f"/instances/{box}/cp") as socket:
            await socket.send('{"direction":"to","guest_path":"/tmp/large"}')
            for _ in range(megabytes):
                await socket.send(block)  # messages of any size are taken
            await socket.send('{"type":"end"}')
            assert json.loads(await socket.recv())["bytes_written"] == megabytes << 20
        async with connect(daemon, f"/instances/{box}/cp") as socket:
            await socket.send('{"direction":"from","guest_path":"/tmp/large"}')
            digest = hashlib.sha256()
            async for message in socket:
                if isinstance(message, bytes):
                    digest.update(message)
                elif json.loads(message).get("final"):
                    return digest.hexdigest()

    want = hashlib.sha256()
    for _ in range(megabytes):
        want.update(block)
    assert wait_for(both(), 60 + 10 * megabytes) == want.hexdigest()
    grown = rss(daemon) - before
    assert grown < 16 << 20, f"the daemon grew by {grown >> 20} MB"
    sh(daemon, box, "rm /tmp/large")


def test_a_copy_in_flight_at_standby_ends_with_the_reason(daemon):
    daemon.api.run(name="sleeper")

    async def in_flight():
        async with connect(daemon, "/instances/sleeper/cp") as socket:
            await socket.send('{"direction":"to","guest_path":"/tmp/half"}')
            await socket.send(b"x" * 1000)
            await asyncio.sleep(0.2)
            await asyncio.get_running_loop().run_in_executor(None, daemon.api.post, "/instances/sleeper/standby")
            return json.loads(await socket.recv())

    said = wait_for(in_flight(), 120)
    assert said["type"] == "error" and said["message"], said


# --- stat ---

def stat(daemon, key, path, **query):
    return daemon.api.ok("GET", with_query(f"/instances/{key}/stat", {"path": path, **query}))


@pytest.mark.core
def test_stat_tells_what_a_path_is(daemon, box):
    sh(daemon, box, "mkdir -p /tmp/s; echo 12345 > /tmp/s/f; chmod 640 /tmp/s/f; ln -s f /tmp/s/l; ln -s nowhere /tmp/s/b")
    file = stat(daemon, box, "/tmp/s/f")
    assert file == {"exists": True, "is_dir": False, "is_file": True, "is_symlink": False, "link_target": None,
                    "mode": 0o640, "size": 6, "error": None}
    assert stat(daemon, box, "/tmp/s")["is_dir"]
    link = stat(daemon, box, "/tmp/s/l")
    assert link["is_symlink"] and link["link_target"] == "f" and not link["is_file"]
    assert stat(daemon, box, "/tmp/s/l", follow_links=True) == file
    assert stat(daemon, box, "/tmp/s/b")["exists"] and not stat(daemon, box, "/tmp/s/b", follow_links=True)["exists"]
    missing = stat(daemon, box, "/no/such/thing")
    assert missing["exists"] is False and missing["error"] is None and missing["mode"] == 0
    assert stat(daemon, box, "/tmp/s/f/below")["exists"] is False


def test_stat_needs_a_path_and_a_running_instance(daemon, box):
    daemon.api.fails(400, "Bad Request", "GET", "/instances/box/stat")
    daemon.api.fails(400, "Bad Request", "GET", "/instances/box/stat?path=/&follow_links=maybe")
    daemon.api.create("exit 0", name="ended")
    daemon.api.wait("ended", "Stopped")
    refusal = daemon.api.fails(409, "invalid_state", "GET", "/instances/ended/stat?path=/")
    assert refusal["message"] == "instance must be running (current state: Stopped)"
