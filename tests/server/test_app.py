"""What an application declares, and where it may act."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from roomwire import App, Connection
from roomwire.app import Member
from roomwire.core.errors import DeclarationError, LocalError, Unavailable
from roomwire.core.publication import Publication
from tests.server.chat import Log, make_app
from tests.server.conftest import ROOMS, Serve
from tests.server.live import LiveServer, live_cluster


class Message(BaseModel):
    text: str


# --- declarations: what is wrong fails at once, with the names


def test_an_event_of_the_protocol_cannot_be_declared() -> None:
    for name in ("room.join", "session.x", "presence.state", "ack", "error", "heartbeat"):
        with pytest.raises(DeclarationError, match="belongs to the protocol"):
            App().on(name)


def test_a_wrong_event_name_cannot_be_declared() -> None:
    with pytest.raises(DeclarationError, match="is no event name"):
        App().on("a b")


def test_a_handler_is_no_generator() -> None:
    with pytest.raises(DeclarationError, match=r"handler is a generator: it has to be an async def or a def"):

        @App().on("x")
        def handler(connection: Connection) -> Any:
            yield


def test_a_pattern_and_its_handler_name_the_same_parameters() -> None:
    with pytest.raises(DeclarationError, match=r"the pattern names channel, and .*handler has no such parameter"):

        @App().on("x", room="chat:{channel}")
        async def handler(connection: Connection, message: Message) -> None: ...

    with pytest.raises(DeclarationError, match="takes connection, one, two"):

        @App().on("x")
        async def other(connection: Connection, one: Message, two: Message) -> None: ...


def test_two_handlers_of_one_event_are_a_tie() -> None:
    app = App()

    @app.on("x")
    async def one(connection: Connection) -> None: ...

    with pytest.raises(DeclarationError, match=r"x is handled by .*one \(.*test_app, line \d+\) and by .*two \("):

        @app.on("x")
        async def two(connection: Connection) -> None: ...


def test_two_patterns_that_nothing_decides_between_are_a_tie() -> None:
    app = App()

    @app.room("chat:{channel}")
    async def one(connection: Connection, channel: str) -> bool:
        return True

    with pytest.raises(DeclarationError, match="can match the same room"):

        @app.room("chat:{other}")
        async def two(connection: Connection, other: str) -> bool:
            return True


def test_a_snapshot_is_shared_and_takes_no_connection() -> None:
    with pytest.raises(DeclarationError, match="shared by all who ask"):

        @App().snapshot("chat:{channel}")
        async def state(connection: Connection, channel: str) -> None: ...


def test_hooks_are_declared_once() -> None:
    app = make_app()
    with pytest.raises(DeclarationError, match="on_connect is declared twice"):

        @app.on_connect
        async def connect(connection: Connection) -> None: ...

    with pytest.raises(DeclarationError, match="on_disconnect is declared twice"):

        @app.on_disconnect
        async def disconnect(connection: Connection) -> None: ...


def test_decorators_give_the_function_back() -> None:
    app = App()

    async def handler(connection: Connection) -> None: ...

    assert app.on("x")(handler) is handler
    assert app.on_disconnect(handler) is handler


# --- acting


@pytest.mark.anyio
async def test_acting_needs_a_node() -> None:
    for act in (App().publish("room", "x"), App().members("room"), App().disconnect("ann")):
        with pytest.raises(LocalError, match="no Node runs in this process"):
            await act


def test_outside_of_any_handler_it_is_the_one_running_node(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    publication: Publication = server.call(server.node.app.publish, "chat:general", "told", {"n": 1})
    assert ann.receive_until("told")["id"] == publication.id


def test_with_two_nodes_it_has_to_be_said_which() -> None:
    with live_cluster([make_app(), make_app()], rooms=ROOMS) as (one, two):
        with pytest.raises(LocalError, match="2 nodes run in this process"):
            one.call(one.node.app.publish, "chat:general", "told")
        assert one.act(one.node.app.publish, "chat:general", "told").id
        assert two.connect("ann").request("publish", {}, room="chat:general")["event"] == "ack"


def test_the_lifespan_surrounds_everything_and_may_act(shell: Any, serve: Serve) -> None:
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> Any:
        order.append((await app.publish("chat:general", "told", "early")).id or "")
        yield
        order.append("ended")

    log = Log()
    server = serve(shell, app=make_app(log, lifespan=lifespan))
    ann = server.connect("ann")
    assert ann.welcome["rooms"]["chat:general"]["position"] == order[0]
    server.call(server.node.runtime.spawn, server.node.drain.run)
    assert server.ended.result(10) is None
    assert order[1:] == ["ended"]


def test_hooks_may_act(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log))

    async def greet(connection: Connection) -> None:
        await server.node.app.publish("chat:general", "told", connection.user)

    ann = server.connect("ann")
    log.goodbye = log.admitted = greet
    server.connect("bob").close()
    assert [ann.receive_until("told")["data"] for _ in range(2)] == ["bob", "bob"]


def test_a_publish_with_a_key_happens_once(serve: Serve) -> None:
    server = serve()
    ann = server.connect("ann")
    ids = {server.call(server.node.app.publish, "chat:general", "told", n, key="k").id for n in range(3)}
    assert len(ids) == 1
    assert [e["data"] for e in ann.events_before("whoami") if e["event"] == "told"] == [0]


def test_what_a_publish_gives_back(serve: Serve) -> None:
    server = serve()
    kept = server.call(server.node.app.publish, "chat:general", "told", Message(text="hi"))
    assert (kept.room, kept.event, kept.data, kept.user) == ("chat:general", "told", b'{"text":"hi"}', None)
    assert kept.id == str(kept.position)
    passing = server.call(server.node.app.publish, "chat:general", "told", b"\x00", history=False)
    assert (passing.id, passing.binary, passing.data) == (None, True, b"\x00")


def test_data_that_is_no_json_is_the_publishers_fault(serve: Serve) -> None:
    server = serve()
    with pytest.raises(ValueError, match="object"):
        server.call(server.node.app.publish, "chat:general", "told", object())


def test_a_publish_that_cannot_be_stored_is_unavailable(serve: Serve) -> None:
    server = serve()
    server.call(server.node.backplane.cut)  # type: ignore[attr-defined]
    with pytest.raises(Unavailable) as caught:
        server.call(server.node.app.publish, "chat:general", "told")
    assert caught.value.stored is False


def test_a_connection_knows_itself(serve: Serve) -> None:
    log = Log()
    server = serve(app=make_app(log))
    ann = server.connect("ann", query="client=ann-phone")
    ann.request("hold")
    connection = log.connections["ann"]
    assert (connection.user, connection.client, connection.id) == ("ann", "ann-phone", ann.welcome["session"])
    assert connection.claims["sub"] == "ann"
    assert connection.peer.startswith("127.0.0.1:")
    assert connection.rooms == {"chat:general"}
    assert connection.is_open
    assert repr(connection) == f"<Connection {connection.id} user='ann' open>"
    connection.state["key"] = 1
    assert connection.state == {"key": 1}
    server.call(connection.close, 4100)
    assert ann.closed()[0] == 4100
    assert not connection.is_open
    for act in (connection.send, connection.join):
        with pytest.raises(LocalError, match="the connection is closed"):
            server.call(act, "something")


def test_a_connection_that_is_not_open_yet_says_so(serve: Serve) -> None:
    log = Log()
    errors: list[str] = []

    async def early(connection: Connection) -> None:
        try:
            await connection.join("chat:two")
        except LocalError as error:
            errors.append(str(error))

    log.admitted = early
    serve(app=make_app(log)).connect("ann")
    assert errors == ["the connection is not open yet: return rooms from the connect hook instead"]


def test_members_show_their_user() -> None:
    assert repr(Member("ann", b"null")) == "Member('ann')"


# --- the connect hook


@pytest.mark.parametrize("answer", ["a string", 7, ["fine", "not\nfine"], [7]])
def test_a_connect_hook_that_returns_nonsense_is_a_fault(
    serve: Serve, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.on_connect
    async def hook(connection: Connection) -> Any:
        return answer

    assert refused(serve(app=app)) == 503
    assert "returns the names of rooms, or False to refuse" in caplog.text


@pytest.mark.parametrize("answer", [None, True, [], (), set()])
def test_a_connect_hook_may_return_no_rooms(serve: Serve, answer: Any) -> None:
    app = App()

    @app.on_connect
    async def hook(connection: Connection) -> Any:
        return answer

    assert serve(app=app).connect("ann").welcome["rooms"] == {}


def test_an_authenticator_that_fails_is_a_refusal_and_no_fault_of_the_node(
    shell: Any, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        async def start(self) -> None: ...

        async def aclose(self) -> None: ...

        async def authenticate(self, head: Any) -> Any:
            raise KeyError("a fault of the adapter")

    server = serve(shell, authenticator=Failing())
    assert refused(server) == 503
    assert "a fault of the adapter" in caplog.text
    assert not server.ended.done()


def test_an_authenticator_that_gives_no_correct_user_is_a_refusal(serve: Serve) -> None:
    from roomwire.core.identity import Identity

    class Sloppy:
        async def start(self) -> None: ...

        async def aclose(self) -> None: ...

        async def authenticate(self, head: Any) -> Identity:
            return Identity("x" * 300)

    assert refused(serve(authenticator=Sloppy())) == 503


def refused(server: LiveServer) -> int:
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus) as caught:
        server.connect("ann")
    return caught.value.response.status_code
