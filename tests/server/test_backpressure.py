"""Readers that do not keep up, and links that end in the middle of a fan-out."""

from __future__ import annotations

import json
import random
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from roomwire.core.commands import Join
from roomwire.core.frames import Opcode
from roomwire.core.limits import UNREAD_STATES, Limits
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from roomwire.node import Connection
from roomwire.node.unread import STATES_AT_ONCE
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio.carrier import Carrier
from tests.server.chat import Log, make_app
from tests.server.conftest import Serve
from tests.server.live import UNHURRIED, LiveServer, Shell
from tests.server.raw import TIMEOUT, RawLink
from tests.server.test_limits import closed
from tests.server.test_resume import query
from tests.server.watching import carriers, transport_of, until

QUIET = {"chat:*": RoomPolicy()}
"""No presence, so that nothing comes but what is published."""
TINY = 4096
ROUNDS = 60
SIZE = 500_000
"""Bytes of each answer: `ROUNDS` of them are many times the bound, and what the kernel takes besides."""
STILL = 5000
"""Turns of the loop without any progress: the kernel's buffers have long been filled by then."""
LIMITS = Limits(outbox_bytes=100_000, connections_per_user=1000)


@pytest.fixture
def narrow(shell: Shell, serve: Serve) -> LiveServer:
    """A server whose sockets hold little; on a clock that stands, so that a closed link has time to be looked at."""
    server = serve(shell, rooms=QUIET, limits=LIMITS, clock=VirtualClock())
    narrow_down(server)
    return server


def narrow_down(server: LiveServer) -> None:
    listeners = transport_of(server)._listeners
    assert listeners is not None
    for sock in listeners.sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TINY)


@pytest.fixture
def links() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def link_to(server: LiveServer, user: str = "ann", query: str = "", *, buffer: int | None = None) -> RawLink:
    """A client that reads only when told to; `buffer` is what its kernel takes meanwhile."""
    sock = socket.socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(TIMEOUT)
    sock.connect(("127.0.0.1", server.port))
    link = RawLink(sock)
    link.send(server.upgrade_request(user, query))
    link.upgraded()
    return link


def next_event(link: RawLink) -> dict[str, Any]:
    """The next text message."""
    found = link.frame()
    assert found is not None, "the link ended"
    opcode, payload = found
    assert opcode is Opcode.TEXT, payload
    event: dict[str, Any] = json.loads(payload)
    return event


async def filled(carrier: Carrier) -> None:
    """Wait until the kernel takes no more of what the carrier holds."""
    held, turns = -1, 0
    while turns < STILL:
        await anyio.lowlevel.checkpoint()
        now = carrier._held()
        turns = turns + 1 if now == held else 0
        held = now


def test_one_stalled_reader_of_100_is_closed_and_the_others_get_everything(
    narrow: LiveServer, links: ExitStack
) -> None:
    stalled = links.enter_context(link_to(narrow, "stalled", buffer=TINY))
    others = [links.enter_context(link_to(narrow, f"user-{number}")) for number in range(99)]
    for link in others:
        link.event("session.welcome")
    until(narrow, lambda: len(narrow.node.hub.rooms["chat:general"].live) == 100)
    ids = []
    for _ in range(15):
        ids += narrow.publish(10, data="x" * 1500)
        for link in others:
            assert [next_event(link)["id"] for _ in range(10)] == ids[-10:]
    # Closed: its slot is free, it is in no room, and what waited for it is gone.
    assert narrow.node.connections_of("stalled") == []
    assert len(narrow.node.hub.rooms["chat:general"].live) == 99
    (carrier,) = [carrier for carrier in carriers(narrow) if carrier.phase.value == "closing"]
    assert carrier._outbox is None or carrier._outbox.bytes == 0
    # It can still read what was on its way, in order, and why it ended; no message announces it.
    stalled.event("session.welcome")
    received = []
    for opcode, payload in stalled.frames():
        if opcode is Opcode.CLOSE:
            assert (int.from_bytes(payload[:2], "big"), payload[2:]) == (4002, b"too slow")
            break
        received.append(json.loads(payload)["id"])
    assert received == ids[: len(received)]
    assert 0 < len(received) < len(ids)


def test_too_many_messages_are_too_slow_as_well(shell: Shell, serve: Serve, links: ExitStack) -> None:
    server = serve(shell, rooms=QUIET, limits=Limits(outbox_messages=100))
    narrow_down(server)
    stalled = links.enter_context(link_to(server, "stalled", buffer=TINY))
    until(server, lambda: server.node.connections_of("stalled"))
    for _ in range(40):
        server.publish(10, data="x" * 100)
    until(server, lambda: not server.node.connections_of("stalled"))
    assert closed(stalled) == (4002, "too slow")


def test_a_reader_that_takes_not_one_byte_is_too_slow_whatever_it_is_sent(
    shell: Shell, serve: Serve, links: ExitStack
) -> None:
    limits = Limits(heartbeat_interval=1000, heartbeat_timeout=3000)
    server = serve(shell, rooms=QUIET, clock=VirtualClock(), limits=limits)
    narrow_down(server)
    stalled = links.enter_context(link_to(server, "stalled", buffer=TINY))
    until(server, lambda: server.node.connections_of("stalled"))
    server.publish(data="x" * 100_000)
    server.publish(data="y" * 100_000)
    (carrier,) = carriers(server)
    until(server, lambda: carrier._blocked)
    server.call(filled, carrier)
    if server.call(lambda: carrier._stall is not None and carrier._stall._held > carrier._held()):
        server.advance(30.25)  # the kernel took some later: the time begins there
    held = server.call(carrier._held)
    server.advance(29.5)
    assert server.node.connections_of("stalled")
    server.advance(0.75)
    while server.node.connections_of("stalled"):
        now, held = held, server.call(carrier._held)
        assert held < now, "it is closed but where the kernel took some meanwhile"
        server.advance(30.25)
    assert closed(stalled) == (4002, "too slow")


def test_a_reader_that_takes_a_little_has_time(shell: Shell, serve: Serve, links: ExitStack) -> None:
    limits = Limits(heartbeat_interval=1000, heartbeat_timeout=3000)
    server = serve(shell, rooms=QUIET, clock=VirtualClock(), limits=limits)
    narrow_down(server)
    slow = links.enter_context(link_to(server, "slow", buffer=TINY))
    until(server, lambda: server.node.connections_of("slow"))
    (carrier,) = carriers(server)
    server.publish(data="x" * 100_000)
    until(server, lambda: carrier._blocked)
    for _ in range(3):
        held = server.call(carrier._held)
        while server.call(carrier._held) == held:
            slow._buffer += slow.sock.recv(4096)
        server.advance(25)
    assert server.node.connections_of("slow")


def test_a_replay_does_not_count_as_slowness(narrow: LiveServer, links: ExitStack) -> None:
    first = narrow.connect("ann")
    position = first.welcome["rooms"]["chat:general"]["position"]
    first.close()
    ids = narrow.publish(300, data="x" * 10_000)
    back = links.enter_context(link_to(narrow, "ann", query({"chat:general": position}), buffer=TINY))
    until(narrow, lambda: narrow.node.connections_of("ann"))
    live = narrow.publish(1)
    assert next_event(back)["event"] == "session.welcome"
    assert [next_event(back)["id"] for _ in range(301)] == ids + live


def test_a_state_does_not_count_as_slowness(shell: Shell, serve: Serve, links: ExitStack) -> None:
    """Else a client on a slow link would be closed by the next event, and come back for the same state."""
    log = Log()
    server = serve(shell, app=make_app(log), rooms=QUIET, limits=LIMITS)
    narrow_down(server)

    async def large(channel: str) -> str:
        return "x" * 500_000

    log.snapshot = large
    slow = links.enter_context(link_to(server, "ann", "state=1", buffer=TINY))
    (carrier,) = carriers(server)
    until(server, lambda: carrier._blocked)
    ids = server.publish(10)
    assert next_event(slow)["event"] == "session.welcome"
    assert next_event(slow)["event"] == "room.state"
    assert [next_event(slow)["id"] for _ in ids] == ids


@pytest.mark.wire
def test_a_fan_out_of_several_turns_reaches_all_in_order_with_joins_in_between(
    shell: Shell, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roomwire.node.hub.WRITES_PER_TURN", 3)
    server = serve(shell, rooms=QUIET, limits=UNHURRIED)
    clients = [server.connect(f"user-{number}") for number in range(20)]
    late = []
    for number in range(20):
        server.publish(2, data=number)
        late.append(server.connect(f"late-{number}"))
    for client in (*clients, *late):
        offset = int(client.welcome["rooms"]["chat:general"]["position"].partition(":")[2])
        client.events_before("session.rooms", id="fence") if offset == 40 else check_up_to(client, offset, 40)


def check_up_to(client: Any, offset: int, top: int) -> None:
    while offset < top:
        offset += 1
        assert int(client.receive_until("told")["id"].partition(":")[2]) == offset


def test_links_that_end_in_mid_fan_out_never_get_anothers_bytes(
    shell: Shell, serve: Serve, links: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gives a closed socket's number to the next one at once: a stale one would show here."""
    monkeypatch.setattr("roomwire.node.hub.WRITES_PER_TURN", 3)
    log = Log()
    # Nobody is too slow, nor pinged: how much is published meanwhile, and how long it takes, the machine decides.
    limits = Limits(outbox_bytes=10**9, outbox_messages=10**6)
    server = serve(shell, app=make_app(log), rooms=QUIET, limits=limits, clock=VirtualClock())
    stop = anyio.Event()
    markers: list[Any] = []

    async def publish() -> None:
        rounds = 0
        while not stop.is_set():
            # For each guest so many: who reads keeps up, however slow the machine is.
            if rounds < 20 * len(markers):
                rounds += 1
                for marker in markers[-12:]:
                    await server.node.app.publish(f"chat:{marker}", "told", marker)
                await server.node.app.publish("chat:general", "told", "x" * 2000)
            with anyio.move_on_after(0.001):
                await stop.wait()

    def enter(number: int) -> Guest:
        marker = f"guest-{number}"
        log.auto[marker] = ["chat:general", f"chat:{marker}"]
        markers.append(marker)
        return Guest(marker, link_to(server, marker))

    publishing = server.portal.start_task_soon(publish)
    source = random.Random(1)
    guests = [enter(number) for number in range(12)]
    try:
        for number in range(12, 150):
            guest = guests.pop(source.randrange(len(guests)))
            guest.leave(source.choice(("reset", "close")))
            guests.append(enter(number))
            for other in guests:
                other.read_what_is_there()
        while not guests[-1].own:
            guests[-1].read()
    finally:
        server.call(stop.set)
        publishing.result(10)
        for guest in guests:
            guest.leave("close")


class Guest:
    """A client that knows what is for it, and checks that nothing else comes."""

    def __init__(self, marker: str, link: RawLink) -> None:
        self.marker = marker
        self.own = 0
        self._link = link
        first = next_event(link)
        assert first["event"] == "session.welcome"
        assert first["data"]["user"] == marker
        self._offsets: dict[str, int] = {
            room: int(status["position"].partition(":")[2]) for room, status in first["data"]["rooms"].items()
        }

    def read_what_is_there(self) -> None:
        while self._link._buffer or select.select([self._link.sock], [], [], 0)[0]:
            self.read()

    def read(self) -> None:
        event = next_event(self._link)
        room = event["room"]
        offset = int(event["id"].partition(":")[2])
        assert room in ("chat:general", f"chat:{self.marker}")
        assert offset == self._offsets[room] + 1
        self._offsets[room] = offset
        self.own += room != "chat:general"

    def leave(self, how: str) -> None:
        if how == "reset":
            self._link.reset()
        else:
            self._link.close()


def waiting(server: LiveServer, connection: Connection) -> int:
    """Bytes that wait in the node for the connection's reader."""
    (carrier,) = [c for c in server.node.transport.carriers if c._receiver is connection]  # type: ignore[attr-defined]
    blocks = () if carrier._outbox is None else carrier._outbox._blocks
    held: int = carrier._held()
    return held + sum(len(block) for block, *_ in blocks)


async def unmoved(connection: Connection, ended: anyio.Event) -> None:
    """Wait until the node has waited for the connection's reader for many turns, or all is asked."""
    seen, turns = None, 0
    while not ended.is_set() and turns < STILL:
        await anyio.lowlevel.checkpoint()
        now = connection._read
        turns = turns + 1 if now is not None and now is seen else 0
        seen = now


@pytest.mark.parametrize("what", ["replay", "state"])
def test_a_client_that_asks_and_does_not_read_holds_no_more_than_one_answer(
    shell: Shell, serve: Serve, what: str
) -> None:
    log = Log()

    async def large_state(channel: str) -> str:
        return "s" * SIZE

    log.snapshot = large_state
    server = serve(shell, app=make_app(log))
    server.connect("keeper")
    since = Position.parse(server.publish()[0])
    server.publish(5, data="d" * (SIZE // 5))
    with RawLink(server.raw(server.upgrade_request("greedy"))) as link:
        link.upgraded()
        (connection,) = server.node.connections_of("greedy")
        most = 0

        async def ask(ended: anyio.Event) -> None:
            nonlocal most
            joining = server.node.joining
            for number in range(ROUNDS):
                if connection._closing is not None:
                    break
                if what == "replay":
                    joining.leave(connection, "chat:general")
                    await joining.join(connection, Join("chat:general", str(number), since))
                else:
                    await joining.join(connection, Join("chat:general", str(number), state=True))
                    for _ in range(20):  # the state is made and written by tasks of the node's
                        await anyio.lowlevel.checkpoint()
                most = max(most, waiting(server, connection))
            ended.set()

        async def ask_until_nothing_moves() -> None:
            ended = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, ended)
                await unmoved(connection, ended)
                tasks.cancel_scope.cancel()

        server.call(ask_until_nothing_moves)
        limits = server.node.limits
        assert most <= limits.outbox_bytes + limits.replay_bytes + limits.max_state_size


def test_the_states_of_many_rooms_are_made_as_they_are_read(shell: Shell, serve: Serve) -> None:
    rooms = [f"chat:{number}" for number in range(30)]
    log = Log()
    log.auto["greedy"] = rooms

    async def large_state(channel: str) -> str:
        return "s" * SIZE

    log.snapshot = large_state
    server = serve(shell, app=make_app(log))
    narrow_down(server)  # what the kernel takes is not seen here
    with link_to(server, "greedy", "state=1", buffer=TINY) as link:
        (connection,) = server.node.connections_of("greedy")
        most = 0

        async def watch() -> None:
            nonlocal most
            for _ in range(1000):
                await anyio.lowlevel.checkpoint()
                most = max(most, waiting(server, connection))

        server.call(watch)
        # Those of a few rooms, whose makers found nothing unread, and as many that were begun just then.
        assert SIZE <= most <= 2 * STATES_AT_ONCE * SIZE + 100_000
        assert log.snapshots < len(rooms)
        assert {link.event("room.state")["room"] for _ in rooms} == set(rooms), "who reads gets them all"


@pytest.mark.wire
def test_who_reads_none_of_many_resets_comes_back_for_them(shell: Shell, serve: Serve) -> None:
    server = serve(shell, limits=Limits(replay_bytes=1_000_000, max_state_size=1_000_000))
    with RawLink(server.raw(server.upgrade_request("stalled"))) as link:
        link.upgraded()
        (connection,) = server.node.connections_of("stalled")

        def reset_many_rooms() -> int:
            for written in range(1, 100):
                connection._write(["s" * 1_000_000], counted=False)
                if connection._closing is not None:
                    return written
            return 0

        # The kernel's buffers, the replay, the states.
        assert UNREAD_STATES <= server.call(reset_many_rooms) <= UNREAD_STATES + 10
        assert connection._closing is not None
        assert connection._closing.code == 4002
