"""Context variables of the application: what it sets for one message is seen in no other."""

from __future__ import annotations

from contextvars import ContextVar

from roomwire import App, Connection
from roomwire.core.limits import Limits
from tests.server.conftest import Serve
from tests.server.live import Shell

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

BURST = 40
FEW = Limits(inbox_messages=4)


def make_app() -> App:
    app = App()

    @app.on_connect
    async def connected(connection: Connection) -> list[str]:
        tenant.set("the hook's")
        return ["lobby"]

    @app.on("whose")
    async def whose(connection: Connection) -> str:
        before = tenant.get()
        tenant.set("another message's")
        return before

    return app


def test_a_message_sees_neither_the_hooks_nor_another_messages(shell: Shell, serve: Serve) -> None:
    client = serve(shell, app=make_app(), limits=FEW, rooms={}).connect()
    assert [client.request("whose")["data"] for _ in range(3)] == ["nobody"] * 3


def test_nor_where_reading_was_paused_and_a_handler_had_it_go_on(shell: Shell, serve: Serve) -> None:
    client = serve(shell, app=make_app(), limits=FEW, rooms={}).connect()
    for number in range(BURST):
        client.send("whose", id=f"{number}")
    assert {client.receive_until("ack", id=f"{number}")["data"] for number in range(BURST)} == {"nobody"}
    assert client.request("whose")["data"] == "nobody"
