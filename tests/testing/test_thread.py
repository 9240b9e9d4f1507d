"""A server that cannot start or end does not hold the tests up for ever, and says where it is."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from roomwire import App, Connection
from roomwire.config import Settings
from roomwire.core.errors import LocalError
from roomwire.testing import _server
from roomwire.testing._thread import ServerThread
from roomwire.testing.kit import Client, NotReceived, TokenMaker, Transcript, configured, running_server

THREAD = "roomwire-server-under-test"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return configured(None, environ={}, cwd=tmp_path).settings


def wait_for_the_end() -> None:
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(30)
            assert not thread.is_alive()


def test_a_handler_that_blocks(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "_END", 0.1)
    app, blocks, goes_on, transcript = App(), threading.Event(), threading.Event(), Transcript()

    @app.on("block")
    async def block(connection: Connection) -> None:
        blocks.set()
        goes_on.wait()  # the whole loop

    try:
        with pytest.raises(LocalError, match=r"did not drain within 0\.1 s; its thread is busy at:(?s:.*)in block"):
            with running_server(app, settings, transcript) as server:
                client = Client(server.port, server.path, TokenMaker(settings, transcript), transcript)
                with pytest.raises(NotReceived):
                    client.connect("ann").send("block", timeout=0.1)
                assert blocks.wait(30)  # else it would drain in peace
                client.abort()
    finally:
        goes_on.set()
        wait_for_the_end()


def test_a_startup_that_hangs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "_START", 0.1)
    hangs, start = threading.Event(), ServerThread.start

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        hangs.set()
        await anyio.sleep_forever()
        yield

    def started(thread: ServerThread, function: Callable[[], Coroutine[Any, Any, Any]]) -> Future[Any]:
        """The time begins where it hangs: before, the loop may be busy with the start."""
        future = start(thread, function)
        assert hangs.wait(30)
        while "its loop is idle" not in thread.where():
            time.sleep(0.001)
        return future

    monkeypatch.setattr(ServerThread, "start", started)
    with pytest.raises(LocalError, match=r"did not start within 0\.1 s; its loop is idle: something waits there"):
        with running_server(App(lifespan=lifespan), settings, Transcript()):
            pass
    wait_for_the_end()


def test_a_call_after_the_end(settings: Settings) -> None:
    with running_server(App(), settings, Transcript()) as server:
        pass
    with pytest.raises(LocalError, match="the server has ended"):
        server.call(anyio.sleep, 0)
    wait_for_the_end()
