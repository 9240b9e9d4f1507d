"""One link, without a client around it; the seam of time; and what has no I/O at all."""

from __future__ import annotations

import math
import os
from pathlib import Path

import anyio
import pytest

import roomwire.client
from roomwire.client import SystemTiming
from roomwire.client.link import Link
from roomwire.core.websocket import Closed, Role, WebSocket
from tests.architecture import Module, core_faults
from tests.client.server import serve
from tests.test_architecture import RULES

PURE = ("errors", "events", "headers", "inbox", "messages", "outbox", "requests", "retry", "rooms", "session", "ticket")


class TestALink:
    @pytest.mark.anyio
    async def test_one_that_broke_takes_all_and_sends_nothing(self) -> None:
        """What came before it broke is still to be read, a close frame for one."""
        async with serve() as server:
            stream = await anyio.connect_tcp("127.0.0.1", server.port)
            websocket = WebSocket(Role.CLIENT, max_message_size=1000, max_fragments=10, mask_source=os.urandom)
            link = Link(stream, websocket)
            await link.send(["x" * 1000])
            await server.accept_and_reset()
            for _ in range(3):
                await link.send(["x" * 1000])
            assert await link.receive() == [Closed(1006, "", by_peer=False)]
            await link.send(["x" * 1000])
            await link.close(1000)
            await link.abort()


@pytest.mark.anyio
class TestSystemTiming:
    async def test_what_is_due_does_not_wait(self) -> None:
        timing = SystemTiming()
        await timing.wait(anyio.Event(), timing.now() - 1)

    async def test_what_has_happened_does_not_wait(self) -> None:
        event = anyio.Event()
        event.set()
        await SystemTiming().wait(event, math.inf)

    async def test_a_deadline_comes(self) -> None:
        timing = SystemTiming()
        await timing.wait(anyio.Event(), timing.now() + 0.01)

    async def test_chance(self) -> None:
        assert 0 <= SystemTiming().random() < 1


@pytest.mark.parametrize("name", PURE)
def test_the_half_without_io_keeps_the_rules_of_the_core(name: str) -> None:
    path = Path(roomwire.client.__file__).with_name(f"{name}.py")
    assert core_faults(RULES, [Module(f"roomwire.core.{name}", path.read_text())]) == []
