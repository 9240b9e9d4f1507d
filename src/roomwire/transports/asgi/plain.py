"""Plain HTTP in a host's messages: whole bodies that come, whole responses that go."""

from __future__ import annotations

import json
from collections.abc import Iterable

from roomwire.core.errors import HandshakeRefused, Refusal
from roomwire.core.request import RequestHead
from roomwire.transports.asgi.messages import Receive, Send
from roomwire.transports.contract import HttpResponse

__all__ = ["UPGRADE_REQUIRED", "body_of", "encoded", "respond", "response_of"]

UPGRADE_REQUIRED = Refusal(
    426, "upgrade_required", "this is a WebSocket endpoint", (("Upgrade", "websocket"), ("Connection", "Upgrade"))
)


async def body_of(head: RequestHead, receive: Receive, max_size: int) -> bytes:
    """The whole body of a request.

    Raises:
        HandshakeRefused: it is too large; no more of it is read than may be.
        OSError: the peer went away in the middle of it.
    """
    declared = head.header(b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > max_size:
        raise _too_large(max_size)
    body = bytearray()
    more = True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            raise ConnectionAbortedError("the peer went away")
        body += event.get("body") or b""
        if len(body) > max_size:
            raise _too_large(max_size)
        more = event.get("more_body", False)
    return bytes(body)


def _too_large(max_size: int) -> HandshakeRefused:
    return HandshakeRefused(Refusal(413, "too_large", f"a body has at most {max_size} bytes"))


def response_of(refusal: Refusal) -> HttpResponse:
    """A refusal as the protocol says it (docs/reference/protocol.md section 1)."""
    body = json.dumps({"error": refusal.error, "detail": refusal.detail}).encode()
    return HttpResponse(refusal.status, body, headers=refusal.headers)


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers in a host's form. What concerns the connection is the host's to say (RFC 9110 section 7.6.1)."""
    pairs = [(name.lower(), value) for name, value in headers]
    return [(n.encode("latin-1"), v.encode("latin-1")) for n, v in pairs if n not in ("connection", "upgrade")]


async def respond(send: Send, kind: str, response: HttpResponse, *, head_only: bool = False) -> None:
    """Send a response; `kind` is ``http.response`` or ``websocket.http.response``."""
    length = (("content-length", str(len(response.body))),) if response.sized else ()
    headers = encoded((("content-type", response.content_type), *length, *response.headers))
    await send({"type": f"{kind}.start", "status": response.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": b"" if head_only else response.body})
