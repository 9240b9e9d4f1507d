"""The life of a node inside a host's: startup, what stops it, and the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from roomwire import App
from roomwire.asgi import AsgiApp
from roomwire.config import Loaded
from roomwire.core.errors import LocalError
from tests.asgi.mounting import asgi_app, settings
from tests.asgi.playing import Played, eventually, websocket_scope

pytestmark = pytest.mark.anyio


class Lifespan:
    """A host's lifespan, as a test plays it."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self.told: list[dict[str, Any]] = []
        self._give, self._take = anyio.create_memory_object_stream[dict[str, Any]](10)

    async def run(self) -> None:
        with self._give, self._take:
            await self._app({"type": "lifespan"}, self._take.receive, self._tell)

    async def _tell(self, event: Any) -> None:
        self.told.append(dict(event))

    def says(self, phase: str) -> None:
        self._give.send_nowait({"type": f"lifespan.{phase}"})


async def test_startup_and_shutdown() -> None:
    said: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        said.append("begun")
        yield
        said.append("ended")

    chat = asgi_app(App(lifespan=lifespan))
    host = Lifespan(chat)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.run)
        host.says("startup")
        await eventually(lambda: host.told)
        assert (host.told, said) == ([{"type": "lifespan.startup.complete"}], ["begun"])
        assert chat.node is not None
        host.says("shutdown")
    assert host.told[1:] == [{"type": "lifespan.shutdown.complete"}]
    assert said == ["begun", "ended"]
    assert chat.node is None


async def test_it_can_be_lived_again_but_not_twice_at_once() -> None:
    chat = asgi_app()
    for _ in range(2):
        async with chat.lifespan():
            with pytest.raises(LocalError, match="a second time"):
                async with chat.lifespan():
                    raise AssertionError("never entered")
            host = Lifespan(chat)
            host.says("startup")
            await host.run()
            assert [told["type"] for told in host.told] == ["lifespan.startup.failed"]
            # The first one is none the worse for it.
            played = Played(websocket_scope())
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(chat, played.scope, played.receive, played.send)
                await eventually(partial(played.told, "session.welcome"))
                played.leaves()
            played.close_streams()


async def test_a_start_that_fails_says_why(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        raise ZeroDivisionError("the database is not there")
        yield

    host = Lifespan(asgi_app(App(lifespan=lifespan)))
    host.says("startup")
    await host.run()
    assert host.told == [{"type": "lifespan.startup.failed", "message": "the database is not there"}]
    assert "failed in its startup" in caplog.text


async def test_a_configuration_that_is_wrong_stops_the_start() -> None:
    wrong = settings(backplane={"type": "nothing"})
    host = Lifespan(AsgiApp(App(), loaded=Loaded(wrong, None)))
    host.says("startup")
    await host.run()
    (told,) = host.told
    assert told["type"] == "lifespan.startup.failed"
    assert "backplane" in told["message"]


async def test_a_configuration_that_is_not_there_stops_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    host = Lifespan(AsgiApp(App()))
    host.says("startup")
    await host.run()
    (told,) = host.told
    assert told["type"] == "lifespan.startup.failed"
    assert told["message"].endswith(f": required, but not set (there is no roomwire.toml in {tmp_path})")


async def test_a_node_that_fails_is_told_of_at_the_end() -> None:
    chat = asgi_app()
    host = Lifespan(chat)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.run)
        host.says("startup")
        await eventually(lambda: host.told)
        node = chat.node
        assert node is not None
        node.fault(ZeroDivisionError("of a test"), "a callback")
        await eventually(lambda: not node.serving and chat._transport is not None and chat._transport._host is None)
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        # The host's lifespan, and with it the framework's own, goes on.
        assert [told["type"] for told in host.told] == ["lifespan.startup.complete"]
        assert chat.node is node
        refused = Played(websocket_scope())
        await chat(refused.scope, refused.receive, refused.send)
        assert refused.sent[0]["status"] == 503
        refused.close_streams()
        host.says("shutdown")
    assert host.told[1:] == [{"type": "lifespan.shutdown.failed", "message": "of a test"}]


async def test_without_the_extension_a_refusal_is_the_hosts_403() -> None:
    chat = asgi_app()
    async with chat.lifespan():
        played = Played(websocket_scope(query_string=b"", extensions={}))
        await chat(played.scope, played.receive, played.send)
        assert played.sent == [{"type": "websocket.close", "code": 1008, "reason": "unauthorized"}]
        played.close_streams()


async def test_a_frameworks_body_that_fails_is_what_is_raised() -> None:
    chat = asgi_app()
    with pytest.raises(ZeroDivisionError):
        async with chat.lifespan():
            raise ZeroDivisionError
    assert chat.node is None


async def test_a_host_is_told_what_is_no_scope_of_ours() -> None:
    chat = asgi_app()
    async with chat.lifespan():
        with pytest.raises(NotImplementedError, match="webtransport"):
            await chat({"type": "webtransport"}, None, None)  # type: ignore[arg-type]
