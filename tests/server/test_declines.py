"""What a client asked for and did not get: one line at debug, with the cause that the client is not told."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from roomwire import Connection
from roomwire.core.limits import Limits
from roomwire.logs import JsonFormatter
from roomwire.node import journal
from tests.server.chat import Log, make_app
from tests.server.conftest import ROOMS
from tests.server.live import SHELLS, Client, LiveServer, live_server

SECRET = "not for any log"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    log = Log()
    log.auto["ann"] = ["chat:general", "news:today"]
    with live_server(make_app(log), SHELLS["callback-asyncio"], rooms=ROOMS, limits=Limits(rooms=4)) as server:
        yield server


@pytest.fixture
def ann(server: LiveServer) -> Iterator[Client]:
    client = server.connect("ann")
    yield client
    client.close()


def declined(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    records = [record for record in caplog.records if record.getMessage() == "decline"]
    assert {(record.name, record.levelno) for record in records} <= {("roomwire.access", logging.DEBUG)}
    assert SECRET not in "".join(map(JsonFormatter().format, records))
    return [record.roomwire for record in records]  # type: ignore[attr-defined]


JOINS = [
    # room, code, cause
    ("chta:general", "forbidden", "no room pattern matches"),
    ("chat:secret", "forbidden", "the policy may_join refused"),
    ("numbered:x", "forbidden", "the room's name does not fit the parameters of the policy may_count"),
    ("chat:full", "app.full", "raised in the policy may_join"),
]


@pytest.mark.parametrize(("room", "code", "cause"), JOINS)
def test_a_join(ann: Client, caplog: pytest.LogCaptureFixture, room: str, code: str, cause: str) -> None:
    caplog.set_level(logging.DEBUG, "roomwire.access")
    told = ann.request("room.join", room=room)["data"]
    assert told["code"] == code
    assert cause not in str(told), "the client is not told"
    (entry,) = declined(caplog)
    assert (entry["user"], entry["asked"], entry["room"], entry["code"]) == ("ann", "room.join", room, code)
    assert cause_of(entry) == cause


def cause_of(entry: dict[str, Any]) -> str:
    """The cause, with the functions' short names: theirs have where they were declared."""
    return " ".join(word.rpartition(".")[2] for word in str(entry["cause"]).split(" "))


def test_rooms_of_a_cursor_and_of_a_resume(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "roomwire.access")
    bob = server.connect("bob", query="last_event_id=chta:a@a:1,chat:secret@a:1")
    bob.request("session.resume", {"rooms": {"chta:b": "a:1"}})
    bob.close()
    found = [(entry["asked"], entry["room"], cause_of(entry)) for entry in declined(caplog)]
    assert found == [
        ("connect", "chta:a", "no room pattern matches"),
        ("connect", "chat:secret", "the policy may_join refused"),
        ("session.resume", "chta:b", "no room pattern matches"),
    ]


EVENTS = [
    # event, room, code, cause
    ("message.sent", "chat:general", "unknown_event", "nobody handles this event"),
    ("message.send", None, "unknown_event", "the event is not for this room"),
    ("message.send", "chat:general", "invalid", "it does not fit what this takes: send_message"),
    ("everyone", "chat:other", "not_joined", "the connection is not in the room"),
    ("room.members", "chat:other", "not_joined", "the connection is not in the room"),
    ("news.send", "news:today", "forbidden", "the room is broadcast_only"),
    ("refuse", None, "app.too_late", "raised in refuse"),
]


@pytest.mark.parametrize(("event", "room", "code", "cause"), EVENTS)
def test_an_event(
    ann: Client, caplog: pytest.LogCaptureFixture, event: str, room: str | None, code: str, cause: str
) -> None:
    caplog.set_level(logging.DEBUG, "roomwire.access")
    data = None if event.startswith("room.") else {SECRET: SECRET}
    assert ann.request(event, data, **({} if room is None else {"room": room}))["data"]["code"] == code
    (entry,) = declined(caplog)
    assert (entry["user"], entry["asked"], entry["room"], entry["code"]) == ("ann", event, room, code)
    assert cause_of(entry) == cause


def test_names_are_as_long_as_the_protocol_lets_them(ann: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "roomwire.access")
    told = ann.request("e" * 128)["data"]["message"]
    assert told == "nobody handles this event: " + "e" * 128
    assert ann.request("e" * 129)["data"]["code"] == "invalid"
    (entry,) = declined(caplog)
    assert entry["asked"] == "e" * 128


def test_more_rooms_than_allowed(ann: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "roomwire.access")
    for number in range(3):
        ann.request("room.join", room=f"news:{number}")
    (entry,) = declined(caplog)
    assert (entry["room"], entry["code"]) == ("news:2", "too_many_rooms")


def test_what_succeeds_is_not_looked_at(
    ann: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = journal.declined

    def declining(connection: Connection, asked: str, *rest: Any) -> None:
        calls.append(asked)
        real(connection, asked, *rest)

    monkeypatch.setattr(journal, "declined", declining)
    caplog.set_level(logging.INFO, "roomwire.access")
    ann.request("message.send", {"content": "hi"}, room="chat:general")
    ann.request("room.join", room="news:other")
    assert (calls, declined(caplog)) == ([], [])
    ann.request("message.sent")
    assert (calls, declined(caplog)) == (["message.sent"], []), "debug is off"
