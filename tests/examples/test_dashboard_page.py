"""The dashboard's page in a real browser: what moves, what it says of its connection, and both ways to the server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import pytest
from playwright.async_api import Browser, Page, expect

from tests.examples.dashboard import Dashboard, copied

PATIENCE = 20_000
"""Milliseconds that an expectation waits at the most."""
FITS = "document.documentElement.scrollWidth <= window.innerWidth"
# The pixels as one number, which another picture hardly has.
PICTURE = """canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]
    .reduce((sum, byte, place) => (sum * 31 + byte * place) % 1000003, 7)"""

pytestmark = pytest.mark.anyio
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def served_all_along(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    with Dashboard(copied(tmp_path_factory.mktemp("page") / "project"), raw=True) as server:
        yield server


@pytest.fixture
def served(served_all_along: Dashboard) -> Iterator[Dashboard]:
    yield served_all_along
    served_all_along.heal()


@asynccontextmanager
async def board(
    browser: Browser, port: int, user: str = "ann", *, query: str = "", broken: bool = False, **options: Any
) -> AsyncIterator[Page]:
    """A page that is live; nothing fails in it, and the console has no error unless the network is `broken`."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.set_default_timeout(PATIENCE)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" and not broken else None)
    await page.goto(f"http://127.0.0.1:{port}/?user={user}{query}")
    await expect(page.locator("#state")).to_have_text("live")
    await expect(page.locator("#rows tr")).to_have_count(6)
    yield page
    await context.close()
    assert faults == []


async def moves(page: Page) -> None:
    """Numbers and pictures change."""
    figure, canvas = page.locator('[data-metric="rps"] .figure'), page.locator("#chart")
    number, picture = await figure.inner_text(), await canvas.evaluate(PICTURE)
    await expect(figure).not_to_have_text(number)
    async with asyncio.timeout(PATIENCE / 1000):
        while await canvas.evaluate(PICTURE) == picture:
            await page.evaluate("new Promise(requestAnimationFrame)")


@pytest.mark.parametrize("way", ["", "&via=sse"], ids=["websocket", "sse"])
async def test_numbers_move(browser: Browser, served: Dashboard, way: str) -> None:
    async with board(browser, served.port, query=way) as page:
        await moves(page)
        await expect(page.locator("#way")).to_have_text("Server-sent events" if way else "WebSocket")
        await expect(page.locator("#age")).to_have_text(re.compile(r"last update \d\.\d s ago"))
        await expect(page.locator("#received")).to_have_text(re.compile("[1-9]"))
        await expect(page.locator("#legend li")).to_have_count(3)
        await expect(page.locator("#operate")).to_be_hidden()


async def test_signing_in_and_out(browser: Browser, served: Dashboard) -> None:
    async with board(browser, served.port) as page:
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_role("button", name="Ben").click()
        await expect(page.locator("#state")).to_have_text("live")
        await expect(page.locator("#my-name")).to_have_text("Ben")
        assert "user=ben" in page.url


async def test_an_unknown_user_has_to_choose(browser: Browser, served: Dashboard) -> None:
    page = await browser.new_page()
    await page.goto(f"{served.url}/?user=eve")
    await expect(page.get_by_role("alert")).to_have_text("There is no user eve here.")
    await page.close()


async def test_a_spike_is_seen_by_those_who_watch(browser: Browser, served: Dashboard) -> None:
    async with board(browser, served.port) as ann, board(browser, served.port, "ben") as ben:
        await ben.get_by_role("button", name="Inject a spike").click()
        await expect(ann.locator('[data-metric="queue"] .tone')).to_be_visible()
        await expect(ann.locator("#rows .tone", has_text=re.compile("busy|failing")).first).to_be_visible()
        await ben.select_option("#rate", "50")
        # Each host is measured 50 times a second, and told of 10 times.
        await expect(ann.locator("#measured")).to_have_text(re.compile(r"[23]\d\d"))
        await expect(ann.locator("#received")).to_have_text(re.compile(r"^[1-7]\d$"))
        await ben.select_option("#rate", "10")


@pytest.mark.parametrize("way", ["", "&via=sse"], ids=["websocket", "sse"])
async def test_a_killed_server_is_told_and_comes_back(browser: Browser, served: Dashboard, way: str) -> None:
    async with board(browser, served.port, query=way, broken=True) as page:
        served.kill()
        await expect(page.locator("#state")).to_have_text("reconnecting")
        if not way:
            await expect(page.locator("#countdown")).to_have_text(re.compile(r"in \d+ s"))
        await anyio.to_thread.run_sync(served.start)
        await expect(page.locator("#state")).to_have_text("live")
        await moves(page)


async def test_the_other_way_by_a_switch(browser: Browser, served: Dashboard) -> None:
    async with board(browser, served.port) as page:
        switch = page.get_by_role("switch", name="Server-sent events")
        for checked, way in (("true", "Server-sent events"), ("false", "WebSocket")):
            await switch.click()
            await expect(switch).to_have_attribute("aria-checked", checked)
            await expect(page.locator("#way")).to_have_text(way)
            await expect(page.locator("#state")).to_have_text("live")
            await moves(page)


@asynccontextmanager
async def no_upgrades(target: int) -> AsyncIterator[int]:
    """A proxy that passes on HTTP, and ends whoever asks for a WebSocket."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if data.startswith(b"GET /ws"):
                    break
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_where_no_websocket_comes_through_streams_are_read(browser: Browser, served: Dashboard) -> None:
    async with no_upgrades(served.port) as port, board(browser, port, broken=True) as page:
        await expect(page.locator("#way")).to_have_text("Server-sent events")
        await expect(page.locator("#why")).to_have_text(re.compile("No WebSocket came through"))
        await moves(page)


async def test_on_a_phone_everything_fits(browser: Browser, served: Dashboard) -> None:
    options: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    async with board(browser, served.port, "ben", color_scheme="dark", **options) as page:
        assert await page.evaluate(FITS)
        size = await page.locator("#chart").evaluate("canvas => [canvas.width / canvas.clientWidth, devicePixelRatio]")
        assert size[0] == pytest.approx(size[1], rel=0.02)  # crisp
