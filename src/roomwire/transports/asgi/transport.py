"""The ASGI transport: an application for a host that accepts, frames and writes (ASGI 3.0).

The host has the sockets, the TLS, the pings and the deflate; who may connect, sizes, rates, the heartbeat of
the protocol, back-pressure and the end are the node's, as on raw sockets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel

from roomwire.core.errors import ConfigError, HandshakeRefused, Refusal
from roomwire.core.handshake import choose_subprotocol
from roomwire.core.request import RequestHead
from roomwire.transports.asgi.link import AsgiLink, AsgiStream
from roomwire.transports.asgi.messages import Receive, Scope, Send, close_event, head_of
from roomwire.transports.asgi.plain import UPGRADE_REQUIRED, body_of, encoded, respond, response_of
from roomwire.transports.asgi.scribe import Scribe
from roomwire.transports.contract import Admission, Capabilities, Host, HttpResponse, ListenOptions, Receiver

__all__ = ["AsgiTransport"]

logger = logging.getLogger("roomwire")

_ABORT_TURNS = 100
"""Turns of the loop in which an aborted link ends; a few are enough."""
_NOT_SERVING = Refusal(503, "unavailable", "the server does not serve yet, or no more", (("Retry-After", "1"),))
_TOO_LONG = Refusal(503, "unavailable", "the decision took too long", (("Retry-After", "5"),))
_BY_GET = Refusal(400, "bad_request", "a WebSocket is opened by GET")
_NOT_FOUND = Refusal(404, "not_found", "nothing is here")
_POLICY = 1008


class AsgiTransport:
    """See `roomwire.transports.contract.Transport`; the object is the ASGI application, too.

    Args:
        options: none, where a host calls it. It cannot listen by itself.

    Attributes:
        cancelled: called with an open connection that the host cancels, as all do at their end and some without
            a word to the peer: a close that begins in it is still sent.
    """

    Options = ListenOptions

    def __init__(self, options: ListenOptions | None = None) -> None:
        self._listens = options is not None
        self._host: Host | None = None
        self._last: Host | None = None  # the same, and still there when it has ended
        self._scribe: Scribe | None = None
        self._links: set[AsgiLink] = set()
        self._closed = anyio.Event()
        self.cancelled: Callable[[Receiver], object] = lambda receiver: None

    @property
    def capabilities(self) -> Capabilities:
        """See `roomwire.transports.contract.Transport`. Whether a status is denied with is the host's."""
        return Capabilities(sees_pings=False, writes_directly=False)

    async def serve(self, host: Host, *, ready: Callable[[Sequence[str]], None]) -> None:
        """See `roomwire.transports.contract.Transport`.

        Raises:
            ConfigError: it was configured to listen.
        """
        if self._listens:
            raise ConfigError(
                'server.transport: "asgi" does not listen by itself: a host serves it, such as'
                ' `uvicorn chat:app.asgi`; set "anyio" for `roomwire run`'
            )
        self._host = self._last = host
        self._scribe = Scribe(host.runtime)
        try:
            ready([])
            await self._closed.wait()
        finally:
            self._host = None
            with anyio.CancelScope(shield=True):
                await self.aclose()

    async def stop_accepting(self) -> None:
        """See `roomwire.transports.contract.Transport`: the host listens on, and the node refuses."""

    async def aclose(self) -> None:
        """See `roomwire.transports.contract.Transport`."""
        self._closed.set()
        for link in list(self._links):
            link.abort()
        for _ in range(_ABORT_TURNS):
            if not self._links:
                return
            await anyio.lowlevel.checkpoint()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application for the scopes ``websocket`` and ``http``."""
        if scope["type"] not in ("websocket", "http"):
            raise NotImplementedError(f"no application for an ASGI scope of the type {scope['type']!r}")
        serve = self._serve_socket if scope["type"] == "websocket" else self._serve_http
        try:
            await serve(head_of(scope), scope, receive, send)
        except OSError:
            return  # ASGI 2.4: the peer is gone, and the host says so in `send`

    # --- WebSockets

    async def _serve_socket(self, head: RequestHead, scope: Scope, receive: Receive, send: Send) -> None:
        event = await receive()
        if event["type"] != "websocket.connect":
            return  # the peer went away at once
        host, scribe = self._host, self._scribe
        admission = None
        try:
            if host is None or scribe is None:
                raise HandshakeRefused(_NOT_SERVING)
            subprotocol, admission = await self._admit(host, head)
        except HandshakeRefused as refused:
            if host is not None:
                host.refused(head, refused.refusal, head.peer)
            await _refuse(scope, send, refused.refusal)
            return
        try:
            await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        except BaseException:
            host.abandon(admission)
            raise
        await self._run(AsgiLink(host, admission.receiver, head.peer, receive, send, scribe, self.cancelled))

    async def _run(self, link: AsgiLink) -> None:
        self._links.add(link)
        try:
            if self._closed.is_set():
                link.abort()  # the node ended while the host accepted
            await link.run()
        finally:
            self._links.discard(link)

    async def _admit(self, host: Host, head: RequestHead) -> tuple[str | None, Admission]:
        """The checks in the protocol's order; that it is a correct upgrade the host has seen to.

        Raises:
            HandshakeRefused: with what to answer.
        """
        if not host.path_is_socket(head.path):
            raise HandshakeRefused(_NOT_FOUND)
        subprotocol = choose_subprotocol(head.header_items(b"sec-websocket-protocol"), host.subprotocols)
        refusal = host.at_the_door()
        if refusal is not None:
            raise HandshakeRefused(refusal)
        try:
            with anyio.fail_after(host.limits.handshake_timeout):
                return subprotocol, await host.admit(head, subprotocol)
        except TimeoutError:
            raise HandshakeRefused(_TOO_LONG) from None

    # --- streams

    async def _admit_stream(self, host: Host, head: RequestHead) -> Admission | HttpResponse:
        try:
            with anyio.fail_after(host.limits.handshake_timeout):
                return await host.admit_stream(head)
        except TimeoutError:
            raise HandshakeRefused(_TOO_LONG) from None

    async def _serve_stream(
        self, host: Host, head: RequestHead, admission: Admission, receive: Receive, send: Send
    ) -> None:
        scribe = self._scribe
        assert scribe is not None  # as long as there is a host
        try:
            await send({"type": "http.response.start", "status": 200, "headers": encoded(admission.headers)})
        except BaseException:
            host.abandon(admission)
            raise
        await self._run(AsgiStream(host, admission.receiver, head.peer, receive, send, scribe, self.cancelled))

    # --- plain HTTP

    async def _serve_http(self, head: RequestHead, scope: Scope, receive: Receive, send: Send) -> None:
        host = self._host
        try:
            if self._last is not None and self._last.path_is_stream(head.path):
                # One that has ended decides as one that is about to: come back.
                decided = await self._admit_stream(self._last, head)
                if isinstance(decided, Admission):
                    await self._serve_stream(self._last, head, decided, receive, send)
                    return
                response = decided
            elif host is None:
                raise HandshakeRefused(_NOT_SERVING)
            else:
                response = await self._answer(host, head, receive)
        except HandshakeRefused as refused:
            if host is not None:
                host.refused(head, refused.refusal, head.peer)
            response = response_of(refused.refusal)
        await respond(send, "http.response", response, head_only=head.method == "HEAD")

    async def _answer(self, host: Host, head: RequestHead, receive: Receive) -> HttpResponse:
        """The answer to a plain request.

        Raises:
            HandshakeRefused: with what to answer.
        """
        if host.path_is_socket(head.path):
            raise HandshakeRefused(UPGRADE_REQUIRED if head.method == "GET" else _BY_GET)
        upload = host.wants_body(head)
        if upload is None:
            response = host.respond(head) if head.method in ("GET", "HEAD") else None
            if response is None:
                raise HandshakeRefused(_NOT_FOUND)
            return response
        try:
            with anyio.fail_after(host.limits.handshake_timeout):
                return await upload.answer(await body_of(head, receive, upload.max_size))
        except TimeoutError:
            raise HandshakeRefused(_TOO_LONG) from None


async def _refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    """Refuse before the upgrade: with the status, where the host can, else by its 403."""
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await respond(send, "websocket.http.response", response_of(refusal))
    else:
        await send(close_event(_POLICY, refusal.error))
