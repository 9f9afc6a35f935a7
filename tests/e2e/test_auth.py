# SPDX-License-Identifier: Apache-2.0
"""Tokens over TCP, the peer's identity over the unix socket."""
import base64
import grp
import hashlib
import hmac
import json
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time

import pytest

import harness
from harness import IMAGE, until

pytestmark = pytest.mark.core


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed(daemon, claims, alg="HS256", digest=hashlib.sha256, key=None):
    """A token of our own making; the secret is the file's text."""
    key = (daemon.data / "secret").read_text().strip().encode() if key is None else key
    text = b64(json.dumps({"alg": alg, "typ": "JWT"}).encode()) + "." + b64(json.dumps(claims).encode())
    return text + "." + (b64(hmac.new(key, text.encode(), digest).digest()) if digest else "")


def claims(**more):
    now = int(time.time())
    return {"sub": "test", "iat": now, "exp": now + 60, **more}


def get_with(daemon, header):
    return daemon.tcp().request("GET", "/instances", headers={} if header is None else {"Authorization": header})


def test_a_token_of_the_command_line_has_every_right(daemon):
    token = daemon.token()
    header, payload, _ = token.split(".")
    assert json.loads(unb64(header))["alg"] == "HS256"
    assert {"sub", "iat", "exp"} <= json.loads(unb64(payload)).keys()
    assert daemon.tcp(token).get("/instances") == []


@pytest.mark.parametrize("header, words", [
    (None, "authorization header required"),
    ("", None), ("Bearer", None), ("Bearer ", None), ("Basic dXNlcjpwYXNz", "invalid authorization header format"),
    ("Bearer x", "invalid token"), ("Bearer a.b.c", "invalid token"), ("Bearer ..", "invalid token"),
    ("Bearer " + "x" * 20000, None),
], ids=lambda value: repr(value)[:30])
def test_what_is_no_token_is_401(daemon, header, words):
    answer = get_with(daemon, header)
    assert answer.status in (401, 431) if header and len(header) > 9000 else answer.status == 401
    assert words is None or words in answer.json()["message"]


def test_tokens_that_are_not_ours_are_401(daemon):
    good = daemon.token()
    text, signature = good.rsplit(".", 1)
    payload = good.split(".")[1]
    other = b64(json.dumps(claims(sub="root")).encode())
    for bad in (
        text + "." + ("A" if signature[0] != "A" else "B") + signature[1:],
        text + "." + signature[:-2],
        text + ".",
        good.split(".")[0] + "." + other + "." + signature,
        b64(b'{"alg":"none","typ":"JWT"}') + "." + payload + ".",
        b64(b'{"alg":"none","typ":"JWT"}') + "." + payload + "." + signature,
        b64(b'{"alg":"RS256","typ":"JWT"}') + "." + payload + "." + signature,
        signed(daemon, claims(), key=b"another secret"),
        signed(daemon, claims(), key=b""),
        good + ".x",
    ):
        assert get_with(daemon, f"Bearer {bad}").status == 401, bad


def test_times_in_a_token_count(daemon):
    now = int(time.time())
    assert get_with(daemon, f"Bearer {signed(daemon, claims())}").status == 200
    assert get_with(daemon, f"Bearer {signed(daemon, {'sub': 'x'})}").status == 200  # without exp it never ends
    for bad in ({"exp": now - 120}, {"nbf": now + 120}, {"exp": "soon"}, {"exp": -1}):
        assert get_with(daemon, f"Bearer {signed(daemon, claims(**bad))}").status == 401, bad


def test_a_token_ends(daemon):
    api = daemon.tcp(daemon.token(ttl="1s"))
    until("the token has expired", lambda: api.request("GET", "/images").status == 401, 10)


def test_longer_hashes_are_fine(daemon):
    for alg, digest in (("HS384", hashlib.sha384), ("HS512", hashlib.sha512)):
        assert get_with(daemon, f"Bearer {signed(daemon, claims(), alg, digest)}").status == 200


@pytest.mark.parametrize("claim", [
    {"repos": ["a"]}, {"scope": "push"}, {"build_id": "b"},
    {"permissions": "instance:read"}, {"permissions": [1]}, {"permissions": {}},
], ids=str)
def test_tokens_for_something_else_are_refused(daemon, claim):
    assert get_with(daemon, f"Bearer {signed(daemon, claims(**claim))}").status in (401, 403)


def test_scopes(daemon):
    reader = daemon.tcp(daemon.token("instance:read"))
    assert reader.get("/instances") == []
    refusal = reader.fails(403, "Forbidden", "POST", "/instances", {"name": "x", "image": IMAGE})
    assert refusal["message"] == "missing required scope: instance:write"
    reader.fails(403, "Forbidden", "GET", "/images")
    both = daemon.tcp(daemon.token("image:read", "instance:read"))
    assert both.get("/instances") == [] and len(both.get("/images")) == 1
    everything = daemon.tcp(daemon.token("*"))
    assert everything.get("/capabilities")["host"]["os"] == "linux"
    nothing = daemon.tcp(signed(daemon, claims(permissions=[])))
    nothing.fails(403, "Forbidden", "GET", "/instances")


def test_an_import_takes_every_right(daemon, rootfs):
    body = {"source": f"dir:{rootfs}", "name": "other:1"}
    daemon.tcp(daemon.token("image:write", "image:read")).fails(403, "Forbidden", "POST", "/images/import", body)
    made = daemon.tcp(daemon.token()).post("/images/import", body)
    assert made["name"] == "docker.io/library/other:1" and made["status"] == "ready"
    daemon.api.delete("/images/other:1")


def test_an_unknown_permission_is_refused_by_the_command_line(daemon):
    done = daemon._run(["token", "--data-dir", str(daemon.data), "--permission", "instance:fly"], check=False)
    assert done.returncode != 0 and "instance:read" in done.stderr  # it names those that there are


def test_the_unix_socket_needs_no_token(daemon):
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
    assert daemon.api.token is None and daemon.api.get("/instances") == []


ASK = """if True:
    import socket, sys
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.sendall(b"GET /instances HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    print(s.recv(65536).split()[1].decode())"""


def ask_as(path, **who):
    done = subprocess.run(["/usr/bin/python3", "-c", ASK, path], capture_output=True, text=True, timeout=20, **who)
    return done.stdout.strip() or done.stderr


def test_a_member_of_the_group_needs_no_token_by_whichever_membership(monkeypatch):
    group = grp.getgrnam("games").gr_gid
    monkeypatch.setenv("SOCKET__GROUP", "games")
    with tempfile.TemporaryDirectory(prefix="hypeman-group-") as root:
        os.chmod(root, 0o755)
        own = harness.Daemon(root).start()
        try:
            assert ask_as(own.socket, user=65534, group=group, extra_groups=[]) == "200"
            assert ask_as(own.socket, user=65534, group=65534, extra_groups=[group]) == "200"
            assert "Permission denied" in ask_as(own.socket, user=65534, group=65534, extra_groups=[])
        finally:
            own.end(signal.SIGTERM)


def test_the_unix_socket_refuses_strangers(daemon):
    """A stranger who gets as far as the socket is still not let in."""
    path = daemon.root / "h.sock"
    mode = stat.S_IMODE(path.stat().st_mode)
    code = """if True:
        import socket, sys
        s = socket.socket(socket.AF_UNIX)
        s.connect(sys.argv[1])
        s.sendall(b"GET /instances HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        print(s.recv(65536).split()[1].decode())"""
    opened = [(where, where.stat().st_mode) for where in path.parents if "pytest" in str(where)]
    path.chmod(0o666)
    for where, old in opened:
        where.chmod(stat.S_IMODE(old) | 0o011)
    try:
        done = subprocess.run(["/usr/bin/python3", "-c", code, path], capture_output=True, text=True, timeout=20,
                              user=65534, group=65534, extra_groups=[])
    finally:
        path.chmod(mode)
        for where, old in opened:
            where.chmod(stat.S_IMODE(old))
    assert done.stdout.strip() in ("401", "403"), done.stdout + done.stderr


def test_tcp_listens_on_loopback_only(daemon):
    assert daemon.tcp_address()[0] == "127.0.0.1"
