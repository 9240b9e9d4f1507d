"""Coming back: the welcome, the replay that is proven complete, and the reasons why it is not."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import anyio
import anyio.lowlevel
import pytest

from roomwire.backplanes.memory import MemoryBackplane, MemoryHub
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from roomwire.core.positions import Position, format_cursor
from roomwire.core.tail import RoomTail
from roomwire.testing.clock import VirtualClock
from tests.server.chat import Log, make_app
from tests.server.conftest import ROOMS, Serve
from tests.server.live import UNHURRIED, Client, LiveServer, live_cluster
from tests.server.watching import until

pytestmark = pytest.mark.wire

DEEP = {"chat:*": RoomPolicy(history_size=5000, presence=False)}


def query(positions: dict[str, str], **more: str) -> str:
    """The query of a client that has these positions."""
    cursor = format_cursor({room: Position.parse(position) for room, position in positions.items()})
    fields = {"last_event_id": cursor, **more}
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())


def status(client: Client, room: str = "chat:general") -> dict[str, Any]:
    found: dict[str, Any] = client.welcome["rooms"][room]
    return found


def events(client: Client, name: str = "told") -> list[dict[str, Any]]:
    """All events of that name that came up to now."""
    return [e for e in client.events_before("whoami") if isinstance(e, dict) and e["event"] == name]


# --- the welcome


def test_the_welcome_is_first_and_says_who_where_and_how_much(server: LiveServer) -> None:
    welcome = server.connect("ann", query="client=ann-phone").welcome
    session, rooms = welcome.pop("session"), welcome.pop("rooms")
    assert welcome == {
        "client": "ann-phone",
        "user": "ann",
        "heartbeat": {"interval": 30.0, "timeout": 90.0},
        "limits": {"max_message_size": 65536, "max_event_size": 131072, "idempotency_window": 300.0},
    }
    assert session
    assert list(rooms) == ["chat:general"]
    assert rooms["chat:general"]["recovered"] is None


@pytest.mark.raw_only
def test_messages_sent_before_the_welcome_are_read_after_it(server: LiveServer) -> None:
    gate = anyio.Event()

    async def wait(connection: Any) -> None:
        await gate.wait()

    server.node.app.log.admitted = wait  # type: ignore[attr-defined]
    masked = b"\x81\x9b" + bytes(4) + b'{"event":"whoami","id":"w"}'
    sock = server.raw(server.upgrade_request() + masked)
    server.call(gate.set)
    received = b""
    while b'"ack"' not in received:
        chunk = sock.recv(65536)
        assert chunk, received
        received += chunk
    sock.close()
    assert received.startswith(b"HTTP/1.1 101 ")
    assert received.index(b"session.welcome") < received.index(b'"ack"')


# --- what is proven


@pytest.mark.parametrize("missed", [0, 1, 127, 128, 129, 1000])
def test_a_resume_replays_exactly_what_was_missed(serve: Serve, missed: int) -> None:
    server = serve(rooms=DEEP)
    position = status(server.connect("ann"))["position"]
    ids = server.publish(missed)
    back = server.connect("ann", query=query({"chat:general": position}))
    assert status(back) == {"position": ids[-1] if ids else position, "recovered": True}
    assert [event["id"] for event in events(back)] == ids


def test_a_resume_on_every_shell(server: LiveServer) -> None:
    position = status(server.connect("ann"))["position"]
    ids = server.publish(1000)
    back = server.connect("ann", query=query({"chat:general": position}))
    assert status(back)["recovered"] is True
    assert [back.receive_until("told")["id"] for _ in ids] == ids


def test_one_event_more_than_may_be_replayed_is_too_far_and_the_state_comes(serve: Serve) -> None:
    server = serve(rooms=DEEP)
    position = status(server.connect("ann"))["position"]
    ids = server.publish(1001)
    back = server.connect("ann", query=query({"chat:general": position}))
    assert status(back) == {"position": ids[-1], "recovered": False, "reason": "too_far"}
    state = back.receive()
    assert (state["event"], state["id"], state["data"]["reason"]) == ("room.state", ids[-1], "too_far")
    # All or nothing.
    assert events(back) == []


def test_more_bytes_than_may_be_replayed_are_too_far(serve: Serve) -> None:
    server = serve(rooms=DEEP, limits=Limits(replay_bytes=10_000))
    position = status(server.connect("ann"))["position"]
    server.publish(11, data="x" * 1000)
    assert status(server.connect("ann", query=query({"chat:general": position})))["reason"] == "too_far"


def test_the_budget_of_a_replay_is_for_all_rooms_together(serve: Serve) -> None:
    log = Log()
    log.auto["ann"] = ["chat:one", "chat:two"]
    server = serve(app=make_app(log), rooms=DEEP)
    rooms = server.connect("ann").welcome["rooms"]
    server.publish(600, "chat:one")
    server.publish(600, "chat:two")
    back = server.connect("ann", query=query({room: rooms[room]["position"] for room in rooms}))
    assert sorted(status(back, room)["recovered"] for room in rooms) == [False, True]


def test_50_resumes_in_a_row(serve: Serve) -> None:
    server = serve(limits=UNHURRIED)
    client = server.connect("ann", query="client=ann-phone")
    position = status(client)["position"]
    for number in range(50):
        client.connection.socket.close()
        ids = server.publish(number % 4)
        client = server.connect("ann", query=query({"chat:general": position}, client="ann-phone"))
        assert status(client)["recovered"] is True
        assert [event["id"] for event in events(client)] == ids
        position = status(client)["position"]


def test_a_resume_from_an_old_position_of_the_stream_that_has_been_quiet_since(serve: Serve) -> None:
    clock = VirtualClock()
    server = serve(clock=clock)
    server.publish(3)
    position = status(server.connect("ann"))["position"]
    server.close_clients()
    # All events have expired, and none came: an empty replay is a proven one.
    server.advance(4000)
    back = server.connect("ann", query=query({"chat:general": position}))
    assert status(back) == {"position": position, "recovered": True}


def test_what_a_client_was_excluded_from_is_not_replayed_to_it(server: LiveServer) -> None:
    ann = server.connect("ann", query="client=ann-phone")
    position = status(ann)["position"]
    own = ann.request("message.send", {"content": "mine"}, room="chat:general")["data"]["id"]
    others = server.publish(1)
    back = server.connect("ann", query=query({"chat:general": position}, client="ann-phone"))
    assert status(back) == {"position": others[-1], "recovered": True}
    assert [e["id"] for e in back.events_before("whoami") if e.get("room") and "id" in e] == others
    other = server.connect("bob", query=query({"chat:general": position}))
    assert other.receive()["id"] == own


# --- what is not


def test_too_old_after_trimming(serve: Serve) -> None:
    server = serve(rooms={"chat:*": RoomPolicy(history_size=10)})
    position = status(server.connect("ann"))["position"]
    ids = server.publish(11)
    back = server.connect("ann", query=query({"chat:general": position}))
    assert status(back) == {"position": ids[-1], "recovered": False, "reason": "too_old"}
    assert back.receive_until("room.state")["data"]["reason"] == "too_old"
    assert events(back) == []
    again = server.connect("ann", query=query({"chat:general": ids[0]}))
    assert [event["id"] for event in events(again)] == ids[1:]


def test_too_old_after_the_time_to_live(serve: Serve) -> None:
    clock = VirtualClock()
    server = serve(clock=clock, rooms={"chat:*": RoomPolicy(history_ttl=60)})
    position = status(server.connect("ann"))["position"]
    server.publish(1)
    server.close_clients()
    until(server, lambda: not server.node.hub.rooms)
    server.advance(61)
    back = server.connect("ann", query=query({"chat:general": position}))
    assert status(back)["reason"] == "too_old"


def test_epoch_after_a_restart_with_an_empty_store(serve: Serve) -> None:
    position = status(serve().connect("ann"))["position"]
    after = serve()
    after.publish(1)
    back = after.connect("ann", query=query({"chat:general": position}))
    assert status(back)["reason"] == "epoch"
    assert status(back)["position"].partition(":")[0] != position.partition(":")[0]
    assert back.receive_until("room.state")["id"] == status(back)["position"]


def test_fork_where_the_stream_is_behind(serve: Serve) -> None:
    server = serve()
    server.publish(1)
    epoch = status(server.connect("ann"))["position"].partition(":")[0]
    back = server.connect("ann", query=query({"chat:general": f"{epoch}:99"}))
    assert status(back) == {"position": f"{epoch}:1", "recovered": False, "reason": "fork"}
    assert back.receive_until("room.state")["id"] == f"{epoch}:1"


def test_no_history_where_a_room_keeps_none(serve: Serve) -> None:
    server = serve(rooms={"chat:*": RoomPolicy(history_size=0)})
    position = status(server.connect("ann"))["position"]
    server.publish(1)
    assert status(server.connect("ann", query=query({"chat:general": position})))["reason"] == "no_history"


def test_unavailable_has_no_position_and_the_state_follows_when_it_can(serve: Serve) -> None:
    server = serve()
    position = status(server.connect("ann"))["position"]
    server.publish(200)
    broken = Broken(server)
    back = server.connect("ann", query=query({"chat:general": position}))
    assert status(back) == {"recovered": False, "reason": "unavailable"}
    broken.heal()
    state = back.receive_until("room.state")
    assert state["data"]["reason"] == "unavailable"
    ids = server.publish(1)
    assert back.receive_until("told")["id"] == ids[0]


class Broken:
    """A backplane whose history cannot be read until `heal`."""

    def __init__(self, server: LiveServer) -> None:
        from roomwire.core.errors import Unavailable

        self._backplane = server.node.backplane
        self._history = self._backplane.history

        async def fail(*arguments: Any) -> Any:
            raise Unavailable

        self._backplane.history = fail  # type: ignore[method-assign, assignment]

    def heal(self) -> None:
        self._backplane.history = self._history  # type: ignore[method-assign]


def test_a_room_that_may_not_be_entered_any_more_is_forbidden_and_silent(server: LiveServer) -> None:
    ann = server.connect("ann")
    ann.request("room.join", room="chat:two")
    position = ann.request("session.rooms")["data"]["rooms"]["chat:two"]["position"]
    server.publish(3, "chat:two")
    server.node.app.log.forbidden.add(("ann", "two"))  # type: ignore[attr-defined]
    back = server.connect("ann", query=query({"chat:two": position}))
    assert status(back, "chat:two") == {"recovered": False, "reason": "forbidden"}
    server.publish(1, "chat:two")
    assert not [e for e in back.events_before("whoami") if e.get("room") == "chat:two"]
    assert back.request("whoami")["data"]["rooms"] == ["chat:general"]


def test_cursors_of_100_rooms_and_one_room_too_many(serve: Serve) -> None:
    server = serve(limits=UNHURRIED)
    ann = server.connect("nobody")
    positions = {}
    for number in range(100):
        positions[f"chat:{number}"] = ann.request("room.join", room=f"chat:{number}")["data"]["position"]
    ids = server.publish(2, "chat:42")
    back = server.connect("nobody", query=query(positions))
    assert len(back.welcome["rooms"]) == 100
    assert all(status(back, room)["recovered"] is True for room in positions)
    assert [event["id"] for event in events(back)] == ids
    # With a room that the hook joins there is one too many.
    crowded = server.connect("ann", query=query(positions))
    reasons = [room.get("reason") for room in crowded.welcome["rooms"].values()]
    assert reasons.count("too_many_rooms") == 1
    assert len(reasons) == 101


# --- states


def test_a_snapshot_that_takes_too_long_is_null(serve: Serve) -> None:
    log = Log()

    async def slow(channel: str) -> Any:
        await anyio.sleep_forever()

    log.snapshot = slow
    server = serve(app=make_app(log), limits=Limits(snapshot_timeout=0.05))
    ann = server.connect("ann", query="state=1")
    assert ann.receive_until("room.state")["data"] == {"reason": "requested", "state": None}


@pytest.mark.parametrize("fault", ["raises", "no JSON", "too large"])
def test_a_snapshot_that_fails_is_null(serve: Serve, fault: str) -> None:
    log = Log()

    async def failing(channel: str) -> Any:
        if fault == "raises":
            raise RuntimeError("a secret of the database")
        return object() if fault == "no JSON" else "x" * 2000

    log.snapshot = failing
    server = serve(app=make_app(log), limits=Limits(max_state_size=1000))
    ann = server.connect("ann", query="state=1")
    assert ann.receive_until("room.state")["data"] == {"reason": "requested", "state": None}


def test_one_snapshot_serves_all_who_wait_for_it(serve: Serve) -> None:
    log = Log()
    gate = anyio.Event()

    async def gated(channel: str) -> Any:
        await gate.wait()
        return log.snapshots

    log.snapshot = gated
    server = serve(app=make_app(log))
    first = server.connect("ann", query="state=1")
    until(server, lambda: log.snapshots == 1)
    # Those who ask now may not have the first one, which may be older than their position.
    others = [server.connect(f"user-{number}", query="state=1") for number in range(20)]
    server.call(gate.set)
    assert first.receive_until("room.state")["data"]["state"] == 1
    assert {other.receive_until("room.state")["data"]["state"] for other in others} == {2}
    assert log.snapshots == 2


def test_events_published_while_a_snapshot_is_made_are_neither_lost_nor_doubled(server: LiveServer) -> None:
    log = server.node.app.log  # type: ignore[attr-defined]
    gate = anyio.Event()
    seen: list[list[str]] = []

    async def gated(channel: str) -> Any:
        await gate.wait()
        return seen[0]

    log.snapshot = gated
    position = status(server.connect("ann"))["position"]
    epoch = position.partition(":")[0]
    before = server.publish(3)
    back = server.connect("ann", query=query({"chat:general": f"{epoch}x:1"}))
    assert status(back)["reason"] == "epoch"
    until(server, lambda: log.snapshots == 1)
    during = server.publish(3)
    seen.append(before)
    server.call(gate.set)
    after = server.publish(2)
    state = back.receive()
    assert (state["event"], state["id"]) == ("room.state", before[-1])
    assert state["data"] == {"reason": "epoch", "state": before}
    assert [event["id"] for event in events(back)] == during + after


def test_more_than_may_wait_for_a_state_makes_it_once_more_and_then_gives_up(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log), rooms=DEEP)

    async def flooding(channel: str) -> Any:
        for number in range(1300):
            await server.node.app.publish("chat:general", "told", number)
        return "state"

    epoch = status(server.connect("nobody-else"))["position"].partition(":")[0]
    log.snapshot = flooding
    back = server.connect("ann", query=query({"chat:general": f"{epoch}x:1"}))
    assert back.receive_until("session.closing")["data"]["code"] == 4005
    assert log.snapshots == 2


# --- a reset of the whole room


def lose(server: LiveServer) -> None:
    """The store loses every stream, and the node hears that something happened."""
    hub = hub_of(server)
    server.call(hub.lose)
    server.call(server.node.hub.interrupted, None)


def hub_of(server: LiveServer) -> MemoryHub:
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    return backplane.hub


def tail_of(server: LiveServer, room: str) -> RoomTail:
    tail = server.node.hub.rooms[room].tail
    assert tail is not None
    return tail


def test_a_stream_that_is_lost_gives_every_member_a_new_state(server: LiveServer) -> None:
    clients = [server.connect(f"user-{number}") for number in range(3)]
    server.publish(2)
    lose(server)
    states = [client.receive_until("room.state") for client in clients]
    assert {state["data"]["reason"] for state in states} == {"epoch"}
    assert len({state["id"] for state in states}) == 1
    ids = server.publish(2)
    assert ids[0].partition(":")[0] == states[0]["id"].partition(":")[0]
    for client in clients:
        assert [client.receive_until("told")["id"] for _ in ids] == ids
        assert client.request("session.rooms")["data"]["rooms"]["chat:general"] == {"position": ids[-1]}


def test_events_while_a_lost_room_gets_its_state_follow_on_it(serve: Serve) -> None:
    log = Log()
    gate, seen = anyio.Event(), []
    server = serve(app=make_app(log))

    async def gated(channel: str) -> Any:
        seen.append(channel)
        await gate.wait()
        return "state"

    log.snapshot = gated
    ann = server.connect("ann")
    lose(server)
    until(server, lambda: seen)
    # While the room is frozen: live ones wait, and who comes now gets the state as well.
    during = server.publish(3)
    bob = server.connect("bob")
    assert status(bob) == {"position": during[-1], "recovered": None}
    assert events(ann) == []
    server.call(gate.set)
    state = ann.receive_until("room.state")
    assert state["id"].endswith(":0")
    assert [ann.receive_until("told")["id"] for _ in during] == during
    after = server.publish(1)
    assert ann.receive_until("told")["id"] == after[0]
    assert bob.receive_until("room.state")["data"]["reason"] == "epoch"
    assert bob.receive_until("told", id=after[0])


def test_a_room_that_is_lost_again_while_it_gets_its_state_gets_another(serve: Serve) -> None:
    log = Log()
    gate, seen = anyio.Event(), []
    server = serve(app=make_app(log))

    async def gated(channel: str) -> Any:
        seen.append(channel)
        if len(seen) == 1:
            await gate.wait()
        return len(seen)

    log.snapshot = gated
    ann = server.connect("ann")
    lose(server)
    until(server, lambda: seen)
    lose(server)
    until(server, lambda: hub_of(server).epoch == tail_of(server, "chat:general").position.epoch)
    server.call(gate.set)
    state = ann.receive_until("room.state")
    assert state["data"]["state"] == 2
    assert state["id"] == f"{hub_of(server).epoch}:0"
    ids = server.publish(1)
    assert [event["id"] for event in events(ann)] == ids


def test_a_frozen_room_that_overflows_twice_lets_its_members_come_back_later(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log))
    floods = []

    async def flooding(channel: str) -> Any:
        floods.append(channel)
        for number in range(300):
            await server.node.app.publish("chat:general", "told", number)

    ann = server.connect("ann")
    log.snapshot = flooding
    lose(server)
    assert ann.receive_until("session.closing")["data"]["code"] == 4005
    assert len(floods) == 2


def test_a_frozen_room_that_overflows_once_gets_a_later_state(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log), rooms=DEEP)
    floods: list[int] = []

    async def flooding(channel: str) -> Any:
        floods.append(0)
        if len(floods) == 1:
            for number in range(300):
                await server.node.app.publish("chat:general", "told", number)
        return len(floods)

    ann = server.connect("ann")
    log.snapshot = flooding
    lose(server)
    state = ann.receive_until("room.state")
    assert state["id"].endswith(":300")
    assert state["data"]["state"] == 2
    ids = server.publish(1)
    assert [event["id"] for event in events(ann)] == ids


def test_a_heartbeat_tells_no_position_of_a_room_that_waits_for_its_state(serve: Serve) -> None:
    log = Log()
    gate, seen = anyio.Event(), []
    server = serve(app=make_app(log), clock=VirtualClock())

    async def gated(channel: str) -> Any:
        seen.append(channel)
        await gate.wait()

    log.snapshot = gated
    ann = server.connect("ann")
    ann.request("message.send", {"content": "mine"}, room="chat:general")
    lose(server)
    until(server, lambda: seen)
    server.advance(30.25)
    assert ann.receive_until("heartbeat")["data"] == {}
    server.call(gate.set)
    ann.receive_until("room.state")


def test_a_lost_link_is_healed_from_the_history_without_a_reset(server: LiveServer) -> None:
    ann = server.connect("ann")
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    first = server.publish(1)
    server.call(backplane.cut)
    other = MemoryBackplane(hub=backplane.hub)

    async def publish_elsewhere() -> None:
        from roomwire.backplanes.contract import HistoryPolicy
        from roomwire.core.publication import write_body

        await other.start(server.node.hub, "elsewhere")
        backplane.hub.sinks.pop("elsewhere")
        for number in range(200):
            body = write_body("told", str(number).encode())
            await other.publish("chat:general", body, key=None, policy=HistoryPolicy())

    server.call(publish_elsewhere)
    server.call(backplane.heal)
    ids = [ann.receive_until("told")["id"] for _ in range(201)]
    assert ids[0] == first[0]
    assert [int(id_.partition(":")[2]) for id_ in ids] == list(range(1, 202))
    assert not [e for e in ann.events_before("whoami") if e["event"] == "room.state"]


def test_most_rooms_that_missed_nothing_cost_no_read_of_their_history(serve: Serve) -> None:
    server = serve(limits=UNHURRIED)
    ann = server.connect("ann")
    for number in range(50):
        ann.request("room.join", room=f"chat:{number}")
    broken = Broken(server)
    server.call(server.node.hub.interrupted, None)
    rooms = server.node.hub.rooms
    until(server, lambda: all(tail_of(server, room).need.value == "none" for room in rooms))
    broken.heal()


# --- positions in heartbeats


def test_an_excluded_client_is_told_its_position_with_the_next_heartbeat(server_on_clock: LiveServer) -> None:
    server = server_on_clock
    ann, bob = server.connect("ann"), server.connect("bob")
    sent = ann.request("message.send", {"content": "mine"}, room="chat:general")["data"]["id"]
    bob.receive_until("message.new", id=sent)
    server.advance(30.25)
    assert ann.receive_until("heartbeat")["data"] == {"positions": {"chat:general": sent}}
    assert bob.receive_until("heartbeat")["data"] == {}
    # Once is enough.
    server.advance(30)
    assert ann.receive_until("heartbeat")["data"] == {}


def test_a_position_is_not_told_after_a_later_event_has_told_it(server_on_clock: LiveServer) -> None:
    server = server_on_clock
    ann = server.connect("ann")
    ann.request("message.send", {"content": "mine"}, room="chat:general")
    later = server.publish(1)
    ann.receive_until("told", id=later[0])
    server.advance(30.25)
    # Where it is told all the same, it is not an older one.
    assert ann.receive_until("heartbeat")["data"] in ({}, {"positions": {"chat:general": later[0]}})


def test_session_closing_tells_the_positions_too(serve: Serve) -> None:
    server = serve()
    ann, bob = server.connect("ann"), server.connect("bob")
    sent = ann.request("message.send", {"content": "mine"}, room="chat:general")["data"]["id"]
    bob.receive_until("message.new", id=sent)
    server.act(server.node.app.disconnect, "ann", code=4100, reason="later")
    closing = ann.receive_until("session.closing")["data"]
    assert closing == {
        "code": 4100,
        "reason": "later",
        "reconnect": True,
        "retry_after": 0.0,
        "positions": {"chat:general": sent},
    }


def test_a_position_is_never_told_in_the_middle_of_a_turn(serve: Serve) -> None:
    """A fan-out that takes several turns of the loop: some have the events, others do not yet."""
    server = serve(rooms={"chat:*": RoomPolicy()})
    clients = [server.connect(f"user-{number}", query=f"client=client-{number}") for number in range(6)]
    room = server.node.hub.rooms["chat:general"]

    def halfway() -> list[str]:
        from roomwire.core.publication import read_body, write_body

        start = room.flushed
        body = write_body("told", b"1", exclude="client-0")
        room.accept(read_body("chat:general", body, Position(start.epoch, 1)))
        room.flush(3)
        positions = [str(room.position_of(membership)) for membership in list(room.live)]
        assert server.node.connections_of("user-0")[0]._moved_positions() == {}
        room.flush(3)
        assert server.node.connections_of("user-0")[0]._moved_positions() == {"chat:general": Position(start.epoch, 1)}
        return [position.partition(":")[2] for position in positions]

    assert server.call(halfway) == ["1", "1", "1", "0", "0", "0"]
    for client in clients[1:]:
        client.receive_until("told")


# --- more nodes


def test_a_resume_on_another_node() -> None:
    with live_cluster([make_app(), make_app()], rooms=ROOMS) as (one, two):
        position = status(one.connect("ann"))["position"]
        ids = one.publish(5)
        back = two.connect("ann", query=query({"chat:general": position}))
        assert status(back)["recovered"] is True
        assert [event["id"] for event in events(back)] == ids
