"""Servers with several workers, and clients that can tell which one serves them."""

from __future__ import annotations

import asyncio
import os
import re
import select
from collections import Counter
from pathlib import Path

from roomwire.auth.jwt import JwtOptions, issue
from tests.cli.conftest import SECRET, Process, Project

__all__ = ["READY", "Peer", "await_end", "project_with_workers", "spread", "spread_of", "token", "who", "workers_of"]

_TEXT, _CLOSE = 0x1, 0x8
_LENGTHS = {126: 2, 127: 8}  # bytes of the extended length (RFC 6455 section 5.2)

READY = r"^roomwire serves chatapp:app on (\S+) with (\d) workers$"

APP = """
import asyncio
import os

from roomwire import App, Connection
from roomwire.node.node import running

app = App()

@app.on_connect
async def rooms_of(connection: Connection) -> list[str]:
    return ["lobby"]

@app.room("lobby")
async def may_join(connection: Connection) -> bool:
    return True

@app.on("say", room="lobby")
async def say(connection: Connection, number: int) -> None:
    await app.publish("lobby", "said", number)

@app.on("who")
async def who(connection: Connection) -> str:
    return f"<{os.getpid()} {running[0].name}>"

@app.on("setting")
async def setting(connection: Connection) -> str:
    return os.environ["CHAT_SETTING"]

@app.on("linger")
async def linger(connection: Connection, name: str) -> None:
    await connection.send("lingers")
    while not os.path.exists(f"{name}.go"):
        await asyncio.sleep(0.01)
    open(f"{name}.done", "w").close()
"""

# It joins no processes, and says that it does: for what is about processes and not about messages.
PLUGIN = """
from roomwire.backplanes.contract import Capabilities
from roomwire.backplanes.memory import MemoryBackplane

class Backplane(MemoryBackplane):
    capabilities = Capabilities(multi_node=True, survives_restart=False)

class Modest(MemoryBackplane):
    pass
"""

CONFIG = """
app = "chatapp:app"

[server]
port = 0
workers = 3
reconnect_spread = 0.2

[backplane]
type = "acme:Backplane"

[auth.options]
algorithms = ["HS256"]
secret = "env:CHAT_SECRET"

[rooms."lobby"]
presence = false

[limits]
max_pending_per_ip = 1000
max_pending_handshakes = 1000
messages_per_second = 10000
message_burst = 10000
"""


def project_with_workers(folder: Path, *, backplane: str = 'type = "acme:Backplane"', workers: int = 3) -> Project:
    """A project of this page's; `backplane` is what stands in its section."""
    project = Project(folder)
    project.write("chatapp.py", APP)
    project.write("acme.py", PLUGIN)
    text = CONFIG.replace('type = "acme:Backplane"', backplane).replace("workers = 3", f"workers = {workers}")
    project.write("roomwire.toml", text)
    project.write(".env", f"CHAT_SECRET={SECRET}\nCHAT_SETTING=old\n")
    return project


def token(user: str) -> str:
    return issue(JwtOptions.model_validate({"algorithms": ["HS256"], "secret": SECRET}), user, ttl=600)


def workers_of(process: Process) -> list[int]:
    """The process ids of the workers that run now."""
    listing = Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children")
    return [int(pid) for pid in listing.read_text().split()]


def await_end(pid: int) -> None:
    """Return when a process that is no child of ours has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([descriptor], [], [])
    finally:
        os.close(descriptor)


class Peer:
    """A bare client, since a thousand of them are to cost little.

    Attributes:
        pid: the worker's process.
        node: its node's name.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.pid = 0
        self.node = ""

    @classmethod
    async def connect(cls, address: str, user: str = "ann") -> Peer:
        """Connect to ws://HOST:PORT/ws or unix:PATH/ws, and ask who serves."""
        if address.startswith("unix:"):
            peer = cls(*await asyncio.open_unix_connection(address.removeprefix("unix:").removesuffix("/ws")))
        else:
            host, port = address.removeprefix("ws://").removesuffix("/ws").split(":")
            peer = cls(*await asyncio.open_connection(host, int(port)))
        try:
            await peer._ask(user)
        except BaseException:
            peer.close()
            raise
        return peer

    async def _ask(self, user: str) -> None:
        head = [
            "GET /ws HTTP/1.1",
            "Host: localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            f"Authorization: Bearer {token(user)}",
        ]
        self.writer.write(("\r\n".join(head) + "\r\n\r\n").encode())
        answer = await self.reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        self.send('{"event":"who","id":"1"}')
        match = re.search(r"<(\d+) ([^>]+)>", await self.until("<"))
        assert match is not None
        self.pid, self.node = int(match[1]), match[2]

    def send(self, message: str) -> None:
        """A message of at most 125 characters."""
        self.writer.write(bytes([0x81, 0x80 | len(message), 0, 0, 0, 0]) + message.encode())

    async def until(self, text: str) -> str:
        """Read up to a message that has this in it, and give that."""
        while True:
            opcode, payload = await self._frame()
            assert opcode == _TEXT, payload
            if text in (message := payload.decode()):
                return message

    async def closing(self) -> int:
        """Read up to the server's close frame, and give its code."""
        while True:
            opcode, payload = await self._frame()
            if opcode == _CLOSE:
                return int.from_bytes(payload[:2])

    async def close_code(self) -> int:
        """The same, and answer it."""
        code = await self.closing()
        self.writer.write(b"\x88\x82\0\0\0\0" + code.to_bytes(2))
        return code

    async def _frame(self) -> tuple[int, bytes]:
        """The next one of the server's, which are whole messages: its opcode and its payload."""
        first, size = await self.reader.readexactly(2)
        if size in _LENGTHS:
            size = int.from_bytes(await self.reader.readexactly(_LENGTHS[size]))
        return first & 0x0F, await self.reader.readexactly(size)

    def close(self) -> None:
        self.writer.transport.abort()


async def who(address: str, count: int, *, at_once: int = 64) -> list[Peer]:
    """So many clients, each of a user of its own, which stay."""
    permits = asyncio.Semaphore(at_once)

    async def one(number: int) -> Peer:
        async with permits:
            return await Peer.connect(address, f"user{number}")

    return list(await asyncio.gather(*(one(number) for number in range(count))))


def spread(peers: list[Peer]) -> list[int]:
    """How many of them each worker serves, in ascending order."""
    return sorted(Counter(peer.pid for peer in peers).values())


async def spread_of(address: str, count: int) -> list[int]:
    """The same of so many clients, which are gone then."""
    peers = await who(address, count)
    for peer in peers:
        peer.close()
    return spread(peers)
