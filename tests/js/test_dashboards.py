"""Both clients in rooms that conflate and have `latest`: what they are sent at once, and what comes after a break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from tests.js.node_client import NodeClient, open_node_client
from tests.server.chat import make_app
from tests.server.live import LiveServer, live_server, make_token

from roomwire.client import Client, Event, connect
from roomwire.core.policy import RoomPolicy

ROOM = "chat:board"
POLICY = RoomPolicy(conflate_rate=20, conflate_key="k", latest=True)
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with live_server(make_app(), rooms={ROOM: POLICY}) as running:
        yield running


@pytest.fixture
async def script(anyio_backend: str) -> AsyncIterator[NodeClient]:
    async with open_node_client() as client:
        yield client


def publish(server: LiveServer, *values: tuple[str, int]) -> list[str]:
    async def run() -> list[str]:
        app = server.node.app
        return [(await app.publish(ROOM, "told", {"k": key, "v": value})).id or "" for key, value in values]

    ids: list[str] = server.act(run)
    return ids


async def told_until(client: Client, id_: str) -> list[str]:
    """The ids of the events that the application is given."""
    ids: list[str] = []
    with anyio.fail_after(20):
        while not ids or ids[-1] != id_:
            item = await client.receive()
            if isinstance(item, Event) and item.name == "told":
                ids.append(item.id or "")
    return ids


async def test_python(server: LiveServer) -> None:
    ids = publish(server, ("a", 1), ("b", 2), ("a", 3))
    async with connect(server.url, token=make_token("ann")) as client:
        await client.join(ROOM)
        assert await told_until(client, ids[-1]) == ids[1:]
        more = publish(server, *(("ab"[n % 2], n) for n in range(50)))
        got = await told_until(client, more[-1])
        assert len(got) < 25
        assert more[-2] in got
        assert str(client.room(ROOM).position) == more[-1]


async def test_javascript(script: NodeClient, server: LiveServer) -> None:
    ids = publish(server, ("a", 1), ("b", 2), ("a", 3))
    await script.connect(server.url, token=make_token("ann"))
    await script.wait_state("open")
    await script.call("join", room=ROOM)
    assert [(await script.wait_event("told"))["id"] for _ in range(2)] == ids[1:]
    more = publish(server, *(("ab"[n % 2], n) for n in range(50)))
    got: list[str] = []
    while not got or got[-1] != more[-1]:
        got.append((await script.wait_event("told"))["id"])
    assert len(got) < 25
    assert more[-2] in got
    await script.call("cut")
    missed = publish(server, ("a", 100), ("b", 101), ("a", 102))
    await script.call("restore")
    assert [(await script.wait_event("told"))["id"] for _ in range(2)] == missed[1:]
    assert (await script.call("state"))["rooms"][ROOM]["position"] == missed[-1]
