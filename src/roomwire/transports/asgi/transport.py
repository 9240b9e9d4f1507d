"""The ASGI transport: an application for a host that accepts, frames and writes (ASGI 3.0).

The host has the sockets, the TLS, the pings and the deflate; who may connect, sizes, rates, the heartbeat of
the protocol, back-pressure and the end are the node's, as on raw sockets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel

from roomwire.core.errors import ConfigError, HandshakeRefused, Refusal
from roomwire.core.handshake import choose_subprotocol
from roomwire.core.request import RequestHead
from roomwire.transports.asgi.link import AsgiLink
from roomwire.transports.asgi.messages import Receive, Scope, Send, close_event, head_of
from roomwire.transports.contract import Admission, Capabilities, Host, HttpResponse, ListenOptions

__all__ = ["AsgiTransport"]

logger = logging.getLogger("roomwire")

_ABORT_TURNS = 100
"""Turns of the loop in which an aborted link ends; a few are enough."""
_NOT_SERVING = Refusal(503, "unavailable", "the server does not serve yet, or no more", (("Retry-After", "1"),))
_TOO_LONG = Refusal(503, "unavailable", "the decision took too long", (("Retry-After", "5"),))
_FAILED = Refusal(503, "unavailable", "the server failed; it has been logged", (("Retry-After", "5"),))
_NOT_FOUND = Refusal(404, "not_found", "nothing is here")
_POLICY = 1008


class AsgiTransport:
    """See `roomwire.transports.contract.Transport`; the object is the ASGI application, too.

    Args:
        options: none, where a host calls it. It cannot listen by itself.
    """

    Options = ListenOptions

    def __init__(self, options: ListenOptions | None = None) -> None:
        self._listens = options is not None
        self._host: Host | None = None
        self._links: set[AsgiLink] = set()
        self._closed = anyio.Event()

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
        self._host = host
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
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve_http(scope, send)
        else:
            raise NotImplementedError(f"no application for an ASGI scope of the type {scope['type']!r}")

    # --- WebSockets

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = head_of(scope)
        event = await receive()
        if event["type"] != "websocket.connect":
            return  # the peer went away at once
        host = self._host
        admission = None
        try:
            if host is None:
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
        link = AsgiLink(host, admission.receiver, head.peer, receive, send)
        self._links.add(link)
        try:
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

    # --- plain HTTP

    async def _serve_http(self, scope: Scope, send: Send) -> None:
        head = head_of(scope)
        host = self._host
        response = host.respond(head) if host is not None and head.method in ("GET", "HEAD") else None
        if response is None:
            response = _response_of(_NOT_SERVING if host is None else _NOT_FOUND)
        await _respond(send, "http.response", response, head_only=head.method == "HEAD")


async def _refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    """Refuse before the upgrade: with the status, where the host can, else by its 403."""
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await _respond(send, "websocket.http.response", _response_of(refusal))
    else:
        await send(close_event(_POLICY, refusal.error))


def _response_of(refusal: Refusal) -> HttpResponse:
    body = json.dumps({"error": refusal.error, "detail": refusal.detail}).encode()
    return HttpResponse(refusal.status, body, headers=refusal.headers)


async def _respond(send: Send, kind: str, response: HttpResponse, *, head_only: bool = False) -> None:
    headers = [
        (b"content-type", response.content_type.encode("latin-1")),
        (b"content-length", str(len(response.body)).encode()),
        # What concerns the connection is the host's to say (RFC 9110 section 7.6.1).
        *(
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers
            if name.lower() not in ("connection", "upgrade")
        ),
    ]
    await send({"type": f"{kind}.start", "status": response.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": b"" if head_only else response.body})
