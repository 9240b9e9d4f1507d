"""The fallback: an ASGI application (``server.fallback``) that answers the HTTP which is not the node's.

Its lifespan lies within the node's, and the context of all that it does is the node's, so that its routes publish
as handlers do. How a request becomes a scope is the transport's.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from roomwire.core.errors import LocalError, Refusal
from roomwire.core.request import RequestHead
from roomwire.node import journal
from roomwire.node.admission import unavailable
from roomwire.node.scope import Scope

if TYPE_CHECKING:
    from roomwire.node.node import Node

__all__ = ["Application", "Fallback"]

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[object]]

_ASGI = {"version": "3.0", "spec_version": "2.0"}
"""Of the lifespan protocol; that of a request is its transport's to say."""


class Fallback:
    """Runs an application; see `roomwire.transports.contract.Fallback`.

    Args:
        node: whose context it has.
        application: called with scope, receive and send.
        name: its name, for the log.
    """

    def __init__(self, node: Node, application: Application, name: str = "application") -> None:
        self._node = node
        self._application = application
        self._name = name
        self._state: dict[str, Any] = {}
        self._running = 0
        self._idle: anyio.Event | None = None

    # --- requests

    @property
    def keeps_connections(self) -> bool:
        """See `roomwire.transports.contract.Fallback`."""
        return not self._node.draining

    def begin(self) -> Refusal | None:
        """See `roomwire.transports.contract.Fallback`."""
        node = self._node
        if node.draining:
            return node.drain.refusal()
        if self._running >= node.limits.max_requests:
            return unavailable("too many requests at once")
        self._running += 1
        return None

    async def run(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """See `roomwire.transports.contract.Fallback`."""
        scope["state"] = self._state.copy()
        with Scope(self._node):
            try:
                await self._application(scope, receive, send)
            except* SystemExit as ends:
                # asyncio would end with it, and every connection: a request may not ask for that.
                raise LocalError("the application tried to end the process") from ends
            except* GeneratorExit as ends:
                # No Exception either, and trio would end with it.
                raise LocalError("the application raised GeneratorExit") from ends

    def answered(self, head: RequestHead, status: int, size: int, seconds: float) -> None:
        """See `roomwire.transports.contract.Fallback`."""
        journal.answered(head, status, size, seconds)
        if self._node.meter is not None:
            self._node.meter.answered(head.method, status, seconds)

    def failed(self, head: RequestHead, problem: BaseException | str) -> None:
        """See `roomwire.transports.contract.Fallback`."""
        journal.misbehaved(head, problem)

    def ended(self) -> None:
        """See `roomwire.transports.contract.Fallback`."""
        self._running -= 1
        if self._idle is not None and not self._running:
            self._idle.set()

    async def finished(self) -> None:
        """Wait until no request is in flight."""
        while self._running:
            self._idle = anyio.Event()
            await self._idle.wait()
        self._idle = None

    # --- the lifespan

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """The application's startup at the beginning, and its shutdown at the end (ASGI "Lifespan Protocol").

        A shutdown that takes longer than what is left of the drain is cancelled.

        Raises:
            LocalError: the startup failed.
        """
        failure: Exception | None = None
        # What a task group raises it wraps, so nothing is raised in there.
        async with anyio.create_task_group() as tasks:
            life = _Life(self._node, self._application, self._state)
            tasks.start_soon(life.run)
            await life.started.wait()
            failure = life.failure
            if failure is None:
                try:
                    yield
                except Exception as error:  # noqa: BLE001  raised below
                    failure = error
                life.ending.set()
                seconds = self._node.drain.remaining()
                with anyio.move_on_after(seconds):
                    await life.ended.wait()
                if not life.ended.is_set():
                    journal.hung(self._name, seconds)
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


class _Life:
    """One run of an application's lifespan.

    Attributes:
        started: it has started, failed to, or has no lifespan.
        failure: why it did not start.
        ending: it is to shut down.
        ended: it has.
    """

    def __init__(self, node: Node, application: Application, state: dict[str, Any]) -> None:
        self._node = node
        self._application = application
        self._state = state
        self._took: set[str] = set()
        self._has_none = False
        self.started = anyio.Event()
        self.ending = anyio.Event()
        self.ended = anyio.Event()
        self.failure: Exception | None = None

    async def run(self) -> None:
        """To the end of the application's call."""
        scope = {"type": "lifespan", "asgi": _ASGI, "state": self._state}
        try:
            with Scope(self._node):
                await self._application(scope, self._receive, self._send)
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001  the boundary of the application's lifespan
            self._raised(error)
        finally:
            self.started.set()
            self.ended.set()

    def _raised(self, error: BaseException) -> None:
        if not self.started.is_set():
            # One that does not know lifespans says so before it takes the first message (Django), or by a message
            # of another protocol. Who began to start and failed is not fit to serve.
            if "startup" in self._took and not self._has_none:
                self._fail(f"{type(error).__name__}: {error}", error)
        elif not self.ended.is_set():
            journal.failed(None, "the lifespan of the fallback", error)

    def _fail(self, text: str, cause: BaseException | None = None) -> None:
        self.failure = LocalError(f"server.fallback: the application did not start: {text}")
        self.failure.__cause__ = cause
        self.started.set()

    async def _receive(self) -> dict[str, Any]:
        if "startup" not in self._took:
            self._took.add("startup")
            return {"type": "lifespan.startup"}
        await self.ending.wait()
        if "shutdown" in self._took:
            await anyio.sleep_forever()
        self._took.add("shutdown")
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self.started.set()
        elif kind == "lifespan.startup.failed":
            self._fail(_last_line(message.get("message")))
        elif kind == "lifespan.shutdown.complete":
            self.ended.set()
        elif kind == "lifespan.shutdown.failed":
            logging.getLogger("roomwire").error(
                "the fallback's shutdown failed: %s",
                _last_line(message.get("message")),
                extra={"roomwire": {"event": "error", "where": "fallback"}},
            )
            self.ended.set()
        else:
            self._has_none = True
            raise LocalError(f"a lifespan has no message {kind!r}")


def _last_line(text: object) -> str:
    """Frameworks send a whole traceback; its last line says what happened."""
    lines = str(text or "").strip().splitlines()
    return lines[-1].strip() if lines else "it did not say why"
