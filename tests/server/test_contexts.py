"""Context variables of the application: what it sets for one message is seen in no other."""

from __future__ import annotations

from collections.abc import Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from roomwire import App, Connection
from roomwire.core.frames import Opcode
from roomwire.core.limits import Limits
from roomwire.node.contexts import in_context
from tests.server.conftest import Serve
from tests.server.live import Shell, make_token
from tests.server.raw import connect, frame, request

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


@pytest.mark.wire
def test_a_message_sees_neither_the_hooks_nor_another_messages(shell: Shell, serve: Serve) -> None:
    client = serve(shell, app=make_app(), limits=FEW, rooms={}).connect()
    assert [client.request("whose")["data"] for _ in range(3)] == ["nobody"] * 3


def test_nor_where_it_was_sent_ahead_of_the_answer(shell: Shell, serve: Serve) -> None:
    server = serve(shell, app=make_app(), rooms={})
    head = request("/ws", f"Authorization: Bearer {make_token('ann')}")
    with connect(server.port, head + frame(Opcode.TEXT, b'{"event":"whose","id":"1"}')) as link:
        link.upgraded()
        assert link.event("ack")["data"] == "nobody"


@pytest.mark.wire
def test_nor_where_reading_was_paused_and_a_handler_had_it_go_on(shell: Shell, serve: Serve) -> None:
    client = serve(shell, app=make_app(), limits=FEW, rooms={}).connect()
    for number in range(BURST):
        client.send("whose", id=f"{number}")
    assert {client.receive_until("ack", id=f"{number}")["data"] for number in range(BURST)} == {"nobody"}
    assert client.request("whose")["data"] == "nobody"


# --- a coroutine with context variables of its own


class Pause:
    """Something to await by hand."""

    def __await__(self) -> Generator[str, str, str]:
        return (yield "awaited")


async def set_and_wait() -> tuple[str, str]:
    tenant.set("first")
    await anyio.lowlevel.checkpoint()
    before = tenant.get()
    tenant.set("second")
    with anyio.move_on_after(0):
        await anyio.sleep_forever()
    return before, tenant.get()


@pytest.mark.anyio
async def test_what_it_sets_it_keeps_over_its_awaits_and_nobody_else_sees() -> None:
    tenant.set("outside")
    context = copy_context()
    assert await in_context(context, set_and_wait()) == ("first", "second")
    assert tenant.get() == "outside"
    assert context[tenant] == "second"


@pytest.mark.anyio
async def test_what_it_raises_is_raised_and_a_cancellation_reaches_it() -> None:
    seen: list[str] = []

    async def wait() -> None:
        tenant.set("inside")
        try:
            await anyio.sleep_forever()
        finally:
            seen.append(tenant.get())

    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("its own")

    with anyio.move_on_after(0) as scope:
        await in_context(copy_context(), wait())
    assert scope.cancelled_caught
    assert seen == ["inside"]
    with pytest.raises(LookupError, match="its own"):
        await in_context(copy_context(), fail())


def test_values_and_exceptions_are_handed_on() -> None:
    async def talk() -> str:
        try:
            return await Pause()
        except KeyError:
            return await Pause() + ", after an error"

    outer: Any = in_context(Context(), talk())
    assert outer.send(None) == "awaited"
    with pytest.raises(StopIteration, match="sent"):
        outer.send("sent")
    outer = in_context(Context(), talk())
    outer.send(None)
    assert outer.throw(KeyError()) == "awaited"
    with pytest.raises(StopIteration, match="sent, after an error"):
        outer.send("sent")


def test_it_is_closed_with_what_awaits_it() -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await Pause()
        finally:
            ended.append("ended")

    outer: Any = in_context(Context(), wait())
    outer.send(None)
    outer.close()
    assert ended == ["ended"]
