"""Events in rooms: who gets what, over every shell."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from roomwire import Connection
from roomwire.core.errors import EventTooLarge
from roomwire.core.policy import RoomPolicy
from roomwire.core.publication import Publication
from roomwire.protocols.contract import Message
from roomwire.protocols.native import NativeProtocol
from tests.server.chat import Log, make_app
from tests.server.conftest import Serve
from tests.server.live import Client, LiveServer, Shell

pytestmark = [pytest.mark.wire, pytest.mark.every_host]


def named(events: list[object], name: str) -> list[dict[str, object]]:
    return [event for event in events if isinstance(event, dict) and event["event"] == name]


def test_a_message_reaches_the_others_and_its_sender_gets_the_ack(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    ack = ann.request("message.send", {"content": "hi"}, room="chat:general", id="m1")
    event = bob.receive_until("message.new")
    assert event["data"] == {"from": "ann", "content": "hi"}
    assert event["room"] == "chat:general"
    assert event["user"] == "ann"
    assert ack["data"] == {"id": event["id"]}
    # Excluded: nothing but presence came to the sender.
    assert {message["event"] for message in ann.events_before("whoami")} <= {"presence.state", "presence.join"}


def test_an_event_for_all_reaches_its_sender_too(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    ann.send("everyone", {"n": 1}, room="chat:general")
    assert ann.receive_until("told")["id"] == bob.receive_until("told")["id"]


def test_many_events_come_in_order_to_all(server: LiveServer) -> None:
    clients = [server.connect(f"user-{number}") for number in range(5)]
    clients[0].send("publish", {"times": 500}, room="chat:general")  # whose answer may come before them, or behind
    for client in clients:
        offsets: list[Any] = []
        while len(offsets) < 500:
            message = client.receive()
            if message["event"] == "told":
                offsets.append(int(message["id"].partition(":")[2]))
        assert offsets == list(range(1, 501))


def test_binary_events_go_both_ways(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    header = json.dumps({"event": "draw", "room": "chat:general", "id": "d1"}).encode()
    ann.connection.send(len(header).to_bytes(4, "big") + header + b"\x00\x01\xff")
    assert ann.receive_until("ack", id="d1")["data"] == 3
    frame = next(message for message in iter(bob.receive, None) if isinstance(message, bytes))
    size = int.from_bytes(frame[:4], "big")
    fields = json.loads(frame[4 : 4 + size])
    assert fields.pop("id") == f"{bob.welcome['rooms']['chat:general']['position'].partition(':')[0]}:1"
    assert fields == {"event": "drawn", "room": "chat:general", "user": "ann"}
    assert frame[4 + size :] == b"\x00\x01\xff"


def test_a_binary_message_to_a_handler_of_json_is_invalid(serve: Serve) -> None:
    ann = serve().connect("ann")
    header = b'{"event":"add","id":"d1"}'
    ann.connection.send(len(header).to_bytes(4, "big") + header + b"\x00")
    assert ann.receive_until("error", id="d1")["data"] == {
        "code": "invalid",
        "message": "add takes JSON, not bytes",
    }


def test_an_ephemeral_event_has_no_id_and_moves_nothing(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    ann.request("typing", room="chat:general")
    event = bob.receive_until("typing")
    assert "id" not in event
    assert event["data"] == {"from": "ann"}
    rooms = bob.request("session.rooms")["data"]["rooms"]
    assert rooms["chat:general"] == {"position": bob.welcome["rooms"]["chat:general"]["position"]}
    # It is not kept either.
    position = bob.welcome["rooms"]["chat:general"]["position"]
    late = server.connect("late", query=f"last_event_id=chat:general@{position}")
    assert late.welcome["rooms"]["chat:general"] == {"position": position, "recovered": True}
    assert not named(late.events_before("whoami"), "typing")


def test_another_users_client_is_not_excluded_for_having_the_same_id(server: LiveServer) -> None:
    """A tab keeps its client id when somebody else signs in, and anybody may choose anybody's (ADR 0006)."""
    ann = server.connect("ann", query="client=one-and-the-same")
    bob = server.connect("bob", query="client=one-and-the-same")
    position = bob.welcome["rooms"]["chat:general"]["position"]
    sent = ann.request("message.send", {"content": "hello"}, room="chat:general")["data"]["id"]
    assert bob.receive_until("message.new")["id"] == sent
    assert not named(ann.events_before("session.rooms"), "message.new")
    # In a replay as well.
    query = f"client=one-and-the-same&last_event_id=chat:general@{position}"
    assert server.connect("bob", query=query).receive()["id"] == sent
    assert not named(server.connect("ann", query=query).events_before("session.rooms"), "message.new")


def test_who_shares_an_excluded_id_gets_the_block_of_all(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a hundred who chose the sender's id would cost an encoding each."""
    server = serve(rooms={"chat:*": RoomPolicy()})
    clients = [server.connect(f"user-{number}", query="client=one-and-the-same") for number in range(10)]
    encoded = []
    broadcast = NativeProtocol.broadcast

    def counting(protocol: NativeProtocol, publication: Publication) -> Message:
        encoded.append(publication.id)
        return broadcast(protocol, publication)

    monkeypatch.setattr(NativeProtocol, "broadcast", counting)
    sent = clients[0].request("message.send", {"content": "hello"}, room="chat:general")["data"]["id"]
    for client in clients[1:]:
        assert client.receive_until("message.new")["id"] == sent
    assert encoded == [sent]


def test_a_client_id_names_a_client_of_the_user_whose_message_is_handled(serve: Serve) -> None:
    app = make_app()

    @app.on("by.id", room="chat:{channel}")
    async def publish_by_id(connection: Connection, client: str, channel: str) -> None:
        await app.publish(f"chat:{channel}", "told", exclude=client)

    server = serve(app=app)
    query = "client=one-and-the-same"
    ann, bob, phone = (server.connect(user, query=q) for user, q in (("ann", query), ("bob", query), ("ann", "")))
    phone.request("by.id", "one-and-the-same", room="chat:general")
    assert named(bob.events_before("session.rooms"), "told")
    assert named(phone.events_before("session.rooms"), "told")
    assert not named(ann.events_before("session.rooms"), "told")


def test_where_no_user_acts_a_client_id_names_that_client_of_any_user(serve: Serve) -> None:
    server = serve()
    ann, bob, eve = (server.connect(user, query=f"client=client-of-{user[0]}") for user in ("ann", "anton", "eve"))
    server.act(server.node.app.publish, "chat:general", "told", exclude="client-of-a")
    assert named(eve.events_before("session.rooms"), "told")
    for client in (ann, bob):
        assert not named(client.events_before("session.rooms"), "told")


def test_a_message_to_a_room_that_one_is_not_in(serve: Serve) -> None:
    ann = serve().connect("ann")
    error = ann.request("message.send", {"content": "hi"}, room="chat:other")
    assert error["data"] == {"code": "not_joined", "message": "join the room first"}


def test_members_of_a_broadcast_only_room_do_not_publish(serve: Serve) -> None:
    ann = serve().connect("ann")
    ann.request("room.join", room="news:world")
    assert ann.request("news.send", room="news:world")["data"]["code"] == "forbidden"


def test_who_left_gets_nothing_more(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    bob.request("room.leave", room="chat:general")
    ann.request("message.send", {"content": "hi"}, room="chat:general")
    assert not named(bob.events_before("whoami"), "message.new")
    assert bob.request("session.rooms")["data"] == {"rooms": {}}


def test_an_event_that_is_too_large_is_an_error_to_its_publisher_alone(serve: Serve) -> None:
    server = serve()
    bob = server.connect("bob")
    # Each quote takes two bytes as JSON: bytes are counted, not characters.
    data = '"' * 65_000
    with_envelope = server.call(server.node.app.publish, "chat:general", "told", data)
    assert with_envelope.id is not None
    assert bob.receive_until("told")["data"] == data
    with pytest.raises(EventTooLarge, match=r"limits\.max_event_size is 131072"):
        server.call(server.node.app.publish, "chat:general", "told", '"' * 65_536)


def position_in(client: Client, room: str = "chat:general") -> str:
    position = client.request("session.rooms")["data"]["rooms"][room]["position"]
    assert isinstance(position, str)
    return position


def test_the_position_of_session_rooms_is_that_of_the_last_event(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    ids = ann.request("publish", {"times": 3}, room="chat:general")["data"]
    for id_ in ids:
        bob.receive_until("told", id=id_)
    assert position_in(bob) == ids[-1]
    # Also for who was excluded from it.
    sent = ann.request("message.send", {"content": "hi"}, room="chat:general")["data"]["id"]
    bob.receive_until("message.new", id=sent)
    assert position_in(ann) == sent


def test_what_was_sent_before_the_close_is_handled(server: LiveServer) -> None:
    """A client may send and leave: what came before the orderly end has the rights of that moment."""
    ann, bob = server.connect("ann"), server.connect("bob")
    for number in range(20):
        ann.send("message.send", {"content": str(number)}, room="chat:general")
    ann.close()
    got = [bob.receive_until("message.new")["data"]["content"] for _ in range(20)]
    assert got == [str(number) for number in range(20)]


def test_no_position_is_told_while_a_state_is_awaited(shell: Shell, serve: Serve) -> None:
    """A client that took it over and lost its link would be proven, and never get the state (section 5)."""
    log = Log()
    server = serve(shell, app=make_app(log))
    computed, go_on = anyio.Event(), anyio.Event()

    async def slow_state(channel: str) -> list[Any]:
        computed.set()
        await go_on.wait()
        return []

    log.snapshot = slow_state
    client = server.connect(query="last_event_id=chat%253Ageneral%40another:7")
    assert client.welcome["rooms"]["chat:general"]["reason"] == "epoch"
    server.call(computed.wait)
    rooms = client.request("session.rooms")["data"]["rooms"]
    server.call(go_on.set)
    assert (rooms["chat:general"] or {}).get("position") is None
