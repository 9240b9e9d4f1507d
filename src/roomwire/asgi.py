"""The application inside another one: `App.asgi`, to be mounted in FastAPI or Starlette, or served by an ASGI host.

A node runs as long as the lifespan. A host that serves `AsgiApp` alone sees to that by itself; frameworks tell
their mounted applications nothing of theirs, so there it is entered by hand::

    api = FastAPI(lifespan=app.asgi.lifespan)
    api.mount("/", app.asgi)
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from roomwire.app import App
from roomwire.config import Loaded, load
from roomwire.core.errors import LocalError
from roomwire.node.node import Node
from roomwire.serving import build_node, only_cause
from roomwire.transports.asgi import AsgiTransport
from roomwire.transports.asgi.messages import Receive, Scope, Send

__all__ = ["AsgiApp"]

logger = logging.getLogger("roomwire")


class AsgiApp:
    """An application of roomwire as an ASGI application.

    Args:
        app: the declarations.
        config: a configuration file; without one it is looked for as ``roomwire run`` does.
        loaded: the configuration itself, instead.
        drain_on_sigterm: whether SIGTERM and SIGINT first drain the node and then do what the host has them do.
            Hosts close all sockets at once: without it clients come back all at the same time.
    """

    def __init__(
        self,
        app: App,
        *,
        config: Path | None = None,
        loaded: Loaded | None = None,
        drain_on_sigterm: bool = True,
    ) -> None:
        self._app = app
        self._config = config
        self._loaded = loaded
        self._drains = drain_on_sigterm
        self._transport: AsgiTransport | None = None
        self.node: Node | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a scope of the host's: ``lifespan``, ``websocket`` or ``http``."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._transport is None:
            raise LocalError(
                "the node does not run: pass the framework `lifespan=app.asgi.lifespan`, or enter"
                " `app.asgi.lifespan()` in your own lifespan, since mounted applications are told of none"
            )
        await self._transport(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, _framework: object = None) -> AsyncIterator[None]:
        """The life of the node: connections are served inside, and drained at the end.

        Raises:
            ConfigError, PluginError: the configuration or an adapter is wrong.
            Unavailable: the backplane cannot be reached.
            LocalError: it is entered already.
        """
        if self.node is not None:
            raise LocalError("the node of this application runs already")
        loaded = self._loaded or load(self._config, environ=os.environ, cwd=Path.cwd())
        self._transport = transport = AsgiTransport()
        self.node = node = build_node(self._app, loaded.settings, loaded=loaded, transport=transport)
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(_serve, node)
                with _Signals(node, tasks) if self._drains else nullcontext():
                    yield
                    await node.drain.run()
        except BaseExceptionGroup as group:
            cause = only_cause(group)
            raise cause from cause.__cause__
        finally:
            self.node = None

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


async def _serve(node: Node, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    await node.serve(ready=lambda addresses: task_status.started())


class _Signals:
    """While entered, the first SIGTERM or SIGINT drains the node before the host hears of it.

    The second one the host hears at once.
    """

    def __init__(self, node: Node, tasks: anyio.abc.TaskGroup) -> None:
        self._node = node
        self._tasks = tasks
        self._before: dict[int, Any] = {}
        self._received: list[int] = []

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        loop: Any = anyio.lowlevel.current_token().native_token
        # A handler of Python's runs between two instructions of whatever is under way.
        self._soon: Callable[..., object] = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
        self._came = anyio.Event()
        self._tasks.start_soon(self._drain)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        if self._before:
            self._came.set()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        if len(self._received) > 1:
            self._pass_on(number, frame)
        else:
            self._soon(self._came.set)

    async def _drain(self) -> None:
        await self._came.wait()
        await self._node.drain.run()
        if self._received:
            self._pass_on(self._received[0], None)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
