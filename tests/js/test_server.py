"""The JavaScript client in node against roomwire's own server."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from tests.js.node_client import NodeClient, NodeClientError, open_node_client
from tests.server.chat import make_app
from tests.server.live import LiveServer, live_server, make_token

from roomwire.core.policy import RoomPolicy

ROOM = "chat:general"
OUTAGE = 400  # milliseconds, in which nothing has to happen
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def ann(anyio_backend: str) -> AsyncIterator[NodeClient]:
    async with open_node_client() as client:
        yield client


def serve(**policy: Any) -> AbstractContextManager[LiveServer]:
    return live_server(make_app(), rooms={"chat:*": RoomPolicy(presence=True, leave_grace=0.0, **policy)})


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with serve() as running:
        yield running


async def come_in(client: NodeClient, server: LiveServer, user: str = "ann", **options: object) -> None:
    await client.connect(server.url, token=make_token(user), **options)
    await client.wait_state("open")


def speaker(server: LiveServer) -> Callable[[str], None]:
    """Bob, who is in the room and says what he is told to."""
    bob = server.connect("bob")

    def say(content: str) -> None:
        reply = bob.request("message.send", {"content": content}, room=ROOM)
        assert reply["event"] == "ack", reply

    return say


async def test_messages_presence_and_queries(ann: NodeClient, server: LiveServer) -> None:
    await come_in(ann, server)
    say = speaker(server)
    await ann.wait_event("presence.join", user="bob")
    say("hello")
    event = await ann.wait_event("message.new", content="hello")
    assert event["room"] == ROOM
    ack = await ann.call("send", event="message.send", data={"content": "hi"}, options={"room": ROOM})
    say("bye")
    following = await ann.wait_event("message.new")
    assert following["data"]["content"] == "bye", "its own message comes by the ack alone"
    assert ack["id"] != following["id"]
    members = await ann.call("fetchMembers", room=ROOM)
    assert {member["user"] for member in members} == {"ann", "bob"}
    state = await ann.call("state")
    assert set(state["rooms"][ROOM]["members"]) == {"ann", "bob"}
    assert state["rooms"][ROOM]["position"] == following["id"]
    assert set(await ann.call("fetchRooms")) == {ROOM}


async def test_errors_reach_their_callers(ann: NodeClient, server: LiveServer) -> None:
    await come_in(ann, server)
    with pytest.raises(NodeClientError, match=r"app\.too_late") as caught:
        await ann.call("send", event="refuse")
    assert caught.value.details == {"since": 3}
    with pytest.raises(NodeClientError, match="forbidden"):
        await ann.call("join", room="chat:secret")
    with pytest.raises(NodeClientError, match="too_big"):
        await ann.call("send", event="message.send", data={"content": "x" * 70_000}, options={"room": ROOM})


async def test_bytes_go_both_ways(ann: NodeClient, server: LiveServer) -> None:
    await come_in(ann, server)
    picture = bytes(range(256))
    encoded = base64.b64encode(picture).decode()
    async with open_node_client() as other:
        await come_in(other, server, "bob")
        assert await ann.call("sendBytes", event="draw", data=encoded, options={"room": ROOM}) == 256
        assert (await other.wait_event("drawn"))["data"] == {"bytes": encoded}


async def test_what_was_missed_is_replayed(ann: NodeClient, server: LiveServer) -> None:
    await come_in(ann, server)
    say = speaker(server)
    say("0")
    await ann.wait_event("message.new", content="0")
    await ann.call("cut")
    sent = await ann.start("send", event="message.send", data={"content": "from ann"}, options={"room": ROOM})
    for content in "123":
        say(content)
    await ann.call("restore")
    for content in "123":
        assert (await ann.wait_event("message.new"))["data"]["content"] == content
    recovered = await ann.wait_event("room.recovered")
    assert recovered["data"] == {"recovered": True, "replayed": 3}
    assert set(await ann.finish(sent)) == {"id"}
    say("4")
    assert (await ann.wait_event("message.new"))["data"]["content"] == "4"


async def test_nothing_missed_is_told_as_well(ann: NodeClient, server: LiveServer) -> None:
    await come_in(ann, server)
    await ann.call("outage", duration=OUTAGE)
    recovered = await ann.wait_event("room.recovered")
    assert recovered["data"] == {"recovered": True, "replayed": 0}


async def test_what_cannot_be_replayed_comes_as_a_state(ann: NodeClient) -> None:
    with serve(history_size=2) as server:
        await come_in(ann, server)
        say = speaker(server)
        say("0")
        await ann.wait_event("message.new", content="0")
        await ann.call("cut")
        for content in "12345":
            say(content)
        await ann.call("restore")
        await ann.wait_event("room.recovered", recovered=False, reason="too_old")
        state = await ann.wait_event("room.state", reason="too_old")
        assert state["data"]["state"] == list("012345")
        say("6")
        assert (await ann.wait_event("message.new"))["data"]["content"] == "6"


async def test_the_first_load_brings_the_state(ann: NodeClient, server: LiveServer) -> None:
    speaker(server)("before")
    await come_in(ann, server, state=True)
    state = await ann.wait_event("room.state", reason="requested")
    assert state["data"]["state"] == ["before"]
    assert await ann.call("send", event="add", data=[1, 2]) == 3
    assert not [event for event in ann.events if event["event"] == "room.state"], "one state, not one after another"


async def test_a_state_in_a_room_already_joined(ann: NodeClient, server: LiveServer) -> None:
    say = speaker(server)
    witness = server.connect("eve")
    await come_in(ann, server)
    witness.receive_until("presence.join", room=ROOM)
    say("before")
    await ann.wait_event("message.new", content="before")
    await ann.call("join", room=ROOM, state=True)
    state = await ann.wait_event("room.state", reason="requested")
    assert state["data"]["state"] == ["before"]
    say("after")
    assert (await ann.wait_event("message.new"))["data"]["content"] == "after"
    seen = [message["event"] for message in witness.events_before("session.rooms")]
    assert seen == ["message.new", "message.new"], "to the others it never left"


async def test_a_cursor_of_many_rooms_is_resumed_later(ann: NodeClient, server: LiveServer) -> None:
    await come_in(ann, server)
    rooms = [f"chat:{'ü' * 40}{n}" for n in range(60)]
    for room in rooms:
        await ann.call("join", room=room)
    say = speaker(server)
    await ann.call("cut")
    say("missed")
    await ann.call("restore")
    await ann.wait_event("message.new", content="missed")
    await ann.wait_event("room.recovered", recovered=True, replayed=1)
    assert set((await ann.call("state"))["rooms"]) == {ROOM, *rooms}


async def test_leaving_lasts_over_a_reconnect(ann: NodeClient, server: LiveServer) -> None:
    await come_in(ann, server)
    await ann.call("leave", room=ROOM)
    await ann.call("outage", duration=OUTAGE)
    await ann.wait_state("waiting")
    await ann.wait_state("open")
    assert await ann.call("fetchRooms") == {}, "the server put it in, the client left again"


@pytest.mark.parametrize(("user", "secret", "code"), [("ann", "w" * 32, "unauthorized"), ("banned", None, "forbidden")])
async def test_refusals_are_final(
    ann: NodeClient, server: LiveServer, user: str, secret: str | None, code: str
) -> None:
    token = make_token(user) if secret is None else make_token(user, secret=secret)
    await ann.connect(server.url, token=token)
    closed = await ann.wait_state("closed")
    assert closed["data"]["error"]["code"] == code


async def test_a_server_that_drains_is_left_and_come_back_to(ann: NodeClient) -> None:
    with serve() as server:
        await come_in(ann, server)
    closing = await ann.wait_event("session.closing")
    assert closing["data"]["reconnect"] is True
    waiting = await ann.wait_state("waiting")
    assert waiting["data"]["code"] == closing["data"]["code"]
    assert waiting["data"]["delay"] >= closing["data"]["retry_after"] * 1000


async def test_a_token_over_the_subprotocol(ann: NodeClient, server: LiveServer) -> None:
    await come_in(ann, server, tokenVia="subprotocol")
    assert (await ann.call("state"))["user"] == "ann"
