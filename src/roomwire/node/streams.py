"""Event streams: what is particular to a connection that is a plain response (docs/reference/protocol.md section 8).

Who may have one, and everything that happens in it, is as for any other connection. Particular are the method, what
a browser wants to be told in headers and asks in advance, and a drain: an EventSource gives up for good on a status
other than 200.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from roomwire.core.errors import HandshakeRefused, Refusal
from roomwire.core.eventstream import write_retry
from roomwire.core.request import RequestHead
from roomwire.transports.contract import Admission, HttpResponse

if TYPE_CHECKING:
    from roomwire.node.node import Node
    from roomwire.protocols.contract import WireProtocol

__all__ = ["Streams"]

CONTENT_TYPE = "text/event-stream"
_HEADERS = (
    # Nobody keeps it, and nobody compresses it: what does so waits for more before it passes on an event.
    ("Cache-Control", "no-store, no-transform"),
    ("X-Accel-Buffering", "no"),  # nginx, and others by its example
    ("X-Content-Type-Options", "nosniff"),
)
_PREFLIGHT = (
    ("Access-Control-Allow-Methods", "GET"),
    ("Access-Control-Allow-Headers", "Authorization, Last-Event-ID, Cache-Control"),
    ("Access-Control-Max-Age", "7200"),  # seconds, the most that Chromium keeps it; the request itself is checked again
)
_LEAST_RETRY = 1.0
"""Seconds, on top of a moment of one's own."""
_VARY = (("Vary", "Origin"),)
_NOT_HERE = (b"cookie", b"sec-websocket-protocol")
_ORIGIN = re.compile(rb"[!-~]{1,512}")


class Streams:
    """Answers requests for event streams.

    Args:
        node: the node.
        protocols: the wire protocol at each path.
    """

    def __init__(self, node: Node, protocols: Mapping[str, WireProtocol]) -> None:
        self._node = node
        self._protocols = dict(protocols)

    def serves(self, path: str) -> bool:
        """Whether the path is one of a stream."""
        return path in self._protocols

    async def admit(self, head: RequestHead) -> Admission | HttpResponse:
        """See `roomwire.transports.contract.Host.admit_stream`."""
        shared = self._sharing(head)
        if head.method not in ("GET", "HEAD"):
            return self._preflight(head, shared)
        head = _asked_for(head)
        try:
            if head.method == "HEAD":
                await self._node.admissions.check_stream(head)
                return HttpResponse(200, b"", CONTENT_TYPE, (*_HEADERS, *shared), sized=False)
            admission = await self._node.admissions.admit_stream(head, self._protocols[head.path])
        except HandshakeRefused as refused:
            refusal = refused.refusal
            if self._node.draining and refusal.status == 503:
                return self._come_back(shared)
            raise HandshakeRefused(replace(refusal, headers=(*refusal.headers, *shared))) from None
        admission.headers = (("Content-Type", CONTENT_TYPE), *_HEADERS, *shared)
        return admission

    def _preflight(self, head: RequestHead, shared: tuple[tuple[str, str], ...]) -> HttpResponse:
        """What a browser asks before a page of another origin may send a token in a header.

        It changes nothing and comes without the token, so nothing but the Origin decides: what a drain or a full node
        has to say is the answer to the request that follows.

        Raises:
            HandshakeRefused: 403 for a page that may not connect; 405 for what is no such question.
        """
        refusal = Refusal(405, "method_not_allowed", "an event stream is asked for by GET", (("Allow", "GET, HEAD"),))
        if head.method == "OPTIONS" and head.header_values(b"access-control-request-method"):
            if shared != _VARY:
                return HttpResponse(204, b"", CONTENT_TYPE, (*_PREFLIGHT, *shared), sized=False)
            try:
                self._node.origin.check(head)
            except HandshakeRefused as refused:
                refusal = refused.refusal
        raise HandshakeRefused(replace(refusal, headers=(*refusal.headers, *shared)))

    def _come_back(self, shared: tuple[tuple[str, str], ...]) -> HttpResponse:
        body = write_retry(_LEAST_RETRY + self._node.drain.retry_after())
        return HttpResponse(200, body.encode(), CONTENT_TYPE, (*_HEADERS, *shared))

    def _sharing(self, head: RequestHead) -> tuple[tuple[str, str], ...]:
        """A page of another origin may read the answer, where it may connect (the Fetch Standard, "CORS protocol").

        Without credentials, since none that a browser adds by itself count here. When to come back after a 429 or 503
        is in a header that a page sees only where that is said.
        """
        origins = head.header_values(b"origin")
        if len(origins) != 1 or not _ORIGIN.fullmatch(origins[0]):
            return _VARY
        try:
            self._node.origin.check(head)
        except HandshakeRefused:
            return _VARY
        origin = origins[0].decode("ascii")
        return (("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", "Retry-After"), *_VARY)


def _asked_for(head: RequestHead) -> RequestHead:
    """The head without what no stream is authorised by.

    An image on any page can ask for a stream, by a GET without an Origin, and its browser adds the user's cookies.
    """
    return replace(head, headers=[(name, value) for name, value in head.headers if name not in _NOT_HERE])
