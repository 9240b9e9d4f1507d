"""A process holds no more than docs/explanation/memory.md adds up, whatever its clients do, and gives it back.

Each kind of hostile client is held to the rows of the page that it can fill, counted in the server's process by
what Python's allocators gave out; then all kinds at once to the sum, in what the kernel gave the process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

import pytest

from roomwire.cli._advice.machine import worst_connection
from roomwire.core.deflate import compress
from roomwire.core.frames import Opcode, build_masked_frame
from roomwire.core.limits import Limits
from tests.server.live import make_token
from tests.server.processes import ROOT, ServingProcess
from tests.server.raw import RawLink, frame, request
from tests.tools.serve_measured import Look

DEADLINE = 30.0
"""Seconds for a condition; reached only where a test fails."""
TINY = 4096
COUNT = 10
"""Hostile connections of a kind."""

SMALL = Limits(
    max_message_size=16_384,
    max_event_size=8192,
    max_state_size=8192,
    max_fragments=256,
    inbox_messages=8,
    outbox_bytes=65_536,
    outbox_messages=200,
    replay_bytes=16_384,
    replay_events=100,
    # Nothing but sizes is to end a connection here.
    connections_per_user=10_000,
    handshake_timeout=3600.0,
    max_pending_per_ip=1000,
    min_byte_rate=0.0,
    write_timeout=3600.0,
    max_read_pause=3600.0,
    messages_per_second=1e6,
    message_burst=10**6,
    bytes_per_second=1e9,
    byte_burst=10**9,
    frames_per_second=1e6,
    frame_burst=10**6,
)
SIZES = (
    "max_message_size",
    "max_event_size",
    "max_state_size",
    "max_fragments",
    "inbox_messages",
    "outbox_bytes",
    "outbox_messages",
    "replay_bytes",
    "replay_events",
)
DEFAULT = dataclasses.replace(SMALL, **{name: getattr(Limits(), name) for name in SIZES})
"""The default sizes; only what is a matter of time is as above."""

# What the page counts with.
OBJECTS = 32_768
HEAD = 20_480
WIDEST = 4
DECODED = 37
COMMAND = 600
BLOCK = 200
INFLATER = 49_152
READ = 262_144

HEAD_SENT = 16_000
"""Bytes of a request head; its end does not come."""
UNREAD = 4000
"""Bytes of an event that nobody reads."""


class Shell(NamedTuple):
    name: str
    backend: str
    shell: str


SHELLS = [
    Shell("callback-asyncio", "asyncio", "callback"),
    Shell("callback-uvloop", "uvloop", "callback"),
    Shell("portable-asyncio", "asyncio", "portable"),
    Shell("portable-trio", "trio", "portable"),
]


class Server(ServingProcess):
    """A `tests.tools.serve_measured`."""

    def __init__(self, backend: str, settings: Mapping[str, Any], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.tools.serve_measured", backend, json.dumps(settings), *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.serves_on = self.port()

    def order(self, words: str) -> Any:
        """Its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return json.loads(self.line())

    def look(self) -> Look:
        found: Look = self.order("look")
        return found

    def until(self, condition: Callable[[Look], bool]) -> Look:
        """What it holds once the condition is true."""
        end = time.monotonic() + DEADLINE
        while not condition(found := self.look()):
            assert time.monotonic() < end, f"it does not come true: {found}"
        return found


@contextmanager
def measured(shell: Shell, limits: Limits, *arguments: str) -> Iterator[Server]:
    """A server until the end of the block; it has to end by itself."""
    settings = {
        "server": {"port": 0, "shell": shell.shell, "compression": True, "drain_timeout": 5.0},
        "rooms": {"chat:*": {"history_size": 0}},
        "limits": dataclasses.asdict(limits),
    }
    with Server(shell.backend, settings, *arguments) as server:
        yield server
        assert server.end() == (0, [])


@pytest.fixture(scope="module", params=SHELLS, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest) -> Shell:
    found: Shell = request.param
    return found


# --- hostile clients


def link_to(server: Server) -> RawLink:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY)
    sock.settimeout(DEADLINE)
    sock.connect(("127.0.0.1", server.serves_on))
    return RawLink(sock)


def opened(server: Server, *headers: str) -> RawLink:
    """A link that is upgraded and has read its welcome."""
    link = link_to(server)
    link.send(request("/ws", f"Authorization: Bearer {make_token('eve')}", *headers))
    link.upgraded()
    link.event("session.welcome")
    return link


def text_of(event: str, data: str) -> bytes:
    return f'{{"event":"{event}","data":{data}}}'.encode()


def half_head(server: Server, limits: Limits) -> RawLink:
    """A request head that is not complete, and nearly as long as one may be."""
    link = link_to(server)
    lines = "".join(f"X-{number}: {'x' * 180}\r\n" for number in range(90))
    link.send((request("/ws")[:-2] + lines.encode())[:HEAD_SENT])
    return link


def half_message(server: Server, limits: Limits) -> RawLink:
    """One byte is missing at the largest message."""
    link = opened(server)
    link.send(frame(Opcode.TEXT, b"x" * limits.max_message_size)[:-1])
    return link


def fragments(server: Server, limits: Limits) -> RawLink:
    """As many fragments as a message may have, the last one but for a byte."""
    link = opened(server)
    link.send(fragmented(limits)[:-1])
    return link


@cache
def fragmented(limits: Limits) -> bytes:
    """A message of the largest size in as many frames as it may have."""
    size, rest = divmod(limits.max_message_size, limits.max_fragments)
    first = frame(Opcode.TEXT, b"x" * (size + rest), fin=False)
    middle = frame(Opcode.CONTINUATION, b"x" * size, fin=False)
    return first + middle * (limits.max_fragments - 2) + frame(Opcode.CONTINUATION, b"x" * size)


def inflated(server: Server, limits: Limits) -> RawLink:
    """A message that inflates to nearly the limit, and is not complete."""
    link = opened(server, "Sec-WebSocket-Extensions: permessage-deflate")
    # Two empty blocks more: what `compress` leaves off, and one that is not complete.
    packed = compress(b"x" * limits.max_message_size) + b"\0\0\xff\xff" + b"\0\0\0\xff\xff"
    link.send(build_masked_frame(Opcode.TEXT, packed, os.urandom(4), rsv1=True)[:-1])
    return link


def bomb(server: Server, limits: Limits) -> RawLink:
    """A message that inflates to a thousand times the limit; it is closed at once."""
    link = opened(server, "Sec-WebSocket-Extensions: permessage-deflate")
    link.send(build_masked_frame(Opcode.BINARY, exploding(), os.urandom(4), rsv1=True))
    assert link.close_frame() == (1009, "message too big")
    return link


@cache
def exploding() -> bytes:
    """16 KB that inflate to 16 MiB."""
    return compress(bytes(16 * 1024 * 1024))


def wide_text(limits: Limits) -> bytes:
    """A message of the largest size whose text takes the most memory: one character of it is far from ASCII."""
    padding = "x" * (limits.max_message_size - len(text_of("size", '"\N{BEER MUG}"')))
    return text_of("size", f'"{padding}\N{BEER MUG}"')


def full_inbox(server: Server, limits: Limits) -> RawLink:
    """Several times the messages that may wait, behind a handler that hangs."""
    link = opened(server)
    link.send_frame(Opcode.TEXT, text_of("wait", "null"))
    for _ in range(limits.inbox_messages * 5):
        link.send_frame(Opcode.TEXT, wide_text(limits))
    return link


def deep_text(limits: Limits) -> bytes:
    """The JSON whose value takes the most memory: objects in objects, as deep as they may be."""
    one = '{"":' * 61 + "[]" + "}" * 61
    room = limits.max_message_size - len(text_of("keep", "[]"))
    return text_of("keep", "[" + ",".join([one] * (room // (len(one) + 1))) + "]")


def decoded(server: Server, limits: Limits) -> RawLink:
    """A handler that hangs has its value."""
    link = opened(server)
    link.send_frame(Opcode.TEXT, deep_text(limits))
    return link


def unread(server: Server, limits: Limits) -> RawLink:
    """It is sent nearly what may wait, and reads nothing."""
    link = opened(server)
    link.send_frame(Opcode.TEXT, text_of("fill", str([UNREAD] * (limits.outbox_bytes * 15 // 16 // UNREAD))))
    return link


def everything(server: Server, limits: Limits) -> RawLink:
    """What one connection can do at one time."""
    link = unread(server, limits)
    link.send_frame(Opcode.TEXT, deep_text(limits))
    # So few that the inbox is never full: what comes behind is read as well.
    for _ in range(limits.inbox_messages - 2):
        link.send_frame(Opcode.TEXT, wide_text(limits))
    link.send(frame(Opcode.TEXT, b"x" * limits.max_message_size)[:-1])
    return link


ROWS: dict[str, Callable[[Limits], int]] = {
    "head": lambda limits: HEAD,
    "message": lambda limits: 2 * limits.max_message_size,
    "inbox": lambda limits: limits.inbox_messages * (WIDEST * limits.max_message_size + COMMAND),
    "one read": lambda limits: WIDEST * READ,
    "handled": lambda limits: (DECODED + WIDEST) * limits.max_message_size,
    "outbox": lambda limits: limits.outbox_bytes + BLOCK * limits.outbox_messages,
    "inflater": lambda limits: INFLATER,
    "objects": lambda limits: OBJECTS,
}


class Kind(NamedTuple):
    """A kind of client.

    Attributes:
        open: makes one.
        rows: of the page, that it fills.
        done: whether so many of them hold what they can.
        fills: what they hold at the least, as a part of those rows.
    """

    open: Callable[[Server, Limits], RawLink]
    rows: tuple[str, ...]
    done: Callable[[Look, int, Limits], bool]
    fills: float

    def bound(self, limits: Limits) -> int:
        """Bytes that one of them may hold."""
        return sum(ROWS[row](limits) for row in (*self.rows, "objects"))


def half_unread(look: Look, limits: Limits) -> bool:
    """Whether what the kernel did not take waits for each reader."""
    return look["unread"] > limits.outbox_bytes // 2


KINDS = {
    "half a head": Kind(half_head, ("head",), lambda look, n, _: look["heads"] == n * HEAD_SENT, 0.25),
    "half a message": Kind(half_message, ("message",), lambda look, n, _: look["one_byte_missing"] == n, 0.25),
    "fragments": Kind(fragments, ("message",), lambda look, n, _: look["one_byte_missing"] == n, 0.25),
    "half a deflated message": Kind(
        inflated, ("message", "inflater"), lambda look, n, _: look["one_byte_missing"] == n, 0.4
    ),
    "bombs": Kind(bomb, (), lambda look, n, _: look["links"] == 0, -1.0),
    "a full inbox": Kind(full_inbox, ("inbox", "one read"), lambda look, n, _: look["paused"] == n, 0.3),
    "deep JSON": Kind(decoded, ("handled",), lambda look, n, _: look["hanging"] == n, 0.8),
    "a full outbox": Kind(unread, ("outbox",), lambda look, n, limits: half_unread(look, limits), 0.3),
    "everything": Kind(
        everything,
        ("message", "inbox", "handled", "outbox"),
        lambda look, n, limits: look["hanging"] == look["one_byte_missing"] == n and half_unread(look, limits),
        0.6,
    ),
}


def crowd(server: Server, kind: Kind, count: int, limits: Limits, links: ExitStack) -> Look:
    """So many clients of a kind, when they hold what they can."""
    for _ in range(count):
        links.enter_context(kind.open(server, limits))
    return server.until(lambda look: kind.done(look, count, limits))


def disband(server: Server, links: ExitStack) -> Look:
    """All of them are gone, and what they had begun is over."""
    links.close()
    server.order("release")  # a link that is not read tells nothing of its end
    return server.until(lambda look: look["links"] == look["queued"] == 0)


@pytest.fixture(scope="module")
def traced(shell: Shell) -> Iterator[Server]:
    with measured(shell, SMALL, "--trace") as server:
        yield server


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_keeps_to_its_rows_and_leaves_nothing(traced: Server, name: str) -> None:
    kind = KINDS[name]
    bound = kind.bound(SMALL)
    with ExitStack() as links:
        crowd(traced, kind, COUNT, SMALL, links)  # what is made once and for all is made now
        before = disband(traced, links)["traced"]
        held = crowd(traced, kind, COUNT, SMALL, links)["traced"] - before
        disband(traced, links)
    assert COUNT * kind.fills * bound < held < COUNT * bound
    # The objects of a connection alone take several times that.
    traced.until(lambda look: look["traced"] - before < COUNT * 1024)


def test_all_kinds_at_once_in_the_memory_of_the_process(shell: Shell) -> None:
    with measured(shell, SMALL) as server, ExitStack() as links:
        for kind in KINDS.values():
            crowd(server, kind, 1, SMALL, links)
            disband(server, links)
        before = server.look()["peak"]
        for kind in KINDS.values():
            for _ in range(COUNT):
                links.enter_context(kind.open(server, SMALL))
        # Two kinds have a message that hangs, besides those that wait behind one.
        look = server.until(lambda look: look["paused"] == COUNT and look["hanging"] == 3 * COUNT)
        assert look["heads"] == COUNT * HEAD_SENT
        bound = sum(kind.bound(SMALL) for kind in KINDS.values())
        assert COUNT * bound / 3 < look["peak"] - before < COUNT * bound
        disband(server, links)


def test_everything_at_the_default_sizes(shell: Shell) -> None:
    kind, count = KINDS["everything"], 4
    with measured(shell, DEFAULT) as server, ExitStack() as links:
        before = server.look()["peak"]
        held = crowd(server, kind, count, DEFAULT, links)["peak"] - before
        assert count * kind.fills * kind.bound(DEFAULT) < held < count * worst_connection(DEFAULT)
        disband(server, links)


def test_the_rows_are_those_of_the_page() -> None:
    limits = Limits()
    rows = sum(ROWS[row](limits) for row in ("message", "inbox", "one read", "handled", "outbox", "objects"))
    catching_up = limits.replay_bytes + BLOCK * limits.replay_events + 5 * limits.max_state_size
    assert rows + catching_up == worst_connection(limits)
    page = (ROOT / "docs" / "explanation" / "memory.md").read_text()
    assert f"worst == {worst_connection(limits):_}" in page
