"""Every text of an `error`, and faults that end one connection and no other."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from roomwire.core.commands import Command
from roomwire.core.notices import Notice, Welcome
from roomwire.core.publication import Publication
from roomwire.protocols.contract import Codec, Message
from roomwire.protocols.native import NativeProtocol
from tests.server.conftest import Serve
from tests.server.live import Client, LiveServer
from tests.server.watching import until

pytestmark = pytest.mark.wire

FAILED = "the server failed; it has been logged"

TABLE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # event, what is sent besides, the error's data
    ("nobody.knows", {}, {"code": "unknown_event", "message": "nobody handles this event: nobody.knows"}),
    ("message.send", {}, {"code": "unknown_event", "message": "the event is not for this room: message.send"}),
    (
        "message.send",
        {"room": "news:world"},
        {"code": "unknown_event", "message": "the event is not for this room: message.send"},
    ),
    ("everyone", {"room": "chat:other"}, {"code": "not_joined", "message": "join the room first"}),
    ("room.members", {"room": "chat:other"}, {"code": "not_joined", "message": "join the room first"}),
    ("room.join", {"room": "chat:secret"}, {"code": "forbidden", "message": "not allowed in this room"}),
    ("room.join", {"room": "chat:broken"}, {"code": "internal", "message": FAILED}),
    (
        "room.join",
        {"room": "chat:full"},
        {"code": "app.full", "message": "the room is full", "details": {"seats": 10}},
    ),
    (
        "room.join",
        {"room": "chat:general", "data": {"since": "nonsense"}},
        {
            "code": "invalid",
            "message": "a position is EPOCH:OFFSET, 1 to 24 letters or digits and 1 to 16 digits",
        },
    ),
    (
        "room.join",
        {"room": "chat:general", "data": {"since": "a:1"}},
        {"code": "conflict", "message": "in the room already"},
    ),
    ("room.joined", {}, {"code": "invalid", "message": "room.joined is a reserved name that clients do not send"}),
    ("ack", {}, {"code": "invalid", "message": "ack is a reserved name that clients do not send"}),
    ("crash", {}, {"code": "internal", "message": FAILED}),
    ("liar", {}, {"code": "internal", "message": FAILED}),
    ("huge", {}, {"code": "internal", "message": FAILED}),
    ("stray", {}, {"code": "internal", "message": FAILED}),
    ("refuse.badly", {}, {"code": "internal", "message": FAILED}),
    ("refuse", {}, {"code": "app.too_late", "message": "the game is over", "details": {"since": 3}}),
    (
        "add",
        {"data": [1, "two"]},
        {
            "code": "invalid",
            "message": "the data does not fit the event's schema",
            "details": [{"loc": [1], "type": "int_parsing"}],
        },
    ),
    (
        "message.send",
        {"room": "chat:general", "data": {}},
        {
            "code": "invalid",
            "message": "the data does not fit the event's schema",
            "details": [{"loc": ["content"], "type": "missing"}],
        },
    ),
]


@pytest.mark.parametrize(("event", "fields", "expected"), TABLE)
def test_every_error_is_one_of_a_fixed_set(
    serve: Serve, event: str, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    ann = serve().connect("ann")
    error = ann.request(event, fields.get("data"), **{k: v for k, v in fields.items() if k != "data"})
    assert error["event"] == "error"
    assert error["data"] == expected
    # The connection goes on.
    assert ann.request("whoami")["event"] == "ack"


@pytest.mark.parametrize(
    ("frame", "message", "id_"),
    [
        ("", "a message is one JSON object", None),
        ("[]", "a message is one JSON object", None),
        ("{}", "event is required: 1 to 128 characters of A-Z a-z 0-9 . _ : -", None),
        ('{"event":"a","event":"b"}', "the field event stands there twice", None),
        ('{"id":"x","event":"a","other":1}', "an unknown field; a message has event, data, id and room", "x"),
        ('{"event":"a","data":NaN}', "NaN is not JSON", None),
        ('{"event":"a","data":' + "[" * 70 + "]" * 70 + "}", "nested deeper than 64 levels", None),
        (b"\x00", "a binary message begins with a 4-byte header length of 1 to 4096", None),
        (b'\x00\x00\x00\x15{"event":"room.leave"}', "not JSON as RFC 8259 has it", None),
    ],
)
def test_every_message_that_cannot_be_read_is_answered(
    serve: Serve, frame: str | bytes, message: str, id_: str | None
) -> None:
    ann = serve().connect("ann")
    ann.connection.send(frame)
    error = ann.receive_until("error")
    assert error["data"] == {"code": "invalid", "message": message}
    assert error.get("id") == id_


def test_the_traceback_goes_to_the_log_alone(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    serve().connect("ann").request("crash")
    (record,) = [record for record in caplog.records if record.name == "roomwire"]
    assert record.exc_info is not None
    assert "a secret of the database" in str(record.exc_info[1])
    assert record.roomwire["where"].endswith("crash")  # type: ignore[attr-defined]


def test_what_was_cancelled_in_a_handler_does_not_end_its_worker(serve: Serve) -> None:
    """asyncio shows a handler the same exception as it shows a task that is cancelled."""
    server = serve()
    ann = server.connect("ann")
    assert ann.request("stray")["data"]["code"] == "internal"
    assert ann.request("whoami")["event"] == "ack"


# --- faults on the account of one connection


class Faulty(NativeProtocol):
    """A codec with faults, as an adapter may have."""

    name = "faulty.v1"

    def __init__(self) -> None:
        self.where = ""

    def new_codec(self) -> Codec:
        return self

    def receive(self, message: Message) -> Sequence[Command]:
        if "fail on receive" in str(message):
            raise RuntimeError("a fault of the codec")
        return super().receive(message)

    def send(self, notice: Notice) -> Sequence[Message]:
        if self.where == type(notice).__name__:
            raise RuntimeError("a fault of the codec")
        return super().send(notice)

    def broadcast(self, publication: Publication) -> Message:
        if b"fail on broadcast" in publication.data:
            raise RuntimeError("a fault of the codec")
        return super().broadcast(publication)


def connect_faulty(server: LiveServer, user: str = "eve", **options: Any) -> Client:
    return server.connect(user, subprotocols=["faulty.v1"], **options)


@pytest.fixture
def faulty() -> Faulty:
    return Faulty()


@pytest.fixture
def mixed(shell: Any, serve: Serve, faulty: Faulty) -> LiveServer:
    """A server of two protocols, one of them faulty."""
    return serve(shell, protocols=[NativeProtocol(), faulty])


def test_a_fault_in_receiving_ends_its_connection_alone(mixed: LiveServer) -> None:
    ann, eve = mixed.connect("ann"), connect_faulty(mixed)
    eve.send("fail on receive")
    assert eve.closed() == (1011, "internal error")
    assert ann.request("whoami")["event"] == "ack"


@pytest.mark.parametrize("notice", ["Reply", "RoomState", "MembersState", "JoinReply", "MembersReply"])
def test_a_fault_in_telling_ends_its_connection_alone(serve: Serve, faulty: Faulty, notice: str) -> None:
    mixed = serve(protocols=[NativeProtocol(), faulty])
    ann, eve = mixed.connect("ann"), connect_faulty(mixed, "nobody")
    faulty.where = notice

    def ask() -> None:
        # On the server's own loop: it closes when it has seen the first, and a client that is closed cannot send.
        eve.send("room.join", {"state": True}, room="chat:general", id="j")
        eve.send("room.members", room="chat:general", id="m")
        eve.send("whoami", id="w")

    mixed.call(ask)
    assert eve.closed() == (1011, "internal error")
    assert ann.request("whoami")["event"] == "ack"


def test_a_fault_in_the_welcome_ends_its_connection_alone(mixed: LiveServer, faulty: Faulty) -> None:
    ann = mixed.connect("ann")
    faulty.where = Welcome.__name__
    eve = connect_faulty(mixed, welcome=False)
    assert eve.closed()[0] in (1011, 1006)
    faulty.where = ""
    assert ann.request("whoami")["event"] == "ack"
    until(mixed, lambda: len(mixed.node.connections) == 1)


def test_an_event_that_cannot_be_written_is_dropped_and_the_fan_out_goes_on(
    mixed: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    ann, eve = mixed.connect("ann"), connect_faulty(mixed)
    mixed.publish(data="fail on broadcast")
    mixed.publish(data="fine")
    assert ann.receive_until("told")["data"] == "fail on broadcast"
    assert eve.receive_until("told")["data"] == "fine"
    assert "could not be written and was dropped" in caplog.text


def test_a_body_that_cannot_be_read_is_dropped_and_logged_once(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    from roomwire.backplanes.contract import HistoryPolicy

    server = serve()
    ann = server.connect("ann")
    for body in (b"", b"\x09", b"\x01\x00\x02{}", b"\x80\x04pickle"):
        server.call(server.node.backplane.publish, "chat:general", body, key=None, policy=HistoryPolicy())
    server.publish(data="fine")
    assert ann.receive_until("told")["data"] == "fine"
    assert caplog.text.count("a body from the backplane was dropped") == 1
    assert server.node.hub.dropped == 4


# --- faults of the node itself


def test_a_fault_in_the_nodes_own_callback_makes_serve_raise(shell: Any, serve: Serve) -> None:
    server = serve(shell)
    server.connect("ann")

    def fail() -> None:
        raise RuntimeError("a fault of the node")

    server.call(server.node.runtime.call_soon, fail)
    assert str(server.failure()) == "a fault of the node"


def test_a_fault_in_a_task_of_the_node_makes_serve_raise(shell: Any, serve: Serve) -> None:
    server = serve(shell)

    async def fail() -> None:
        raise RuntimeError("a fault of the node")

    server.call(server.node.spawn, fail)
    assert str(server.failure()) == "a fault of the node"


def test_a_fault_in_the_sink_is_the_nodes_and_not_the_publishers(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    server.connect("ann")

    def fail(*arguments: Any) -> None:
        raise RuntimeError("a fault of the node")

    monkeypatch.setattr(server.node.hub, "pass_on", fail)
    server.publish()
    assert str(server.failure()) == "a fault of the node"


def test_a_control_message_that_cannot_be_read_is_dropped_and_logged_once(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    bodies = [b"", b"\x02{}", b"\x01", b"\x01{}", b'\x01{"do":"other"}', b'\x01{"do":"disconnect","user":1}']
    bodies.append(b"\x01" + json.dumps({"do": "evict", "connection": "x", "more": 1}).encode())
    for body in bodies:
        server.call(server.node.hub.told, body)
    records = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [record.getMessage() for record in records] == ["a control message that cannot be read was dropped"]
    assert server.node.control.dropped == len(bodies)
