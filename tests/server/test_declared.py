"""Declared events on a running node: by handle and by name, to a room and to one client, and by a router."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from roomwire import App, Connection, DeclarationError, Event, LocalError, Router
from tests.server.live import LiveServer, live_server


class Note(BaseModel):
    text: str


SHARED = Event("shared", Note)


def make_app() -> tuple[App, Event[Note]]:
    app, router = App(), Router(event_prefix="note.", room_prefix="board:")
    new = router.event("new", Note, room="{name}")
    app.include(router)
    assert app.event(SHARED) is SHARED

    @app.on_connect
    async def rooms(connection: Connection) -> list[str]:
        return ["board:a"]

    @app.on("try")
    async def attempt(connection: Connection, how: str) -> str:
        try:
            if how == "handle":
                await new.publish(Note(text=how), name="a")
            elif how == "name":
                await app.publish("board:a", "note.new", {"text": how})
            elif how == "given":
                await router.publish("board:a", new, Note(text=how))
            elif how == "send":
                await connection.send(new, Note(text=how), room="board:a")
            elif how == "undeclared":
                await app.publish("elsewhere", "other", {"text": 7})
            elif how == "wrong name":
                await app.publish("board:a", "note.new", {"text": 7})
            elif how == "wrong send":
                await connection.send("note.new", {})
            elif how == "wrong room":
                await app.publish("elsewhere", "note.new", {"text": how})
            else:
                await new.publish(Note(text=how), nmae="a")
        except LocalError as error:
            return f"{type(error).__name__}: {error}"
        return "done"

    return app, new


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server(make_app()[0]) as server:
        yield server


@pytest.mark.parametrize("how", ["handle", "name", "given", "send"])
def test_who_is_in_the_room_gets_it(server: LiveServer, how: str) -> None:
    client = server.connect("ann")
    assert client.request("try", how)["data"] == "done"
    messages = [message for message in client.events_before("try", "handle") if message["event"] == "note.new"]
    if how != "send":  # by now it came, before its ack or behind it
        messages = messages or [client.receive_until("note.new")]
        assert messages[0]["id"]
    assert all((message["room"], set(message["data"])) == ("board:a", {"text"}) for message in messages)
    client.close()


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("undeclared", "done"),
        ("wrong name", "InvalidData: the data of note.new does not fit its declaration: text: Input should be a valid"),
        ("wrong send", "InvalidData: the data of note.new does not fit its declaration: text: Field required"),
        ("wrong room", "LocalError: note.new is declared for the rooms board:{name}, not for elsewhere"),
        ("wrong parameter", "LocalError: the room pattern 'board:{name}' needs name"),
    ],
)
def test_its_publisher_is_told_what_does_not_fit(server: LiveServer, how: str, error: str) -> None:
    client = server.connect("bob")
    assert client.request("try", how)["data"].startswith(error)
    assert not any(message["event"] == "note.new" for message in client.events_before("try", "undeclared"))
    client.close()


def test_an_event_is_declared_once_for_a_room() -> None:
    app, _ = make_app()
    with pytest.raises(DeclarationError, match=r"note\.new is declared twice"):
        app.event("note.new", str, room="board:{other}")
    with pytest.raises(DeclarationError, match="says itself"):
        app.event(SHARED, Note)  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match="option of publish"):
        app.event("e", Note, room="doc:{key}")
