"""The dashboard over sockets, on raw sockets and under uvicorn: its routes, and five hundred who watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets.asyncio.client
from websockets.typing import Subprotocol

from tests.examples.dashboard import ROOM, Dashboard, copied, token_of
from tests.servers import RedisServer

VIEWERS = 500
HOSTS = {f"{region}-{number}" for region in ("fra", "iad", "sin") for number in (1, 2)}
DEADLINE = 40.0

pytestmark = pytest.mark.anyio
Link = websockets.asyncio.client.ClientConnection


@asynccontextmanager
async def watching(port: int, user: str = "ann", **fields: Any) -> AsyncIterator[Link]:
    """A viewer of another library, who has asked to be let in."""
    url = f"ws://127.0.0.1:{port}/ws?token={token_of(user)}"
    options: dict[str, Any] = {"proxy": None, "compression": None, "max_queue": None, "open_timeout": DEADLINE}
    async with websockets.asyncio.client.connect(url, subprotocols=[Subprotocol("roomwire.v1")], **options) as link:
        await link.send(json.dumps({"event": "room.join", "id": "join", "room": ROOM, **fields}))
        yield link


async def messages(link: Link) -> AsyncIterator[dict[str, Any]]:
    async with asyncio.timeout(DEADLINE):
        async for text in link:
            yield json.loads(text)


async def newest(link: Link, names: set[str], least: dict[str, int] | None = None) -> dict[str, int]:
    """The count of each host, once one of each has come that is not below `least`. Counts may only grow."""
    seen: dict[str, int] = {}
    async for message in messages(link):
        if message["event"] != "host":
            continue
        name, count = message["data"]["name"], message["data"]["count"]
        assert count > seen.get(name, 0), "an older value came behind a newer one"
        seen[name] = count
        if all(seen.get(name, -1) >= (least or {}).get(name, 0) for name in names):
            return seen
    raise AssertionError("the connection ended")


class TestRoutes:
    def test_the_page_with_its_policy(self, dashboard: Dashboard) -> None:
        import urllib.request

        with urllib.request.urlopen(dashboard.url, timeout=20) as response:
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
            assert b'src="static/dashboard.js"' in response.read()
        assert dashboard.ask("GET", "/nowhere")[0] == 404

    def test_metrics_are_for_users(self, dashboard: Dashboard) -> None:
        status, found = dashboard.ask("GET", "/api/metrics", user="ann")
        assert (status, set(found)) == (200, HOSTS)
        assert dashboard.ask("GET", "/api/metrics")[0] in (401, 403)

    def test_an_operator_alone_operates(self, dashboard: Dashboard) -> None:
        assert dashboard.ask("POST", "/api/spike", {}, "ann")[0] == 403
        assert dashboard.ask("POST", "/api/spike", {"factor": 99}, "ben")[0] == 422
        assert dashboard.ask("PUT", "/api/rate", {"per_second": 20}, "ann")[0] == 403
        assert dashboard.ask("PUT", "/api/rate", {"per_second": 20}, "ben") == (200, {"per_second": 20})
        assert dashboard.ask("GET", "/api/rate", user="ann") == (200, {"per_second": 20})

    async def test_all_are_told_of_a_spike(self, dashboard: Dashboard) -> None:
        async with watching(dashboard.port) as link:
            async for message in messages(link):
                if message["event"] == "host":
                    break
            status, _ = await asyncio.to_thread(dashboard.ask, "POST", "/api/spike", {"factor": 1.5}, "ben")
            assert status == 200
            # Who came after an earlier spike has been told of that one.
            texts = [message["data"]["text"] async for message in messages_until_note(link)]
            assert texts == ["1.5 times the load, by ben"]

    async def test_who_joins_has_the_minute_and_the_newest(self, dashboard: Dashboard) -> None:
        async with watching(dashboard.port, data={"state": True}) as link:
            async for message in messages(link):
                if message["event"] == "room.state":
                    break
            assert {name: len(past) >= 59 for name, past in message["data"]["state"].items()} == dict.fromkeys(
                HOSTS, True
            )
            await newest(link, HOSTS)


async def messages_until_note(link: Link) -> AsyncIterator[dict[str, Any]]:
    async for message in messages(link):
        if message["event"] == "note":
            yield message
            return


async def test_five_hundred_have_the_newest_of_each_host_and_none_may_speak(dashboard: Dashboard) -> None:
    # The least that can be asked for. Ten times as much for five hundred is what two processors just get through.
    await asyncio.to_thread(dashboard.ask, "PUT", "/api/rate", {"per_second": 1}, "ben")
    gate = asyncio.Semaphore(32)
    async with AsyncExitStack() as stack:

        async def come(number: int) -> Link:
            async with gate:
                return await stack.enter_async_context(watching(dashboard.port, f"viewer-{number}"))

        links = await asyncio.gather(*(come(number) for number in range(VIEWERS)))
        for link in links:
            await link.send(json.dumps({"event": "host", "id": "mine", "room": ROOM, "data": {"name": "fra-1"}}))

        async def refused(link: Link) -> str:
            async for message in messages(link):
                if message.get("id") == "mine":
                    assert message["event"] == "error"
                    return str(message["data"]["code"])
            raise AssertionError("the connection ended")

        codes = await asyncio.gather(*map(refused, links))
        assert set(codes) <= {"forbidden", "unknown_event"}
        # What is newest now, or something newer, has to reach everybody for every host: none is lost for good.
        _, found = await asyncio.to_thread(dashboard.ask, "GET", "/api/metrics", None, "ann")
        least = {name: measurement["count"] for name, measurement in found.items()}
        everybody = await asyncio.gather(*(newest(link, HOSTS, least) for link in links))
        assert len(everybody) == VIEWERS


async def test_two_processes_on_redis_by_one_line(tmp_path: Path, redis_server: RedisServer) -> None:
    directory = copied(tmp_path / "project")
    config = directory / "roomwire.toml"
    text = config.read_text()
    assert text.count('type = "memory"') == 1
    config.write_text(text.replace('type = "memory"', 'type = "redis"'))
    store = f"ROOMWIRE_BACKPLANE__OPTIONS__URL={redis_server.url}"
    with (
        Dashboard(directory, raw=True, environment=[store, "DASHBOARD_REGIONS=fra"]) as one,
        Dashboard(directory, raw=False, environment=[store, "DASHBOARD_REGIONS="]) as other,
    ):
        assert set(one.ask("GET", "/api/metrics", user="ann")[1]) == {"fra-1", "fra-2"}
        assert other.ask("GET", "/api/metrics", user="ann") == (200, {})
        assert other.ask("POST", "/api/spike", {}, "ben")[0] == 409
        async with watching(other.port) as link:
            first = await newest(link, {"fra-1", "fra-2"})
            last = await newest(link, {"fra-1", "fra-2"}, {name: count + 3 for name, count in first.items()})
        # Nobody publishes any more, and who joins has the newest of each host all the same.
        one.pause()
        async with watching(other.port) as link:
            assert await newest(link, {"fra-1", "fra-2"}, last)
