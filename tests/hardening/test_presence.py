"""What others learn of a member: its user, what the application tells of it, and nothing else."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tests.server.conftest import Serve
from tests.server.live import Client, make_token


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Person(Strict):
    user: str
    info: Any


class Members(Strict):
    members: list[Person]


class PresenceState(Strict):
    event: Literal["presence.state"]
    room: str
    data: Members


class PresenceChange(Strict):
    event: Literal["presence.join", "presence.leave"]
    room: str
    data: Person


class MembersReply(Strict):
    event: Literal["ack"]
    id: Literal["members"]
    data: Members


PRESENCE: TypeAdapter[PresenceState | PresenceChange | MembersReply] = TypeAdapter(
    Annotated[PresenceState | PresenceChange | MembersReply, Field(discriminator="event")]
)


def up_to(client: Client, event: str) -> list[Any]:
    """All that comes, up to that event."""
    received = [client.receive()]
    while received[-1]["event"] != event:
        received.append(client.receive())
    return received


def test_every_presence_payload_has_the_schema_and_no_one_elses_secrets(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    received = up_to(ann, "presence.state")  # else bob might be in it, and not be told of
    token = make_token("bob")
    bob = server.connect("bob", token=token, query="client=the-client-of-bob", headers={"X-Real-IP": "203.0.113.9"})
    (connection,) = server.node.connections_of("bob")
    peer = connection.peer
    received += up_to(ann, "presence.join")
    bob.request("message.send", {"content": "hi"}, room="chat:general")
    received += ann.events_before("room.members", id="members", room="chat:general")
    bob.connection.socket.close()
    received += up_to(ann, "presence.leave")
    received.append(ann.request("room.members", id="members", room="chat:general"))
    presence = [m for m in received if m["event"].startswith("presence.") or m["event"] == "ack"]
    assert {m["event"] for m in presence} == {"presence.state", "presence.join", "presence.leave", "ack"}
    for message in presence:
        PRESENCE.validate_python(message)
    told = json.dumps([ann.welcome, received])
    for secret in (token, "the-client-of-bob", connection.id, peer, peer.rpartition(":")[2], "203.0.113.9"):
        assert secret not in told


def test_the_list_of_members_is_for_members_and_for_rooms_that_keep_it(serve: Serve) -> None:
    server = serve()
    server.connect("bob")
    outsider = server.connect("nobody")
    assert outsider.request("room.members", room="chat:general")["data"]["code"] == "not_joined"
    assert outsider.request("room.join", room="news:world")["event"] == "ack"
    refused = outsider.request("room.members", room="news:world")["data"]
    assert refused == {"code": "forbidden", "message": "this room keeps no list of its members"}
    # Nor is anything of it told without being asked for.
    assert [m for m in outsider.events_before("whoami") if m["event"].startswith("presence.")] == []
