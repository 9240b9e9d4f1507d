"""The application's life: it starts before anybody is let in, and ends when nobody is left."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest
import trustme
from fastapi import FastAPI

from roomwire import App
from roomwire.core.errors import LocalError
from roomwire.node import drain
from roomwire.testing.clock import VirtualClock
from tests.fallback.apps import Played, respond
from tests.fallback.conftest import live_fallback
from tests.fallback.talking import CLOSE, ask, read_cut, read_response, release, wait_for
from tests.server.chat import make_app
from tests.server.live import Shell
from tests.server.raw import connect, exchange


class Living:
    """An application whose lifespan is told what to do."""

    def __init__(self, app: App, startup: Any = None, shutdown: Any = None) -> None:
        self.app = app
        self.startup = startup
        self.shutdown = shutdown
        self.events: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["state"]["of this request"] = True
            await respond(send, repr(sorted(scope["state"])).encode())
            return
        assert (await receive())["type"] == "lifespan.startup"
        self.events.append("startup")
        scope["state"]["shared"] = True
        await self._do(self.startup, send, "startup")
        assert (await receive())["type"] == "lifespan.shutdown"
        self.events.append("shutdown")
        await self.app.publish("chat:general", "said", "at the end")
        await self._do(self.shutdown, send, "shutdown")

    async def _do(self, what: Any, send: Any, phase: str) -> None:
        if isinstance(what, BaseException):
            raise what
        if what is not None:
            await send({"type": f"lifespan.{phase}.failed", "message": what})
            return
        await send({"type": f"lifespan.{phase}.complete"})


class TestTheLifespan:
    def test_surrounds_the_service_in_the_nodes_context(self, shell: Shell) -> None:
        app = make_app()
        living = Living(app)
        with live_fallback(living, shell, app=app) as server:
            assert living.events == ["startup"]
            # Each request has a copy of the state.
            for _ in range(2):
                assert exchange(server.port, ask("/", CLOSE)).body == b"['of this request', 'shared']"
            node = server.node
        assert living.events == ["startup", "shutdown"]
        assert node.counts.published == 1

    @pytest.mark.parametrize(
        ("startup", "text"),
        [
            ("Traceback\n  of it\nOSError: no database", "OSError: no database"),
            (OSError("no table"), "OSError: no table"),
            (SystemExit("no disk"), "SystemExit: no disk"),
        ],
    )
    def test_what_does_not_start_stops_the_node(self, shell: Shell, startup: Any, text: str) -> None:
        app = make_app()
        with pytest.raises(LocalError, match=f"server.fallback: the application did not start: {text}"):
            with live_fallback(Living(app, startup), shell, app=app):
                pytest.fail("it serves")

    def test_a_failed_shutdown_is_logged(self, shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
        for problem in ("no end", OSError("no end")):
            caplog.clear()
            app = make_app()
            with live_fallback(Living(app, None, problem), shell, app=app):
                pass
            assert [record.levelname for record in caplog.records if "fallback" in record.message] == ["ERROR"]

    def test_a_shutdown_that_hangs_is_cancelled_when_the_time_of_the_drain_is_over(
        self, shell: Shell, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(drain, "_FAREWELL", 0.1)
        for seconds in (0.0, 0.2):
            caplog.clear()
            cancelled = []

            async def application(scope: Any, receive: Any, send: Any) -> None:
                assert scope["type"] == "lifespan"
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    cancelled.append(seconds)  # noqa: B023  called within the turn
                    raise

            with live_fallback(application, shell, drain_timeout=seconds) as server:
                node = server.node
            (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
            assert "the shutdown of the fallback main:api did not end within" in record.getMessage()
            assert cancelled == [seconds]
            assert not node.serving

    def test_a_shutdown_has_what_is_left_of_the_drain_and_always_a_little(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, drain_timeout=1000.0) as server:
            with connect(server.port, ask("/held")):
                wait_for(server, played, "held")
                server.call(server.node.runtime.spawn, server.node.drain.run)
                while not server.call(lambda: server.node.draining):
                    pass
                left = server.call(server.node.drain.remaining)
                assert 900 < left <= 1000
                while server.call(server.node.drain.remaining) >= left:
                    pass
                release(server, played)

    def test_one_that_ends_by_generator_exit_is_one_that_failed(self, shell: Shell) -> None:
        app = make_app()
        with pytest.raises(LocalError, match="the application did not start: GeneratorExit"):
            with live_fallback(Living(app, GeneratorExit()), shell, app=app):
                pytest.fail("it serves")

    @pytest.mark.parametrize("kind", ["raises", "returns", "of another protocol"])
    def test_there_need_be_none(self, shell: Shell, kind: str) -> None:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan" and kind == "raises":
                raise ValueError("only HTTP")
            if scope["type"] == "lifespan" and kind == "returns":
                return
            await receive()
            await respond(send, b"served")

        with live_fallback(application, shell) as server:
            assert exchange(server.port, ask("/", CLOSE)).body == b"served"


class TestTheDrain:
    def test_finishes_what_is_in_flight_and_closes_what_waits(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, drain_timeout=30.0) as server:
            with connect(server.port, ask()) as idle, connect(server.port, ask("/held")) as busy:
                assert read_response(idle).body == b"root"
                wait_for(server, played, "held")
                server.call(server.node.runtime.spawn, server.node.drain.run)
                assert idle.read_to_end() == b""
                release(server, played)
                response = busy.response()
                assert (response.body, response.header("connection")) == (b"released", "close")
            server.ended.result(20)

    def test_refuses_what_comes(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, drain_timeout=30.0) as server:
            with connect(server.port, b"GET / HT") as late, connect(server.port, ask("/held")) as busy:
                wait_for(server, played, "held")
                while not server.call(lambda: server.node.transport.pending):  # type: ignore[attr-defined]
                    pass
                server.call(server.node.runtime.spawn, server.node.drain.run)
                while not server.call(lambda: server.node.draining):
                    pass
                late.send(b"TP/1.1\r\nHost: a\r\n\r\n")
                assert late.response().status == 503
                release(server, played)
                assert busy.response().body == b"released"

    def test_cuts_what_does_not_end_and_says_so(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, drain_timeout=0.2) as server:
            with connect(server.port, ask("/waits")) as link:
                while not played.got.get("/waits"):
                    server.call(lambda: None)
                server.call(server.node.drain.run)
                assert read_cut(link) == b""
            server.ended.result(20)
        assert played.got["/waits"][-1] == {"type": "http.disconnect"}


def test_an_application_that_mounts_the_node_starts_no_second_one(shell: Shell) -> None:
    app = make_app()
    api = FastAPI(lifespan=app.asgi.lifespan)

    @api.get("/rest")
    async def rest() -> str:
        return "of the application"

    api.mount("/", app.asgi)
    with live_fallback(api, shell, app=app) as server:
        assert app.asgi.node is server.node
        assert exchange(server.port, ask("/rest", CLOSE)).json == "of the application"
        assert exchange(server.port, ask("/nowhere", CLOSE)).status == 404
        assert exchange(server.port, ask("/healthz", CLOSE)).status == 200


def test_contexts_of_two_requests_on_one_connection_are_apart(shell: Shell) -> None:
    from contextvars import ContextVar

    user: ContextVar[str] = ContextVar("user", default="nobody")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        before = user.get()
        user.set("ann")
        await respond(send, before.encode())

    with live_fallback(application, shell) as server:
        with connect(server.port, ask() * 3) as link:
            assert [read_response(link).body for _ in range(3)] == [b"nobody"] * 3


def test_over_tls(shell: Shell, played: Played) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    with live_fallback(played, shell, listen={"ssl": context}) as server:
        with httpx.Client(
            base_url=f"https://localhost:{server.port}", verify=client_context, trust_env=False
        ) as client:
            for _ in range(3):
                assert client.post("/echo", content=b"x" * 200_000).content == b"x" * 200_000
            assert len(client.get("/flood").content) == 256 * 65_536
            with suppress(httpx.RemoteProtocolError, httpx.ReadError):
                pytest.fail(client.get("/raises-midway").text)
            assert client.get("/").text == "root"
            # Without a descriptor of its own to write to, the shell holds a `100 Continue` for a turn.
            expecting = {"Expect": "100-continue"}
            assert client.post("/listens", content=b"x" * 10, headers=expecting).text == "heard"
    assert {scope["scheme"] for scope in played.scopes} == {"https"}


def test_a_fault_of_ours_in_one_request_ends_no_other(
    shell: Shell, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    from roomwire.transports.anyio import serving

    whole: Callable[..., Any] = serving.Serving.take

    def broken(self: Any) -> bytes:
        if self.head.query == "broken":
            raise ZeroDivisionError
        data: bytes = whole(self)
        return data

    monkeypatch.setattr(serving.Serving, "take", broken)
    with live_fallback(played, shell, clock=VirtualClock()) as server:
        assert exchange(server.port, ask("/echo?broken", CLOSE)).status == 500
        assert exchange(server.port, ask("/echo", CLOSE)).body == b""
