# SPDX-License-Identifier: Apache-2.0
"""A client of the WebSockets of another make: Debian's python3-websockets, as it is."""
import asyncio
import json
import pathlib
import re

import websockets

from harness import PATIENCE

PARTS = 32 * 1024


def connect(daemon, path, token=None, **options):
    """Over TCP, where a token counts; from within the daemon's network namespace."""
    host, port = daemon.tcp_address()
    headers = {"Authorization": f"Bearer {token or daemon.token()}"}
    options.setdefault("max_size", None)
    sock = daemon.ns.connect((host, port))
    sock.setblocking(False)
    return websockets.connect(f"ws://{host}:{port}{path}", sock=sock, extra_headers=headers, **options)


def wait_for(work, seconds=PATIENCE):
    async def bounded():
        return await asyncio.wait_for(work, seconds)

    return asyncio.run(bounded())


class Done:
    def __init__(self):
        self.output, self.stderr, self.code, self.texts, self.close_code = b"", b"", None, [], None

    def __repr__(self):
        return f"exit code {self.code}, output {self.output[:300]!r}, texts {self.texts}, closed with {self.close_code}"


async def listen(socket, done, separate=False):
    """Until the server closes."""
    async for message in socket:
        if isinstance(message, str):
            done.texts.append(message)
            done.code = json.loads(message).get("exitCode", done.code)
        elif separate:
            name = {1: "output", 2: "stderr"}[message[0]]
            setattr(done, name, getattr(done, name) + message[1:])
        else:
            done.output += message
    done.close_code = socket.close_code
    return done


async def run(daemon, key, command, stdin=(), **request):
    """A command from its beginning to its end. stdin: messages, as they are sent."""
    async with connect(daemon, f"/instances/{key}/exec") as socket:
        await socket.send(json.dumps({"command": command, **request}))
        done = Done()
        listener = asyncio.ensure_future(listen(socket, done, request.get("separate_stderr", False)))
        for message in stdin:
            await socket.send(message)
        return await listener


def execute(daemon, key, command, stdin=(), seconds=PATIENCE, **request):
    return wait_for(run(daemon, key, command, stdin, **request), seconds)


def rss(daemon):
    """Bytes of memory that the daemon has."""
    status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024
