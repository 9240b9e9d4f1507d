"""The chat example's page in a real browser, served by ``roomwire dev``."""

from __future__ import annotations

import http.client
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from playwright.async_api import Browser, Page, expect
from tests.client.frames import FrameProxy, frame_proxy
from tests.servers import Server, Tool

CHAT = Path(__file__).parents[2] / "examples" / "chat"
PATIENCE = 20_000
"""Milliseconds that an expectation waits at the most."""

pytestmark = pytest.mark.anyio
expect.set_options(timeout=PATIENCE)


class ChatServer(Server):
    """The example in a directory of its own, with a database of its own."""

    tool = Tool("python", (sys.executable,), "the interpreter that runs the tests is gone")
    scheme = "http"

    def command(self, port: int) -> Sequence[str]:
        here = ("--app-dir", str(self.directory), "--config", str(self.directory / "roomwire.toml"))
        return ("-m", "roomwire.cli", "dev", "app:app", "--no-reload", "--port", str(port), *here)

    def answers(self, port: int, pid: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        finally:
            connection.close()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"  # playwright knows no other


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[ChatServer]:
    directory = tmp_path / "chat"
    shutil.copytree(CHAT, directory, ignore=shutil.ignore_patterns("*.sqlite3*", "__pycache__"))
    with ChatServer(directory) as server:
        yield server


@asynccontextmanager
async def tab(browser: Browser, url: str, **options: Any) -> AsyncIterator[Page]:
    """A page in a context of its own; no script may fail in it."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.set_default_timeout(PATIENCE)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    await page.goto(url)
    yield page
    await context.close()
    assert faults == []


@asynccontextmanager
async def user(browser: Browser, chat: ChatServer | FrameProxy, name: str, **options: Any) -> AsyncIterator[Page]:
    """The page of a user who is connected and has the room's history."""
    async with tab(browser, f"http://127.0.0.1:{chat.port}/?user={name}", **options) as page:
        await expect(page.locator("#pill")).to_have_text("connected")
        await expect(page.get_by_text("Loading")).to_have_count(0)
        yield page


async def say(page: Page, text: str) -> None:
    await page.fill("#content", text)
    await page.press("#content", "Enter")


async def test_a_user_is_picked_and_stays_over_a_reload(browser: Browser, chat: ChatServer) -> None:
    async with tab(browser, chat.url) as page:
        await page.get_by_role("button", name="Ann").click()
        await expect(page.locator("#pill")).to_have_text("connected")
        await say(page, "I was here")
        await expect(page.locator(".message.own:not(.pending)")).to_have_text(re.compile("I was here"))
        await page.reload()
        await expect(page.locator(".message.own .bubble")).to_have_text(["I was here"])
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("heading", name="Who are you?")).to_be_visible()
        assert "user=" not in page.url


async def test_an_unknown_user_has_to_choose(browser: Browser, chat: ChatServer) -> None:
    async with tab(browser, f"{chat.url}/?user=eve") as page:
        await expect(page.get_by_role("alert")).to_have_text("There is no user eve here.")
        await expect(page.get_by_role("button", name="Ben")).to_be_visible()


async def test_two_users_talk(browser: Browser, chat: ChatServer) -> None:
    async with user(browser, chat, "ann") as ann, user(browser, chat, "ben") as ben:
        await expect(ann.locator("#members li")).to_have_text([re.compile("Ann.*you"), re.compile("Ben")])
        await ben.locator("#content").press_sequentially("so")
        await expect(ann.locator("#typing")).to_have_text("Ben is typing\u2026")
        hostile = "<img src=x onerror=alert(1)> & <b>bold</b>"
        await say(ben, hostile)
        await expect(ann.locator(".message .bubble")).to_have_text([hostile])
        await expect(ann.locator("#typing")).to_be_empty()
        await say(ann, "I see")
        await expect(ben.locator(".message .bubble")).to_have_text([hostile, "I see"])
        await expect(ben.locator(".message.own .bubble")).to_have_text([hostile])
        await expect(ben.locator(".pending")).to_have_count(0)

        await ben.get_by_role("button", name="random").click()
        await say(ben, "elsewhere")
        random = ann.get_by_role("button", name="random")
        await expect(random).to_have_text(re.compile("random1 unread"))
        await random.click()
        await expect(ann.locator(".message .bubble")).to_have_text(["elsewhere"])
        await expect(random.locator(".unread")).to_be_hidden()


async def test_nothing_is_lost_over_a_cut(browser: Browser, chat: ChatServer) -> None:
    async with (
        frame_proxy(chat.port) as network,
        user(browser, network, "ann") as ann,
        user(browser, chat, "ben") as ben,
    ):
        network.target = None  # the button's time may be over before Ben has said everything
        await ann.get_by_role("button", name="Cut the network").click()
        await expect(ann.locator("#pill")).to_contain_text("connection lost")
        await expect(ann.locator("#countdown")).to_have_text(re.compile(r"again in \d s"))
        await say(ann, "are you there?")
        await expect(ann.locator(".pending .fate")).to_have_text("waits for the connection")
        for text in "123":
            await say(ben, text)
        await expect(ben.locator(".message.own:not(.pending)")).to_have_count(3)
        network.target = chat.port
        await expect(ann.locator(".notice")).to_have_text("reconnected: 3 messages replayed, nothing lost")
        await expect(ann.locator(".message .bubble")).to_have_text(["1", "2", "3", "are you there?"])
        await expect(ann.locator(".pending")).to_have_count(0)
        await expect(ben.locator(".message .bubble")).to_have_text(["1", "2", "3", "are you there?"])


async def test_nothing_is_lost_or_doubled_where_the_network_is_gone(browser: Browser, chat: ChatServer) -> None:
    async with (
        frame_proxy(chat.port) as network,
        user(browser, network, "ann") as ann,
        user(browser, chat, "ben") as ben,
    ):
        await say(ben, "0")
        await expect(ann.locator(".message .bubble")).to_have_text(["0"])
        network.target = None
        network.cut_in(b"half", by_client=False)
        for text in ("1", "half", "2"):
            await say(ben, text)
        await expect(ben.locator(".message.own:not(.pending)")).to_have_count(4)
        await expect(ann.locator("#pill")).not_to_have_text("connected")
        await say(ann, "are you there?")
        await expect(ann.locator(".pending")).to_have_count(1)
        network.target = chat.port
        await expect(ann.locator(".notice")).to_have_text("reconnected: 2 messages replayed, nothing lost")
        everything = ["0", "1", "half", "2", "are you there?"]
        await expect(ann.locator(".message .bubble")).to_have_text(everything)
        await expect(ben.locator(".message .bubble")).to_have_text(everything)
        await expect(ann.locator(".pending")).to_have_count(0)


async def test_the_console_stays_quiet_while_the_server_is_away(browser: Browser, chat: ChatServer) -> None:
    """But for what the browser itself writes of requests that fail."""
    async with user(browser, chat, "ann") as ann:
        said: list[str] = []
        ann.on("console", lambda message: said.append(message.text))
        failed = partial(ann.expect_event, "requestfailed", lambda request: request.url.endswith("/demo/tokens"))
        async with failed():
            await anyio.to_thread.run_sync(chat.kill)
        async with failed():
            pass
        await anyio.to_thread.run_sync(chat.start)
        await expect(ann.locator("#pill")).to_have_text("connected")
        browsers = ("Failed to load resource: ", "WebSocket connection to ")
        assert [text for text in said if not text.startswith(browsers)] == []


PHONE = {"width": 360, "height": 740}
FITS = "document.documentElement.scrollWidth <= window.innerWidth"


async def test_on_a_phone_everything_fits_and_nothing_moves(browser: Browser, chat: ChatServer) -> None:
    async with user(browser, chat, "ann", viewport=PHONE, has_touch=True, is_mobile=True) as ann:
        await say(ann, "a-word-that-is-far-too-long-for-a-line-of-a-phone" * 3)
        await expect(ann.locator(".message.own:not(.pending)")).to_have_count(1)
        assert await ann.evaluate(FITS)
        before = await ann.locator("#talk").bounding_box()
        await ann.get_by_role("button", name="Cut the network").click()
        await expect(ann.locator("#countdown")).to_have_text(re.compile(r"again in \d s"))
        assert await ann.locator("#talk").bounding_box() == before
        assert await ann.evaluate(FITS)


async def test_a_server_that_forgot_says_so_and_sends_the_history_anew(browser: Browser, chat: ChatServer) -> None:
    async with user(browser, chat, "ann") as ann:
        await say(ann, "before")
        await expect(ann.locator(".message.own:not(.pending)")).to_have_count(1)
        await anyio.to_thread.run_sync(chat.restart)
        await expect(ann.locator(".notice")).to_have_text(
            re.compile("history was reset: epoch .*reloaded from the server")
        )
        await expect(ann.locator(".message .bubble")).to_have_text(["before"])
        await say(ann, "after")
        await expect(ann.locator(".message .bubble")).to_have_text(["before", "after"])
        await expect(ann.locator(".pending")).to_have_count(0)
