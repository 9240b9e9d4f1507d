"""Clients of event streams that nobody here wrote, Chromium's `EventSource` and the package `eventsource`, and a server
that is killed in the middle."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import secrets
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from playwright.async_api import Browser, Page
from tests.js.node_client import HERE
from tests.server.chat import Log, make_app
from tests.server.live import LiveServer, live_server, make_token
from tests.server.processes import ServingProcess
from tests.server.watching import until
from tests.servers import NODE, RedisServer, free_port

from roomwire.publisher import Publisher

PATIENCE = 30.0
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "sse.md"
OWN = ["session.welcome", "session.closing", "room.state", "heartbeat"]

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # playwright knows no other


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>viewer</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """A web server of another origin, for pages: what a browser asks of us is cross-origin."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
async def page(browser: Browser, origin: str) -> AsyncIterator[Page]:
    """A page of that origin, which keeps what it sees in `seen`."""
    opened = await browser.new_page()
    opened.set_default_timeout(PATIENCE * 1000)
    await opened.goto(origin)
    await opened.evaluate("() => { window.seen = []; }")
    yield opened
    await opened.close()


def url_of(port: int, room: str, user: str = "ann", **query: str) -> str:
    parameters = {"room": room, "client": "client-of-the-page", "token": make_token(user), **query}
    return f"http://127.0.0.1:{port}/sse?" + "&".join(f"{name}={value}" for name, value in parameters.items())


class Chromium:
    """An `EventSource` in the page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def open(self, url: str) -> None:
        script = """([url, names]) => {
            window.source = new EventSource(url);
            for (const name of names)
                source.addEventListener(name, ({ type, data, lastEventId }) => seen.push({ type, data, lastEventId }));
            source.addEventListener("error", () => seen.push({ type: "error", state: source.readyState }));
        }"""
        await self.page.evaluate(script, [url, [*OWN, "told"]])

    async def until(self, count: int, kind: str = "told") -> list[dict[str, Any]]:
        """All that it has seen, once so many are of that kind."""
        enough = "([count, kind]) => seen.filter(({ type }) => type === kind).length >= count"
        await self.page.wait_for_function(enough, arg=[count, kind])
        seen: list[dict[str, Any]] = await self.page.evaluate("() => seen")
        return seen


class Package:
    """The package `eventsource`, in node."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._seen: list[dict[str, Any]] = []

    async def open(self, url: str) -> None:
        command = [str(NODE.require()), str(HERE / "viewer.js"), url, *OWN, "told"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220  it starts at once

    async def until(self, count: int, kind: str = "told") -> list[dict[str, Any]]:
        assert self._process is not None and self._process.stdout is not None
        while sum(event["type"] == kind for event in self._seen) < count:
            with anyio.fail_after(PATIENCE):
                line = await anyio.to_thread.run_sync(self._process.stdout.readline, abandon_on_cancel=True)
            assert line, "it ended"
            self._seen.append(json.loads(line))
        return list(self._seen)

    def close(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


@pytest.fixture(params=["chromium", "package"])
def foreign(request: pytest.FixtureRequest, page: Page) -> Iterator[Chromium | Package]:
    if request.param == "chromium":
        yield Chromium(page)
    else:
        with contextlib.closing(Package()) as package:
            yield package


async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    foreign: Chromium | Package, page: Page, origin: str, redis_server: RedisServer
) -> None:
    """What comes while there is no server is there when there is one; also the first event of all, since who has got
    none resumes from the welcome."""
    options = {"url": redis_server.url, "key_prefix": f"streams-{secrets.token_hex(4)}:"}
    port = free_port()
    server = {"port": port, "allowed_origins": [origin], "reconnect_spread": 0.0}
    settings = {"server": server, "backplane": {"type": "redis", "options": options}}
    with contextlib.ExitStack() as stack:
        publisher = stack.enter_context(Publisher("redis", options))

        def publish(count: int) -> list[str]:
            return [publisher.publish("chat:general", "told", n).id or "" for n in range(count)]

        process = stack.enter_context(ServingProcess("uvloop", settings))
        process.port()
        await foreign.open(url_of(port, "chat:general"))
        await foreign.until(1, "session.welcome")
        ids: list[str] = []
        rounds = 2 if isinstance(foreign, Chromium) else 1
        for kills in range(1, rounds + 1):
            process.signal(signal.SIGKILL)
            process.process.wait(PATIENCE)
            ids += await anyio.to_thread.run_sync(publish, 20)
            process = stack.enter_context(ServingProcess("uvloop", settings))
            process.port()
            await foreign.until(1 + kills, "session.welcome")
            ids += await anyio.to_thread.run_sync(publish, 20)
            seen = await foreign.until(len(ids))
            assert [event["lastEventId"] for event in seen if event["type"] == "told"] == ids
        welcomes = [json.loads(event["data"])["data"] for event in seen if event["type"] == "session.welcome"]
        assert [welcome["rooms"]["chat:general"]["recovered"] for welcome in welcomes] == [None] + rounds * [True]
        assert "room.state" not in {event["type"] for event in seen}


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def node(origin: str, log: Log) -> Iterator[LiveServer]:
    with live_server(make_app(log), origins=(origin,), reconnect_spread=0.0) as server:
        yield server


async def test_a_position_without_an_event_is_kept(foreign: Chromium | Package, node: LiveServer) -> None:
    """Excluded from the last event, cut off, and back: it is not sent again, and what follows is there."""
    room = "chat:general"
    await foreign.open(url_of(node.port, room))
    await foreign.until(1, "session.welcome")

    async def publish() -> str:
        return (await node.node.app.publish(room, "told", 1, exclude="client-of-the-page")).id or ""

    moved = await anyio.to_thread.run_sync(node.act, publish)
    (connection,) = node.node.connections_of("ann")
    await anyio.to_thread.run_sync(node.call, connection._beat)
    assert (await foreign.until(1, "heartbeat"))[-1]["lastEventId"] == moved
    link = connection._link
    assert link is not None
    await anyio.to_thread.run_sync(node.call, link.abort)  # type: ignore[attr-defined]  # every raw link has it
    seen = await foreign.until(2, "session.welcome")
    last = json.loads(seen[-1]["data"])["data"]
    assert last["rooms"][room] == {"position": moved, "recovered": True}


async def test_a_refusal_is_the_end_of_an_event_source(foreign: Chromium | Package, node: LiveServer, log: Log) -> None:
    """Removed, and not allowed any more: told so, and refused when it comes back by itself."""
    await foreign.open(url_of(node.port, "chat:other"))
    await foreign.until(1, "session.welcome")
    log.forbidden.add(("ann", "other"))
    (connection,) = node.node.connections_of("ann")
    link = connection._link
    assert link is not None
    await anyio.to_thread.run_sync(node.call, link.abort)  # type: ignore[attr-defined]  # every raw link has it
    errors = [event for event in await foreign.until(2, "error") if event["type"] == "error"]
    assert [error["state"] for error in errors] == [0, 2]


FETCHING = """async ([url, token]) => {
    const response = await fetch(url, { headers: { Authorization: `Bearer ${token}`, "Last-Event-ID": "" } });
    const lines = response.body.pipeThrough(new TextDecoderStream()).getReader();
    (async () => {
        for (let text = "", part; !(part = await lines.read()).done; ) {
            text += part.value;
            const whole = text.split("\\n\\n");
            text = whole.pop();
            for (const event of whole) {
                const data = /^data: (.*)$/m.exec(event);
                if (data) seen.push(JSON.parse(data[1]));
            }
        }
    })();
    return response.status;
}"""


async def test_a_page_of_another_origin_sends_its_token_in_a_header(page: Page, node: LiveServer) -> None:
    """By fetch, whose header the browser asks about in advance; the body is read as it comes."""
    url = f"http://127.0.0.1:{node.port}/sse?room=chat:general"
    assert await page.evaluate(FETCHING, [url, make_token("ann")]) == 200
    await arrived(page, 1, "session.welcome")
    ids = await anyio.to_thread.run_sync(node.publish, 3)
    assert [message["id"] for message in await arrived(page, 3, "told")] == ids
    assert await page.evaluate(FETCHING, [url, "nonsense"]) == 401  # and is told why it was refused


async def follow(page: Page, node: LiveServer, ttl: float = 3600.0) -> None:
    """What the how-to shows, word by word."""
    blocks = re.findall(r"```js\n(.*?)```", HOW_TO.read_text(), re.S)
    tokens = [make_token("ann", ttl=ttl), make_token("ann")]
    await page.evaluate(
        f"""([tokens, url]) => {{
            window.sources = [];
            const Real = window.EventSource;
            window.EventSource = class extends Real {{ constructor(url) {{ super(url); sources.push(this); }} }};
            {blocks[0]}
            const token = async () => tokens.length > 1 ? tokens.shift() : tokens[0];
            window.end = follow("chat:general", token, ["told"], (message) => seen.push(message), url);
        }}""",
        [tokens, f"http://127.0.0.1:{node.port}/sse"],
    )
    await arrived(page, 1, "room.state")


async def arrived(page: Page, count: int, event: str) -> list[dict[str, Any]]:
    enough = "([count, name]) => seen.filter(({ event }) => event === name).length >= count"
    await page.wait_for_function(enough, arg=[count, event])
    seen: list[dict[str, Any]] = await page.evaluate("() => seen")
    return [message for message in seen if message["event"] == event]


async def test_the_page_of_the_how_to_goes_on_with_a_new_token(page: Page, node: LiveServer) -> None:
    await follow(page, node)
    ids = await anyio.to_thread.run_sync(node.publish, 3)
    await arrived(page, 3, "told")
    (connection,) = node.node.connections_of("ann")
    await anyio.to_thread.run_sync(lambda: node.act(node.node.app.disconnect, "ann", code=4003))
    until(node, lambda: connection not in node.node.connections_of("ann"))
    ids += await anyio.to_thread.run_sync(node.publish, 3)
    assert [message["id"] for message in await arrived(page, 6, "told")] == ids
    assert len(await arrived(page, 1, "room.state")) == 1


async def test_the_page_of_the_how_to_stays_away_where_it_is_told_to(page: Page, node: LiveServer) -> None:
    await follow(page, node)
    await anyio.to_thread.run_sync(node.act, node.node.app.remove, "ann", "chat:general")
    until(node, lambda: not node.node.connections)
    (closing,) = await arrived(page, 1, "session.closing")
    assert closing["data"]["code"] == 4503
    assert await page.evaluate("() => sources.map(({ readyState }) => readyState)") == [2]  # closed, and no other
