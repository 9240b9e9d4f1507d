"""The application inside another one: `App.asgi`, to be mounted in FastAPI or Starlette, or served by an ASGI host.

A node runs as long as the lifespan. A host that serves `AsgiApp` alone sees to that by itself; frameworks tell
their mounted applications nothing of theirs, so there it is entered by hand::

    api = FastAPI(lifespan=app.asgi.lifespan)
    api.mount("/", app.asgi)
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import anyio
import anyio.abc

from roomwire.app import App
from roomwire.config import Loaded, load
from roomwire.core.closing import CloseCode, Closing
from roomwire.core.errors import LocalError
from roomwire.logs import written_by_default
from roomwire.node.connection import Connection
from roomwire.node.node import Node
from roomwire.node.scope import current
from roomwire.serving import build_node, only_cause
from roomwire.transports.asgi import AsgiTransport
from roomwire.transports.asgi.hostlogs import TokensHidden
from roomwire.transports.asgi.messages import Receive, Scope, Send
from roomwire.transports.asgi.trigger import DrainTrigger

__all__ = ["AsgiApp"]

logger = logging.getLogger("roomwire")

_JSON = b"application/json"


class AsgiApp:
    """An application of roomwire as an ASGI application.

    Args:
        app: the declarations.
        config: a configuration file; without one it is looked for as ``roomwire run`` does.
        loaded: the configuration itself, instead.
        drain_on_sigterm: whether SIGTERM and SIGINT first drain the node and then do what the host has them do.
            Hosts close all sockets at once: without it clients come back all at the same time.
        hide_tokens: whether tokens are taken out of what the host logs, such as the query of every connection.

    Attributes:
        node: the node, while it runs.
    """

    def __init__(
        self,
        app: App,
        *,
        config: Path | None = None,
        loaded: Loaded | None = None,
        drain_on_sigterm: bool = True,
        hide_tokens: bool = True,
    ) -> None:
        self._app = app
        self._config = config
        self._loaded = loaded
        self._drains = drain_on_sigterm
        self._hides = hide_tokens
        self._transport: AsgiTransport | None = None
        self._trigger: DrainTrigger | None = None
        self.node: Node | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a scope of the host's: ``lifespan``, ``websocket`` or ``http``."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._transport is None and self.node is not None:
            # Behind the node: what is the node's has not come this far.
            body = b'{"error":"not_found","detail":"there is nothing here"}'
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", _JSON)]})
            await send({"type": "http.response.body", "body": body})
            return
        if self._transport is None:
            raise LocalError(
                "the node does not run: pass the framework `lifespan=app.asgi.lifespan`, or enter"
                " `app.asgi.lifespan()` in your own lifespan, since mounted applications are told of none"
            )
        if self._trigger is not None:
            self._trigger.hold()
        await self._transport(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, _framework: object = None) -> AsyncIterator[None]:
        """The life of the node: connections are served inside, and drained at the end.

        A node that fails in between ends nothing but itself: it is logged, what is asked of it is answered
        with 503, and the fault is raised at the end.

        What is logged in it is written to stderr, as the section ``[logging]`` says, where no handler takes it.

        Raises:
            ConfigError, PluginError: the configuration or an adapter is wrong.
            Unavailable: the backplane cannot be reached.
            LocalError: it is entered already.
        """
        if self.node is not None:
            raise LocalError("the node of this application runs already: its lifespan is entered a second time")
        around = current.get(None)
        if around is not None and around.node.app is self._app:
            # `server.fallback` names what mounts us: the node that serves it is the one that we would start.
            self.node = around.node
            try:
                yield
            finally:
                self.node = None
            return
        loaded = self._loaded or load(self._config, environ=os.environ, cwd=Path.cwd())
        with written_by_default(loaded.settings.logging.level, loaded.settings.logging.format):
            async with self._serving(loaded):
                yield

    @asynccontextmanager
    async def _serving(self, loaded: Loaded) -> AsyncIterator[None]:
        """`lifespan`, with its configuration."""
        self._transport = transport = AsgiTransport()
        # What `server.fallback` names is the host's own application here, and is there already.
        server = loaded.settings.server.model_copy(update={"fallback": None})
        settings = loaded.settings.model_copy(update={"server": server})
        self.node = node = build_node(self._app, settings, loaded=loaded, transport=transport)
        transport.cancelled = lambda receiver: _restart(node, receiver)
        failures: list[Exception] = []
        try:
            with TokensHidden() if self._hides else nullcontext():
                async with anyio.create_task_group() as tasks:
                    await tasks.start(_serve, node, failures)
                    with DrainTrigger(node.drain.run, tasks) if self._drains else nullcontext() as self._trigger:
                        yield
                        await node.drain.run()
        except BaseExceptionGroup as group:
            cause = only_cause(group)
            raise cause from cause.__cause__
        finally:
            self.node = self._trigger = None
        if failures:
            raise failures[0]

    async def _live(self, receive: Receive, send: Send) -> None:
        """The host's lifespan protocol (ASGI "Lifespan Protocol")."""
        await receive()
        phase = "startup"
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as error:
            logger.error("the node of the ASGI application failed in its %s", phase, exc_info=error)
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


async def _serve(node: Node, failures: list[Exception], *, task_status: anyio.abc.TaskStatus[None]) -> None:
    """Serve; a fault after the start is kept in `failures`, and ends nothing around it."""
    started = False

    def ready(_: object) -> None:
        nonlocal started
        started = True
        task_status.started()

    try:
        await node.serve(ready=ready)
    except Exception as error:
        if not started:
            raise
        failures.append(error)
        logger.critical("the node has failed and ends; the host answers with 503 from now on")


def _restart(node: Node, receiver: object) -> None:
    """A connection that the host cancels comes back, at a moment of its own."""
    assert isinstance(receiver, Connection)
    receiver._shut(Closing.of(CloseCode.RESTART, node.drain.retry_after()))
