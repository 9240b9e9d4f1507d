"""A server that really runs: random bytes on its port, before the handshake and behind it.

Each input is a connection. The others do not notice: their requests are answered, and nothing is logged as a fault.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from roomwire.core.frames import Opcode
from tests.fuzz.frames import make_frames
from tests.fuzz.mutation import mutate, noise
from tests.fuzz.parsers import make_binary, make_envelope, make_handshake
from tests.server.chat import make_app
from tests.server.live import SHELLS, UNHURRIED, LiveServer, live_server, make_token
from tests.server.raw import frame, request
from tests.server.watching import carriers, until

__all__ = ["make_live", "open_live"]

CHECK_EVERY = 20
"""Connections between two looks whether the others are served."""
TIMEOUT = 20.0
"""Seconds that a server may take to end a link; reached only where it does not."""

_RAW, _UPGRADED = b"\0", b"\1"


def make_live(rng: random.Random) -> bytes:
    """Bytes for a new connection, or, behind a handshake, for a WebSocket."""
    if rng.random() < 0.3:
        return _RAW + rng.choice((make_handshake, lambda rng: noise(rng, 3000)))(rng)
    kind = rng.random()
    if kind < 0.4:
        return _UPGRADED + make_frames(rng)[2:]
    messages = b"".join(
        frame(Opcode.BINARY, make_binary(rng)) if rng.random() < 0.3 else frame(Opcode.TEXT, make_envelope(rng))
        for _ in range(rng.randrange(1, 8))
    )
    return _UPGRADED + (mutate(rng, messages) if kind < 0.5 else messages)


class _Faults(logging.Handler):
    """Errors and tracebacks: a client's own faults are refusals, and have neither."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.seen.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")


class _Attack:
    """One server under it, and a client of it that must not notice."""

    def __init__(self, server: LiveServer, faults: _Faults) -> None:
        self.server = server
        self.faults = faults
        self.other = server.connect("witness")
        self.count = 0
        self.head = request("/ws", f"Authorization: Bearer {make_token('nobody', ttl=86_400)}")

    def read(self, data: bytes) -> bool:
        kind, wire = data[:1], data[1:]
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=TIMEOUT) as sock, suppress(OSError):
            sock.sendall((self.head if kind == _UPGRADED else b"") + wire)
            # Nothing follows: whatever the server makes of it, it ends the link.
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65_536):
                pass
        self.count += 1
        if self.count % CHECK_EVERY == 0:
            self.check()
        seen, self.faults.seen = self.faults.seen, []
        assert not seen, seen
        return True

    def check(self) -> None:
        """Others are served, and nothing of the attackers is left."""
        assert self.other.request("add", [self.count, 1])["data"] == self.count + 1
        until(self.server, lambda: len(self.server.node.connections) == 1)
        until(self.server, lambda: len(carriers(self.server)) == 1)
        newcomer = self.server.connect("newcomer")
        assert newcomer.request("whoami")["data"]["user"] == "newcomer"
        newcomer.close()


@contextmanager
def open_live(shell: str = "callback-asyncio") -> Iterator[Callable[[bytes], bool]]:
    """A node on one of the shells, with compression, so that all of the frames' code is behind its port."""
    faults = _Faults()
    with live_server(make_app(), SHELLS[shell], limits=UNHURRIED, listen={"compression": True}) as server:
        loggers = [logging.getLogger(name) for name in ("roomwire", "asyncio")]
        for logger in loggers:
            logger.addHandler(faults)
        try:
            attack = _Attack(server, faults)
            yield attack.read
            attack.check()
        finally:
            for logger in loggers:
                logger.removeHandler(faults)
