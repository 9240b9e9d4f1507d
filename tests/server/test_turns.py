"""What many members are told goes out in slices, between which the loop turns, and in the order of its decision.

Writes are counted, by the turn of the loop in which they were made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from roomwire.core.notices import MemberJoined, Person, RoomState
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position
from roomwire.node.hub import Hub
from roomwire.node.rooms import Membership, Room
from roomwire.transports.anyio.carrier import Carrier
from roomwire.transports.anyio.ring import SendRing
from tests.server.chat import Log, make_app
from tests.server.conftest import Serve
from tests.server.live import UNHURRIED, Client, LiveServer, Shell
from tests.server.test_presence import person, presence, settle
from tests.server.test_resume import lose
from tests.server.watching import until

QUIET = {"chat:*": RoomPolicy()}
"""No presence, so that nothing comes but what is published."""


class Writes:
    """The writes of an event, by the turn of the fan-out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outside: Counter[bytes] = Counter()
        self.turns: list[Counter[bytes]] = []
        self._now = self.outside
        flush, write, send = Hub.flush_now, Carrier.write, SendRing.send

        def flush_now(hub: Hub) -> None:
            self._now = Counter()
            self.turns.append(self._now)
            flush(hub)
            self._now = self.outside

        def count(block: bytes, writes: int) -> None:
            for event in (b"presence.join", b"presence.state", b"room.state", b"told"):
                self._now[event] += writes * (b'"event":"%s"' % event in block)

        def counting(carrier: Carrier, block: bytes, messages: int, *, counted: bool = True) -> None:
            count(block, 1)
            write(carrier, block, messages, counted=counted)

        def counting_all(ring: SendRing, descriptors: Sequence[int], data: bytes) -> list[int]:
            count(data, len(descriptors))
            return send(ring, descriptors, data)

        monkeypatch.setattr(Hub, "flush_now", flush_now)
        monkeypatch.setattr(Carrier, "write", counting)
        monkeypatch.setattr(SendRing, "send", counting_all)

    def of(self, event: bytes) -> list[int]:
        """How many in each turn that had any; there is none outside of a turn."""
        assert not self.outside[event]
        return [turn[event] for turn in self.turns if turn[event]]

    def clear(self) -> None:
        self.outside.clear()
        self.turns.clear()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roomwire.node.hub.WRITES_PER_TURN", 3)


def room_of(server: LiveServer) -> Room:
    return server.node.hub.rooms["chat:general"]


def connect_all(server: LiveServer, count: int) -> list[Client]:
    return [server.connect(f"user-{number}") for number in range(count)]


# --- slices


@pytest.mark.usefixtures("short_turns")
def test_who_comes_is_told_to_a_few_at_a_time(shell: Shell, serve: Serve, writes: Writes) -> None:
    server = serve(shell, limits=UNHURRIED)
    clients = connect_all(server, 10)
    settle(server)
    writes.clear()
    bob = server.connect("bob")
    for client in clients:
        assert client.receive_until("presence.join", data=person("bob"))
    assert bob.receive_until("presence.state")
    assert writes.of(b"presence.join") == [3, 3, 3, 1]
    assert writes.of(b"presence.state") == [1]


def test_large_states_are_few_to_a_turn(shell: Shell, serve: Serve, writes: Writes) -> None:
    log = Log()
    server = serve(shell, app=make_app(log), rooms=QUIET)
    clients = connect_all(server, 7)

    async def large(channel: str) -> str:
        return "x" * 1_000_000

    log.snapshot = large
    writes.clear()
    lose(server)
    for client in clients:
        assert len(client.receive_until("room.state")["data"]["state"]) == 1_000_000
    assert writes.of(b"room.state") == [3, 3, 1]


def test_large_events_are_few_to_a_turn(serve: Serve, writes: Writes) -> None:
    server = serve(rooms=QUIET)
    clients = connect_all(server, 40)
    writes.clear()
    server.publish(data="x" * 120_000)
    for client in clients:
        client.receive_until("told")
    assert writes.of(b"told") == [18, 18, 4]


def test_many_events_of_one_moment_count_as_what_they_are_together(serve: Serve, writes: Writes) -> None:
    server = serve(rooms=QUIET)
    clients = connect_all(server, 40)
    writes.clear()
    ids = server.publish(100, data="x" * 1200)
    for client in clients:
        client.receive_until("told", id=ids[-1])
    assert writes.of(b"told") == [18, 18, 4]


# --- order


def hold(server: LiveServer) -> Callable[[], None]:
    """The fan-out does not get to anything more, until `let_go`; returns what makes one slice of it go out."""
    flush = server.node.hub.flush_now
    server.node.hub.flush_now = lambda: None  # type: ignore[method-assign]
    return flush


def let_go(server: LiveServer, flush: Callable[[], None]) -> None:
    del server.node.hub.flush_now
    server.call(flush)


@pytest.mark.usefixtures("short_turns")
def test_a_state_precedes_the_events_that_follow_on_it(shell: Shell, serve: Serve) -> None:
    log = Log()
    server = serve(shell, app=make_app(log), rooms=QUIET, limits=UNHURRIED)
    clients = connect_all(server, 20)

    async def publishing(channel: str) -> str:
        # One that stands in the state, and is beyond its position: it comes after it.
        await server.node.app.publish("chat:general", "told", "meanwhile")
        return "state"

    log.snapshot = publishing
    flush = hold(server)
    lose(server)
    until(server, lambda: room_of(server)._turns)
    after = server.publish(2)
    server.call(flush)  # some have the state now
    late = server.connect("late")
    later = server.publish(2)
    let_go(server, flush)
    for client in clients:
        state = client.receive_until("room.state")
        assert Position.parse(state["id"]).offset == 0
        offsets = [Position.parse(client.receive_until("told")["id"]).offset for _ in range(5)]
        assert offsets == [1, 2, 3, 4, 5]
    known = late.welcome["rooms"]["chat:general"]["position"]
    assert known == after[-1]
    # Its turn may be one of the last; a reply does not wait for it.
    assert [late.receive_until("told")["id"] for _ in later] == later
    assert [message for message in late.events_before("session.rooms") if "id" in message] == []


def on_loop(server: LiveServer, look: Callable[[Room, list[Membership]], Any]) -> Any:
    """Look at the room with its members on the loop, in one turn of it."""
    return server.call(lambda: look(room_of(server), list(room_of(server).live)))


def test_no_position_is_known_before_the_state_was_written(serve: Serve) -> None:
    """Who took it over and lost its link would be proven, and never get the state."""
    server = serve(rooms=QUIET)
    clients = connect_all(server, 4)

    def halfway(room: Room, members: list[Membership]) -> list[Position | None]:
        room.freeze("epoch")
        server.node.hub.thaw(room, RoomState("chat:general", Position("new", 7), "epoch"))
        room.flush(2)
        assert not room.is_settled
        return [room.position_of(membership) for membership in members]

    assert on_loop(server, halfway) == [Position("new", 7)] * 2 + [None] * 2
    for client in clients:
        assert client.receive_until("room.state")["id"] == "new:7"


def test_who_left_in_the_middle_is_told_nothing_more(serve: Serve) -> None:
    server = serve(rooms=QUIET)
    clients = connect_all(server, 4)

    def halfway(room: Room, members: list[Membership]) -> None:
        server.node.hub.tell(room, members, [MemberJoined("chat:general", Person("bob"))])
        room.flush(2)
        server.node.joining.leave(members[1].connection, "chat:general")
        server.node.joining.leave(members[3].connection, "chat:general")

    on_loop(server, halfway)
    told = [[m["event"] for m in client.events_before("session.rooms")] for client in clients]
    assert told == [["presence.join"], ["presence.join"], ["presence.join"], []]


def test_a_reset_loses_nothing_of_who_is_there(serve: Serve) -> None:
    server = serve(rooms=QUIET)
    clients = connect_all(server, 4)

    def halfway(room: Room, members: list[Membership]) -> None:
        server.node.hub.tell(room, members, [MemberJoined("chat:general", Person("bob"))])
        room.flush(2)
        room.freeze("epoch")
        assert room.has_work

    on_loop(server, halfway)
    for client in clients:
        assert client.receive_until("presence.join")["data"]["user"] == "bob"


@pytest.mark.usefixtures("short_turns")
def test_the_list_of_members_precedes_the_changes_to_it(shell: Shell, serve: Serve) -> None:
    server = serve(shell, limits=UNHURRIED)
    clients = connect_all(server, 12)
    settle(server)
    for client in clients:
        known: set[str] = set()
        for message in client.events_before("whoami"):
            if message["event"] == "presence.state":
                known = {member["user"] for member in message["data"]["members"]}
            else:
                assert message["event"] == "presence.join"
                assert known  # nothing before the list
                known.add(message["data"]["user"])
        assert known == {f"user-{number}" for number in range(12)}


# --- a bound


def test_changes_that_come_faster_than_they_are_told_are_told_as_what_they_come_to(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    settle(server)
    presence(ann)
    flush = hold(server)
    server.connect("bob")
    settle(server, told=False)
    for _ in range(5):
        eve = server.connect("eve")
        settle(server, told=False)
        eve.close()
        until(server, lambda: not server.node.connections_of("eve"))
        settle(server, told=False)
    server.connect("zoe")
    settle(server, told=False)
    assert len(room_of(server)._turns) == 2  # what ann is told, and bob
    let_go(server, flush)
    settle(server)
    until(server, lambda: not room_of(server)._turns)
    assert presence(ann) == [("join", "bob"), ("join", "zoe")]
