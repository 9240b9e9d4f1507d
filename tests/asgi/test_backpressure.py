"""A client that stops reading, on real hosts: closed with 4002, bounded by our outbox, and at nobody else's cost.

What a host holds for it besides is what it still reads when it has been given up: the kernel's buffers are narrow here,
where the host takes a socket of ours.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import anyio
import anyio.from_thread
import pytest

from roomwire.core.frames import Opcode
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from roomwire.testing.clock import VirtualClock
from roomwire.transports.asgi import AsgiTransport
from roomwire.transports.asgi.link import AsgiLink
from tests.asgi.support import COLUMNS, says
from tests.server.chat import make_app
from tests.server.hosts import HOSTS
from tests.server.live import ASGI_HOSTS, TIMEOUT, LiveServer, _serving, make_node
from tests.server.raw import RawLink
from tests.server.watching import until

OUTBOX = 200_000
LIMITS = Limits(outbox_bytes=OUTBOX, heartbeat_interval=1000, heartbeat_timeout=3000)
TINY = 4096
KERNEL = 20_000
"""Bytes at the most that narrow sockets hold, on both sides."""
MESSAGE = 60_000
_EITHER = "closed without a code, or left open"
STILL = 150
"""Looks, a millisecond apart, in which nothing was taken."""


@contextmanager
def narrow_server(host: str) -> Iterator[LiveServer]:
    shell = ASGI_HOSTS[f"asgi-{host}"]
    node = make_node(make_app(), shell, limits=LIMITS, clock=VirtualClock(), rooms={"chat:*": RoomPolicy()})
    with (
        anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal,
        portal.wrap_async_context_manager(HOSTS[host](node.transport, narrow=True)) as port,
        _serving(node, portal, port) as server,
    ):
        yield server


@pytest.fixture(scope="module", params=COLUMNS[1:])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(host: str) -> Iterator[LiveServer]:
    with narrow_server(host) as server:
        yield server


@pytest.fixture
def links() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def stalled_client(server: LiveServer, links: ExitStack) -> RawLink:
    """It has its welcome, and reads nothing more."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY)
    sock.settimeout(TIMEOUT)
    sock.connect(("127.0.0.1", server.port))
    link = links.enter_context(RawLink(sock))
    link.send(server.upgrade_request("stalled"))
    link.upgraded()
    link.event("session.welcome")
    return link


def link_of(server: LiveServer, user: str) -> AsgiLink:
    (connection,) = server.node.connections_of(user)
    link = connection._link
    assert isinstance(link, AsgiLink)
    return link


async def settled(link: AsgiLink) -> None:
    """Let the host take what it takes."""
    held, turns = -1, 0
    while turns < STILL and link.queued():
        await anyio.sleep(0.001)  # granian takes in threads of its own
        held, turns = link.queued(), turns + 1 if link.queued() == held else 0


def rest_of(stalled: RawLink) -> tuple[int, list[str], int | str | None]:
    """Bytes and ids of what it still reads, and the close code: None where the link just ends, and "open"."""
    size = 0
    ids: list[str] = []
    try:
        while (found := stalled.frame()) is not None:
            opcode, payload = found
            if opcode is Opcode.CLOSE:
                return size, ids, int.from_bytes(payload[:2], "big")
            size += len(payload)
            ids.append(json.loads(payload)["id"])
    except ConnectionError:
        pass
    except TimeoutError:
        return size, ids, "open"
    return size, ids, None


def test_one_who_stops_reading_is_too_slow_and_the_others_get_everything(server: LiveServer, links: ExitStack) -> None:
    stalled = stalled_client(server, links)
    others = [server.connect(f"user-{number}") for number in range(3)]
    link = link_of(server, "stalled")
    ids: list[str] = []
    most = 0
    while server.node.connections_of("stalled"):
        assert len(ids) < 2000, "it takes everything"
        ids += server.publish(5, data="x" * 2000)
        for client in others:
            assert [client.receive()["id"] for _ in range(5)] == ids[-5:]
        most = max(most, server.call(link.queued))
    assert OUTBOX / 2 < most <= OUTBOX
    assert server.call(link.queued) <= 12_000  # a block that the host has; the rest was dropped
    # In the time that a close has it can still read what was on its way, in order, and why it ended.
    _, received, code = rest_of(stalled)
    assert (received, code) == (ids[: len(received)], 4002)
    for client in others:
        client.close()


def test_one_who_takes_nothing_has_a_time_and_is_then_the_hosts(
    server: LiveServer, host: str, links: ExitStack
) -> None:
    stalled = stalled_client(server, links)
    link = link_of(server, "stalled")
    transport = server.node.transport
    assert isinstance(transport, AsgiTransport)
    while server.call(lambda: link.queued() < OUTBOX // 2):  # until the host takes no more
        server.publish(1, data="x" * MESSAGE)
        server.call(settled, link)
    server.advance(31)
    assert not server.node.connections_of("stalled")
    server.advance(6)
    until(server, lambda: link not in transport._links)
    stalled.sock.settimeout(1.0)
    size, _, end = rest_of(stalled)
    ends = {None: "closed", 1011: "closed, with 1011", 0: _EITHER, "open": _EITHER}
    assert ends[end] == says("one who was given up, and then reads on, is", host)
    most = re.match(r"(\d+)", says("holds for one who stops reading, KiB", host))
    assert most is not None
    assert size <= 1024 * int(most[1]) + MESSAGE + KERNEL
