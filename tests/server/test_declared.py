"""Declared events on a running node: by handle and by name, to a room and to one client, by a router, and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel, Field

from roomwire import App, Connection, DeclarationError, Event, LocalError, Router
from roomwire.config import ApiSettings
from roomwire.node.api import PublishApi
from tests.server.live import LiveServer, live_server
from tests.server.publishing import KEY, post


class Note(BaseModel):
    text: str


class Signed(BaseModel):
    author: str = Field(serialization_alias="by")


SHARED = Event("shared", Note)


def make_app() -> tuple[App, Event[Note]]:
    app, router = App(), Router(event_prefix="note.", room_prefix="board:")
    new = router.event("new", Note, room="{name}")
    signed = app.event("signed", Signed, room="board:{name}")
    app.include(router)
    assert app.event(SHARED) is SHARED

    @app.on_connect
    async def rooms(connection: Connection) -> list[str]:
        return ["board:a"]

    @app.on("sign")
    async def sign(connection: Connection, author: str) -> Signed:
        await connection.send(signed, Signed(author=author), room="board:a")
        await signed.publish(Signed(author=author), name="a")
        return Signed(author=author)

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
            elif how == "wrong handle sent":
                await connection.send(new, {"text": 7}, room="board:a")  # type: ignore[misc]
            elif how == "handle sent elsewhere":
                await connection.send(new, Note(text=how), room="elsewhere")
            elif how == "wrong handle":
                await new.publish({"text": 7}, name="a")  # type: ignore[arg-type]
            elif how == "handle given elsewhere":
                await app.publish("elsewhere", new, Note(text=how))
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
        server.node.api = PublishApi(server.node, ApiSettings.model_validate({"keys": [KEY]}))
        yield server


@pytest.mark.parametrize("how", ["handle", "name", "given", "send"])
def test_who_is_in_the_room_gets_it(server: LiveServer, how: str) -> None:
    client = server.connect("ann")
    client.send("try", how, id="t1")
    message = client.receive_until("note.new", room="board:a", data={"text": how})
    assert ("id" in message) is (how != "send")  # what is sent to one client is not stored
    client.close()


def test_all_that_the_server_writes_has_the_names_of_the_aliases(server: LiveServer) -> None:
    client = server.connect("sig")
    client.send("sign", "ann", id="s1")
    told = [client.receive_until("signed") for _ in range(2)]
    assert sorted("id" in message for message in told) == [False, True]
    assert [message["data"] for message in told] == [{"by": "ann"}] * 2
    assert client.request("sign", "bob")["data"] == {"by": "bob"}
    client.close()


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("undeclared", "done"),
        ("wrong name", "InvalidData: the data of note.new does not fit its declaration: text: Input should be a valid"),
        ("wrong send", "InvalidData: the data of note.new does not fit its declaration: text: Field required"),
        (
            "wrong handle sent",
            "InvalidData: the data of note.new does not fit its declaration: text: Input should be a",
        ),
        ("handle sent elsewhere", "LocalError: note.new is declared for the rooms board:{name}, not for elsewhere"),
        (
            "wrong handle",
            "InvalidData: the data of note.new does not fit its declaration: text: Input should be a valid",
        ),
        ("handle given elsewhere", "LocalError: note.new is declared for the rooms board:{name}, not for elsewhere"),
        ("wrong room", "LocalError: note.new is declared for the rooms board:{name}, not for elsewhere"),
        ("wrong parameter", "LocalError: the room pattern 'board:{name}' needs name"),
    ],
)
def test_its_publisher_is_told_what_does_not_fit(server: LiveServer, how: str, error: str) -> None:
    client = server.connect("bob")
    assert client.request("try", how)["data"].startswith(error)
    assert not any(message["event"] == "note.new" for message in client.events_before("try", "undeclared"))
    client.close()


class TestOverHttp:
    def test_what_fits_is_written_as_the_type_says(self, server: LiveServer) -> None:
        client = server.connect("http")
        response = post(server, {"room": "board:a", "event": "note.new", "data": {"text": "hi", "more": 1}})
        assert response.status == 200
        assert client.receive_until("note.new", id=response.json["id"])["data"] == {"text": "hi"}
        client.close()

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (
                {"data": {"text": 4711}},
                "the data of note.new does not fit its declaration: text: Input should be a valid",
            ),
            ({"data": None}, "the data of note.new does not fit its declaration: Input should be a valid"),
            ({"data_base64": "AAAA"}, "it takes JSON, not bytes"),
            ({"room": "elsewhere", "data": {"text": "hi"}}, "declared for the rooms board:{name}, not for elsewhere"),
        ],
    )
    @pytest.mark.parametrize("history", [True, False])
    def test_what_does_not_fit_is_400_and_nothing_is_published(
        self, server: LiveServer, change: dict[str, object], text: str, history: bool
    ) -> None:
        room = str(change.get("room", "board:a"))
        good = {"room": room, "event": "fence", "data": None}
        before = post(server, good).json["id"]
        client = server.connect("refused")
        response = post(server, {"room": room, "event": "note.new", "history": history, **change})
        assert (response.status, response.json["error"]) == (400, "invalid")
        assert text in response.json["detail"]
        assert "4711" not in response.json["detail"]
        epoch, _, number = before.partition(":")
        assert post(server, good).json["id"] == f"{epoch}:{int(number) + 1}"  # it stored nothing
        post(server, {**good, "room": "board:a"})
        assert not any(message["event"] == "note.new" for message in client.events_before("try", "undeclared"))
        client.close()

    def test_of_a_batch_what_fits_is_published(self, server: LiveServer) -> None:
        batch = [{"room": "board:a", "event": "note.new", "data": data} for data in ({"text": "hi"}, {})]
        response = post(server, batch)
        assert response.status == 207
        good, bad = response.json
        assert good["id"]
        assert "text: Field required" in bad["detail"]


def test_an_event_is_declared_once_for_a_room() -> None:
    app, _ = make_app()
    with pytest.raises(DeclarationError, match=r"note\.new is declared twice"):
        app.event("note.new", str, room="board:{other}")
    with pytest.raises(DeclarationError, match="says itself"):
        app.event(SHARED, Note)  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match="option of publish"):
        app.event("e", Note, room="doc:{key}")
