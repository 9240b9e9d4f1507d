"""An application in parts: what a router declares is the application's, wherever and whenever; conflicts say where."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from roomwire import App, Connection, DeclarationError, Depends, EventError, Router
from tests.server.conftest import Serve

HERE = r"\(tests\.server\.test_routers, line \d+\)"


def get_name() -> str:
    return "real"


def fake_name() -> str:
    return "fake"


def chat() -> Router:
    """A part with everything that one can declare."""
    router = Router(event_prefix="chat.", room_prefix="chat:")

    @router.on_connect
    async def rooms_of(connection: Connection) -> list[str]:
        return ["chat:general"]

    @router.on_disconnect
    async def goodbye(connection: Connection) -> None:
        await router.publish("chat:general", "left", connection.user)

    @router.room("{channel}")
    async def may_join(channel: str) -> bool:
        return channel == "general"

    @router.on("send", room="{channel}")
    async def send(text: str, channel: str) -> str | None:
        return (await router.publish(f"chat:{channel}", "told", text)).id

    @router.on("name")
    async def name(name: Annotated[str, Depends(get_name)]) -> str:
        return name

    @router.snapshot("{channel}")
    async def state(channel: str) -> str:
        return f"state of {channel}"

    @router.error(KeyError)
    def missing(error: KeyError) -> EventError:
        return EventError("chat.missing", str(error))

    @router.on("fail")
    async def fail() -> None:
        raise KeyError(7)

    return router


def test_what_it_declares_is_the_applications(shell: Any, serve: Serve) -> None:
    app = App()
    app.include(chat())
    server = serve(shell, app=app)
    ann = server.connect("ann", query="state=1")
    assert ann.receive_until("room.state")["data"]["state"] == "state of general"
    ack = ann.request("chat.send", "hi", room="chat:general")
    assert ack["event"] == "ack"
    assert ann.request("send", "hi", room="chat:general")["data"]["code"] == "unknown_event"
    assert ann.request("chat.fail")["data"] == {"code": "chat.missing", "message": "7"}
    assert ann.request("room.join", room="chat:other")["data"]["code"] == "forbidden"
    server.connect("ben").close()
    assert ann.receive_until("left")["data"] == "ben"


def test_what_is_declared_after_it_was_included(serve: Serve) -> None:
    app, router = App(), Router()
    app.include(router)

    @router.on("late")
    async def late() -> str:
        return "not lost"

    assert serve(app=app).connect().request("late")["data"] == "not lost"
    assert repr(router).startswith("<Router of tests.server.test_routers, line ")


def test_one_router_in_two_applications(serve: Serve) -> None:
    router, one, two = chat(), App(), App()
    one.include(router)
    two.include(router)
    one.overrides[get_name] = fake_name
    router.on("late")(fake_name)
    for app, name in ((one, "fake"), (two, "real")):
        client = serve(app=app).connect()
        assert client.request("chat.name")["data"] == name
        assert client.request("chat.late")["data"] == "fake"


def test_an_override_holds_for_what_is_included_later(serve: Serve) -> None:
    app = App()

    @app.on("own")
    async def own(name: Annotated[str, Depends(get_name)]) -> str:
        return name

    app.overrides[get_name] = fake_name
    app.include(chat())
    assert serve(app=app).connect().request("chat.name")["data"] == "fake"


class TestConflicts:
    def test_included_twice(self) -> None:
        app, router = App(), Router()
        app.include(router)
        place = r"tests\.server\.test_routers, line \d+"
        with pytest.raises(
            DeclarationError, match=f"the router of {place} is included twice: at {place} and at {place}"
        ):
            app.include(router)

    @pytest.mark.parametrize("what", [App(), 7, chat])
    def test_what_is_no_router(self, what: Any) -> None:
        with pytest.raises(DeclarationError, match="include takes a Router, not"):
            App().include(what)

    def test_two_handlers_of_one_event(self) -> None:
        app, router = App(), Router()

        async def one() -> None: ...
        async def two() -> None: ...

        app.on("x")(one)
        router.on("x")(two)
        with pytest.raises(DeclarationError, match=f"x is handled by .*one {HERE} and by .*two {HERE}"):
            app.include(router)

    @pytest.mark.parametrize("decorator", ["room", "snapshot"])
    def test_two_patterns_that_nothing_decides_between(self, decorator: str) -> None:
        app, router = App(), Router(room_prefix="chat:")

        async def one(channel: str) -> bool:
            return True

        async def two(other: str) -> bool:
            return True

        getattr(app, decorator)("chat:{channel}")(one)
        getattr(router, decorator)("{other}")(two)
        with pytest.raises(DeclarationError, match=f"nothing decides .*: .*one {HERE} and .*two {HERE}"):
            app.include(router)

    @pytest.mark.parametrize("decorator", ["on_connect", "on_disconnect"])
    def test_hooks_that_there_is_one_of(self, decorator: str) -> None:
        app = App()
        app.include(chat())
        with pytest.raises(
            DeclarationError, match=f"{decorator} is declared twice: by .* {HERE} and by .*get_name {HERE}"
        ):
            getattr(app, decorator)(get_name)

    def test_a_wrong_name_is_told_with_its_prefix(self) -> None:
        with pytest.raises(DeclarationError, match=r"room\.join"):
            Router(event_prefix="room.").on("join")
