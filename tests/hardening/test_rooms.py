"""Names of rooms that mean something elsewhere, and more rooms than one may have."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire import App, Connection
from roomwire.backplanes.contract import token
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.orders import ORDERS
from roomwire.core.policy import RoomPolicy
from roomwire.testing.clock import VirtualClock
from tests.server.conftest import Serve
from tests.server.live import UNHURRIED, LiveServer
from tests.server.watching import until

# What is a wildcard, a hash tag, a separator or a command in Redis, NATS, a path or a pattern.
NAMES = [
    "*", ">", "?", "a.b", "a.*", "a.>", "{x}", "{x}a", "x:*", "roomwire:k", "../a", "$SYS.>", "[a-z]", "a b", "%2A",
    "é", "e\u0301", "A", "a", "\u2028",
]  # fmt: skip
CONTROLS = ["\r\nPUB x 1\r\nA", "a\0b", "a\nb", "\x7f", "\x85"]

room_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def open_app() -> App:
    """Anybody may join anything that a pattern can match."""
    app = App()

    @app.room("{name}")
    async def anything(connection: Connection, name: str) -> bool:
        return True

    @app.room("{first}:{rest}")
    async def anything_else(connection: Connection, first: str, rest: str) -> bool:
        return True

    @app.on("say", room="{name}")
    async def say(connection: Connection, name: str) -> None:
        await app.publish(name, "said", name)

    @app.on("fence")
    async def fence(connection: Connection) -> None:
        pass

    return app


def hub_of(server: LiveServer) -> dict[str, int]:
    """What the backplane's store holds, by kind, besides the stream of orders."""
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    hub = backplane.hub
    return {
        "streams": len(hub.streams.keys() - {ORDERS}),
        "presence": len(hub.presence),
        "slots": sum(map(len, hub.slots.values())),
        "subscribed": len(backplane._subscribed - {ORDERS}),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_a_pattern_elsewhere_is_one_room(serve: Serve, name: str) -> None:
    server = serve(app=open_app(), limits=UNHURRIED)
    spy, ann = server.connect("spy"), server.connect("ann")
    assert spy.request("room.join", room=name)["event"] == "ack"
    others = [other for other in ("a", "a.b", "a.b.c", "x:y", "xa", *NAMES) if other != name]
    for other in others:
        assert ann.request("room.join", room=other)["event"] == "ack"
        if ":" not in other:
            ann.request("say", room=other)
    assert spy.events_before("fence") == []
    if ":" not in name:
        ann.request("room.join", room=name)
        ann.request("say", room=name)
        assert spy.receive_until("said")["data"] == name


@pytest.mark.parametrize("name", [*CONTROLS, "", "x" * 129, "é" * 65])
def test_a_name_that_is_none_joins_nothing(serve: Serve, name: str) -> None:
    server = serve(app=open_app())
    ann = server.connect("ann")
    before = hub_of(server)
    assert ann.request("room.join", room=name)["data"]["code"] == "invalid"
    assert ann.request("say", room=name)["data"]["code"] == "invalid"
    assert hub_of(server) == before


@given(room_names, room_names)
def test_two_names_have_two_tokens_that_mean_nothing(one: str, other: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token(one), re.ASCII)
    assert (token(one) == token(other)) is (one == other)


def test_the_101st_room_is_refused_and_the_backplane_knows_nothing_of_it(serve: Serve) -> None:
    server = serve(app=open_app(), limits=UNHURRIED, rooms={"*": RoomPolicy(presence=True)})
    ann = server.connect("ann")
    for number in range(100):
        assert ann.request("room.join", room=f"room-{number}")["event"] == "ack"
    until(server, lambda: hub_of(server)["presence"] == 100)
    before = hub_of(server)
    for number in range(100, 150):
        refused = ann.request("room.join", room=f"room-{number}")
        assert refused["data"]["code"] == "too_many_rooms"
    assert hub_of(server) == before
    # By way of the cursor, too.
    cursor = ",".join(f"other-{number}@ep:1" for number in range(100))
    bob = server.connect("bob", query=f"last_event_id={cursor}")
    assert len([room for room, status in bob.welcome["rooms"].items() if status.get("position")]) == 100
    refused = bob.request("room.join", room="other-100")
    assert refused["data"]["code"] == "too_many_rooms"
    assert "other-100" not in server.node.hub.rooms


def test_rooms_that_were_joined_and_left_without_an_event_leave_nothing(serve: Serve) -> None:
    policy = {"*": RoomPolicy(presence=True, leave_grace=0.0)}
    server = serve(app=open_app(), limits=UNHURRIED, rooms=policy, clock=VirtualClock())
    ann = server.connect("ann")
    for number in range(500):
        ann.request("room.join", room=f"passing-{number}")
        ann.request("room.leave", room=f"passing-{number}")
    until(server, lambda: server.node.hub.rooms == {})
    ann.close()
    assert hub_of(server)["subscribed"] == 0
    # What is left of a room that nobody uses is swept away, some of it with each refresh.
    for _ in range(100):
        server.advance(20)
    until(server, lambda: not any(hub_of(server).values()))
