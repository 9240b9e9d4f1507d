"""Ways into a room and out of it, and what is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.closing import Closing
from roomwire.core.errors import LocalError
from roomwire.core.limits import Limits
from roomwire.core.positions import Position
from roomwire.core.publication import write_body
from roomwire.core.tail import Page
from roomwire.node import Connection
from tests.server.chat import Log, make_app
from tests.server.conftest import Serve
from tests.server.live import TIMEOUT, UNHURRIED, Client, LiveServer, Shell
from tests.server.watching import until

pytestmark = pytest.mark.wire


def join(client: Client, room: str, **data: Any) -> dict[str, Any]:
    reply: dict[str, Any] = client.request("room.join", data or None, room=room)["data"]
    return reply


def test_join_gives_the_position_and_nothing_to_recover(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    join(bob, "chat:two")
    sent = bob.request("message.send", {"content": "before"}, room="chat:two")["data"]["id"]
    assert join(ann, "chat:two") == {"position": sent, "recovered": None}
    later = bob.request("message.send", {"content": "after"}, room="chat:two")["data"]["id"]
    assert ann.receive_until("message.new")["id"] == later


def test_join_with_since_replays_what_came_after(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    start = join(bob, "chat:two")["position"]
    ids = bob.request("publish", {"times": 3}, room="chat:two")["data"]
    assert join(ann, "chat:two", since=start) == {"position": ids[-1], "recovered": True}
    assert [ann.receive_until("told")["id"] for _ in ids] == ids


def test_join_needs_an_id_and_a_room(serve: Serve) -> None:
    ann = serve().connect("ann")
    ann.send("room.join", room="chat:two")
    assert ann.receive_until("error")["data"] == {"code": "invalid", "message": "room.join needs an id"}
    assert ann.request("room.join")["data"] == {"code": "invalid", "message": "room.join needs a room"}


def test_join_twice_gives_the_current_position(server: LiveServer) -> None:
    ann = server.connect("ann")
    first = ann.welcome["rooms"]["chat:general"]["position"]
    assert join(ann, "chat:general") == {"position": first, "recovered": None}
    sent = ann.request("publish", {"times": 2}, room="chat:general")["data"]
    ann.receive_until("told", id=sent[-1])
    assert join(ann, "chat:general")["position"] == sent[-1]


def test_join_twice_with_since_is_a_conflict(serve: Serve) -> None:
    ann = serve().connect("ann")
    position = ann.welcome["rooms"]["chat:general"]["position"]
    assert join(ann, "chat:general", since=position) == {"code": "conflict", "message": "in the room already"}


@pytest.mark.parametrize("room", ["chat:secret", "nowhere", "chat:a:b", "numbered:x", "numbered:0", "*", "chat:"])
def test_a_room_that_is_not_allowed_or_that_no_pattern_matches_is_forbidden(serve: Serve, room: str) -> None:
    server = serve()
    ann = server.connect("ann")
    assert join(ann, room) == {"code": "forbidden", "message": "not allowed in this room"}
    assert room not in server.node.hub.rooms


def test_a_path_parameter_is_validated(serve: Serve) -> None:
    assert join(serve().connect("ann"), "numbered:7")["recovered"] is None


def test_a_policy_that_raises_is_internal_without_its_text(serve: Serve) -> None:
    ann = serve().connect("ann")
    assert join(ann, "chat:broken") == {"code": "internal", "message": "the server failed; it has been logged"}


def test_a_policy_may_say_why_not(serve: Serve) -> None:
    ann = serve().connect("ann")
    expected = {"code": "app.full", "message": "the room is full", "details": {"seats": 10}}
    assert join(ann, "chat:full") == expected


def test_the_room_beyond_the_limit_is_refused_and_leaves_no_trace(serve: Serve) -> None:
    server = serve(limits=UNHURRIED)
    ann = server.connect("ann")
    for number in range(99):
        assert "position" in join(ann, f"chat:{number}")
    assert join(ann, "chat:too-many") == {
        "code": "too_many_rooms",
        "message": "a connection is in at most 100 rooms",
    }
    assert "chat:too-many" not in server.node.hub.rooms
    ann.request("room.leave", room="chat:0")
    assert "position" in join(ann, "chat:too-many")


def test_join_with_state_gets_the_snapshot(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    join(bob, "chat:two")
    sent = bob.request("message.send", {"content": "hi"}, room="chat:two")["data"]["id"]
    assert join(ann, "chat:two", state=True) == {"position": sent, "recovered": None}
    state = ann.receive_until("room.state")
    assert (state["room"], state["id"]) == ("chat:two", sent)
    assert state["data"] == {"reason": "requested", "state": ["hi"]}


def test_state_1_asks_for_the_state_of_every_auto_joined_room(serve: Serve) -> None:
    log = Log()
    log.auto["ann"] = ["chat:one", "chat:two"]
    ann = serve(app=make_app(log)).connect("ann", query="state=1")
    states = [ann.receive_until("room.state") for _ in range(2)]
    assert {state["room"] for state in states} == {"chat:one", "chat:two"}
    assert {state["data"]["reason"] for state in states} == {"requested"}


def test_a_room_without_a_snapshot_has_null_for_its_state(serve: Serve) -> None:
    ann = serve().connect("ann")
    join(ann, "news:world", state=True)
    assert ann.receive_until("room.state")["data"] == {"reason": "requested", "state": None}


def test_leave_of_a_room_that_one_is_not_in_is_acknowledged(serve: Serve) -> None:
    ann = serve().connect("ann")
    assert ann.request("room.leave", room="chat:elsewhere")["event"] == "ack"


def test_rooms_of_the_connect_hook_need_no_policy(serve: Serve) -> None:
    log = Log()
    log.auto["ann"] = ["chat:secret", "no:pattern:at:all"]
    ann = serve(app=make_app(log)).connect("ann")
    assert set(ann.welcome["rooms"]) == {"chat:secret", "no:pattern:at:all"}


# --- by the application


def test_the_application_puts_a_connection_in_and_takes_it_out(server: LiveServer) -> None:
    ann = server.connect("ann")
    ann.send("enter", "chat:secret")
    joined = ann.receive_until("room.joined")
    assert joined["room"] == "chat:secret"
    assert joined["data"]["recovered"] is None
    sent = ann.request("publish", {}, room="chat:secret")["data"]
    assert ann.receive_until("told")["id"] == sent[0]
    ann.send("exit", "chat:secret")
    removed = ann.receive_until("room.removed")
    assert (removed["room"], removed["data"]) == ("chat:secret", {"reason": "the application said so"})
    assert ann.request("whoami")["data"]["rooms"] == ["chat:general"]


def test_the_application_cannot_make_a_room_of_no_name(serve: Serve) -> None:
    ann = serve().connect("ann")
    assert ann.request("enter", "a\nb")["data"]["code"] == "internal"


def test_the_application_sends_to_one_connection(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    ann.request("echo", {"n": 1})
    echoed = next(e for e in ann.events_before("echo", 2) if e["event"] == "echoed")
    assert echoed == {"event": "echoed", "data": 2}
    header = b'{"event":"echo.bytes"}'
    ann.connection.send(len(header).to_bytes(4, "big") + header + b"\x01")
    frame = next(message for message in iter(ann.receive, None) if isinstance(message, bytes))
    assert frame == b'\x00\x00\x00\x12{"event":"echoed"}\x01'
    assert not [e for e in bob.events_before("whoami") if e["event"] == "echoed"]


def test_what_is_sent_to_one_connection_has_a_limit(serve: Serve) -> None:
    server = serve(limits=Limits(max_event_size=1000))
    assert server.connect("ann").request("echo", "x" * 1000)["data"]["code"] == "internal"


def test_the_application_closes_a_connection(server: LiveServer) -> None:
    ann = server.connect("ann")
    ann.send("close", 4601)
    assert ann.receive_until("session.closing")["data"] == {
        "code": 4601,
        "reason": "bye",
        "reconnect": False,
        "retry_after": 0.0,
    }
    assert ann.closed() == (4601, "bye")


def test_a_close_code_that_cannot_be_sent_is_the_applications_fault(serve: Serve) -> None:
    ann = serve().connect("ann")
    assert ann.request("close", 1006)["data"]["code"] == "internal"
    assert ann.request("whoami")["event"] == "ack"


@pytest.mark.parametrize("text", ["a file name: \udcff", 17])
def test_a_reason_that_cannot_be_written_is_the_applications_fault(shell: Shell, serve: Serve, text: Any) -> None:
    """Found out while closing, it would leave a connection that is neither open nor closed."""
    log = Log()
    app = make_app(log)
    server = serve(shell, app=app)
    ann = server.connect("ann")
    ann.request("hold")
    connection = log.connections["ann"]
    orders: list[tuple[Callable[..., Any], *tuple[Any, ...]]] = [
        (connection.close, 4100),
        (connection.leave, "chat:general"),
        (app.disconnect, "ann"),
        (app.remove, "ann", "chat:general"),
    ]
    for function, *arguments in orders:
        with pytest.raises(LocalError, match="no reason that can be written"):
            server.act(function, *arguments, reason=text)
    assert ann.request("whoami")["data"]["rooms"] == ["chat:general"]


def test_what_cannot_be_announced_is_closed_all_the_same(shell: Shell, serve: Serve) -> None:
    log = Log()
    server = serve(shell, app=make_app(log))
    ann = server.connect("ann")
    ann.request("hold")
    server.call(log.connections["ann"]._shut, Closing(4100, "a file name: \udcff"))
    assert ann.closed() == (4100, "")
    until(server, lambda: not server.node.connections)


# --- many at once, and cut short


class SlowHistory(MemoryBackplane):
    """Its history takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = anyio.Event()
        self.answer = anyio.Event()

    async def history(self, room: str, since: Position | None, limit: int) -> Page:
        self.asked.set()
        await self.answer.wait()
        return await super().history(room, since, limit)


def test_a_join_that_the_application_gave_up_is_undone(shell: Shell, serve: Serve) -> None:
    """Else the connection is in the room for good, gets none of its events, and cannot join it any more."""
    app, backplane = make_app(), SlowHistory()
    scopes: list[anyio.CancelScope] = []

    @app.on("enter.quickly")
    async def enter(connection: Connection, room: str) -> bool:
        with anyio.CancelScope() as mine:
            scopes.append(mine)
            await connection.join(room)
        return mine.cancelled_caught

    server = serve(shell, app=app, backplane=backplane)
    server.connect("keeper")
    client = server.connect("nobody")
    # The store went back in time: the room's top is read before anybody comes in.
    (event,) = server.publish()
    epoch, offset = Position.parse(event)
    server.call(server.node.hub.deliver, "chat:general", epoch, offset - 1, offset, write_body("other", b"1"))
    client.send("enter.quickly", "chat:general", id="e1")
    (connection,) = server.node.connections_of("nobody")
    until(server, lambda: "chat:general" in connection._memberships)  # the keeper's read is what it waits for
    server.call(backplane.asked.wait)
    server.call(lambda: scopes[0].cancel())
    assert client.receive_until("ack", id="e1")["data"] is True
    server.call(backplane.answer.set)
    assert client.request("session.rooms")["data"]["rooms"] == {}
    assert join(client, "chat:general")["position"]
    server.publish(data="for all")
    assert "told" in [m["event"] for m in client.events_before("session.rooms")]


def test_a_connection_is_in_no_more_rooms_than_allowed_however_they_are_added(shell: Shell, serve: Serve) -> None:
    app = make_app()
    server = serve(shell, app=app, limits=Limits(rooms=5))
    client = server.connect("nobody")

    async def add_many() -> None:
        for number in [*range(20), 0, 1]:
            await app.add("nobody", f"chat:{number}")

    server.act(add_many)
    joined = {client.receive_until("room.joined")["room"] for _ in range(5)}
    until(server, lambda: set(server.node.hub.rooms) == joined == {f"chat:{number}" for number in range(5)})
    assert set(client.request("session.rooms")["data"]["rooms"]) == joined
    client.request("room.leave", room="chat:0")
    server.act(app.add, "nobody", "chat:19")
    assert client.receive_until("room.joined")["room"] == "chat:19"


# --- ways that cross


def test_put_in_while_the_client_joins_gives_both_an_answer(serve: Serve) -> None:
    """The client's join waits for its policy while the application's own way is quicker."""
    log = Log()
    asked, gate = anyio.Event(), anyio.Event()

    async def wait(connection: Connection, channel: str) -> None:
        if channel == "two":
            asked.set()
            await gate.wait()

    log.joining = wait
    server = serve(app=make_app(log))
    ann = server.connect("ann")
    ann.request("hold")
    ann.send("room.join", room="chat:two", id="j1")
    server.call(asked.wait)
    server.call(log.connections["ann"].join, "chat:two")
    joined = ann.receive_until("room.joined")
    server.call(gate.set)
    assert ann.receive_until("ack", id="j1")["data"] == {
        "position": joined["data"]["position"],
        "recovered": None,
    }


def test_taken_out_while_the_join_is_read_is_told(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    ann.request("hold")
    held = Held(server)
    ann.send("room.join", {"since": "another:1"}, room="chat:two", id="j1")
    until(server, lambda: held.waiting)
    server.call(server.node.app.remove, "ann", "chat:two", "no")
    server.call(held.release.set)
    assert ann.receive_until("room.removed")["data"] == {"reason": "no"}
    assert ann.receive_until("error", id="j1")["data"]["code"] == "forbidden"
    until(server, lambda: "chat:two" not in server.node.hub.rooms)


class Held:
    """Holds the backplane's reads of the history until `release` is set."""

    def __init__(self, server: LiveServer) -> None:
        self.release = anyio.Event()
        self.waiting = 0
        backplane = server.node.backplane
        history = backplane.history

        async def held(*arguments: Any) -> Any:
            self.waiting += 1
            await self.release.wait()
            return await history(*arguments)

        backplane.history = held  # type: ignore[method-assign, assignment]


def test_a_room_reopened_while_it_is_being_closed_is_subscribed(serve: Serve) -> None:
    """Of one room subscribe and unsubscribe run one at a time, whatever comes between."""
    server = serve()
    backplane = server.node.backplane
    unsubscribe, release, order = backplane.unsubscribe, anyio.Event(), []

    async def slow(room: str) -> None:
        order.append("begun")
        await release.wait()
        await unsubscribe(room)
        order.append("ended")

    backplane.unsubscribe = slow  # type: ignore[method-assign]
    ann, bob = server.connect("ann"), server.connect("bob")
    join(ann, "chat:two")
    ann.request("room.leave", room="chat:two")
    until(server, lambda: order == ["begun"])
    bob.send("room.join", room="chat:two", id="j1")
    until(server, lambda: server.node.hub.rooms["chat:two"].users)
    server.call(release.set)
    assert bob.receive_until("ack", id="j1")["data"]["recovered"] is None
    sent = bob.request("publish", {}, room="chat:two")["data"]
    assert bob.receive_until("told")["id"] == sent[0]
    assert order == ["begun", "ended"]


AHEAD = 30
"""Events that a publisher is ahead of the test at the most: else one who reads slowly would never catch up."""


class Progress:
    """How far a test got: the offset of the last position that it was told."""

    def __init__(self) -> None:
        self.offset = 0


@contextmanager
def publishing(server: LiveServer, room: str) -> Iterator[Progress]:
    """Publish 1, 2, 3 and so on, some in one turn of the loop, until the end of the block."""
    stop, progress = anyio.Event(), Progress()

    async def publish() -> None:
        number = 0
        while not stop.is_set():
            if number < progress.offset + AHEAD:
                for _ in range(1 + number % 4):
                    number += 1
                    await server.node.app.publish(room, "told", number)
            with anyio.move_on_after(0.001):
                await stop.wait()

    future = server.portal.start_task_soon(publish)
    try:
        yield progress
    finally:
        server.call(stop.set)
        future.result(TIMEOUT)


def offset_of(id_: str) -> int:
    return int(id_.partition(":")[2])


def check_sequence(client: Client, offset: int, count: int) -> None:
    """The next events are those after `offset`, without a hole."""
    for _ in range(count):
        event = client.receive_until("told")
        offset += 1
        assert (offset_of(event["id"]), event["data"]) == (offset, offset)


def test_200_joins_beside_a_fast_publisher_see_no_hole(shell: Shell, serve: Serve) -> None:
    server = serve(shell, limits=UNHURRIED)
    clients = [server.connect(f"user-{number}") for number in range(4)]
    with publishing(server, "chat:two") as progress:
        for turn in range(50):
            for number, client in enumerate(clients):
                reply = join(client, "chat:two")
                assert reply["recovered"] is None
                progress.offset = offset_of(reply["position"])
                check_sequence(client, offset_of(reply["position"]), (turn + number) % 7)
                client.request("room.leave", room="chat:two")
                assert not [e for e in client.events_before("whoami") if e["event"] == "told"]


def test_resumes_from_any_position_beside_a_fast_publisher_see_no_hole(shell: Shell, serve: Serve) -> None:
    server = serve(shell, limits=UNHURRIED)
    ann = server.connect("ann")
    known = [join(ann, "chat:two")["position"]]
    ann.request("room.leave", room="chat:two")
    with publishing(server, "chat:two") as progress:
        for turn in range(50):
            since = known[-1 - turn % min(len(known), 5)]
            reply = join(ann, "chat:two", since=since)
            assert reply["recovered"] is True
            known.append(reply["position"])
            progress.offset = offset_of(reply["position"])
            check_sequence(ann, offset_of(since), offset_of(reply["position"]) - offset_of(since) + 3)
            ann.request("room.leave", room="chat:two")
