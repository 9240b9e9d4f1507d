"""What passes between a host and an application (ASGI 3.0, "HTTP & WebSocket ASGI Message Format").

Messages are dicts of the host's making: what is optional in them may be missing or None.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

from roomwire.core.closing import fitting
from roomwire.core.request import RequestHead

__all__ = [
    "BLOCK_FRAMING",
    "BODY_FRAMING",
    "Block",
    "BlockFraming",
    "BodyFraming",
    "Event",
    "Receive",
    "Scope",
    "Send",
    "body_event",
    "close_event",
    "head_of",
]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

Message = str | bytes


class Block:
    """Messages that go out one after the other, made once for all who get them.

    Attributes:
        events: a ``websocket.send`` for each; of a stream one ``http.response.body`` for all.
        size: bytes of their payloads.
    """

    __slots__ = ("events", "size")

    def __init__(self, events: tuple[Event, ...], size: int) -> None:
        self.events = events
        self.size = size


class BlockFraming:
    """See `roomwire.transports.contract.Framing`: frames are the host's, so a block is the messages themselves."""

    def block(self, messages: Sequence[Message]) -> Block:
        """The messages as events."""
        return Block(tuple(map(_send_event, messages)), sum(map(size_of, messages)))

    def size(self, block: Block) -> int:
        """Bytes of a block."""
        return block.size


class BodyFraming:
    """See `roomwire.transports.contract.Framing`: chunks are the host's, so a block is a piece of the body."""

    def block(self, messages: Sequence[Message]) -> Block:
        """The messages as one event."""
        data = b"".join(message.encode() if isinstance(message, str) else message for message in messages)
        return Block((body_event(data),) if data else (), len(data))

    def size(self, block: Block) -> int:
        """Bytes of a block."""
        return block.size


BLOCK_FRAMING = BlockFraming()
"""One for all WebSockets: a block is the same for all of them."""
BODY_FRAMING = BodyFraming()
"""The same for all streams."""


def size_of(message: Message) -> int:
    """Bytes of a message's payload."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())


def _send_event(message: Message) -> Event:
    field = "text" if isinstance(message, str) else "bytes"
    return {"type": "websocket.send", field: message}


def close_event(code: int, reason: str) -> Event:
    """A close; where nothing was accepted yet the host makes a 403 of it."""
    return {"type": "websocket.close", "code": code, "reason": fitting(reason)}


def body_event(data: bytes, *, more: bool = True) -> Event:
    """A piece of a response's body, or its end."""
    return {"type": "http.response.body", "body": data, "more_body": more}


def head_of(scope: Scope) -> RequestHead:
    """The request as the node sees it; its path is the one below the place where we are mounted."""
    client = scope.get("client")
    return RequestHead(
        scope.get("method", "GET"),
        _path_of(scope),
        (scope.get("query_string") or b"").decode("latin-1"),
        tuple(_headers(scope)),
        peer=f"{client[0]}:{client[1]}" if client and client[0] else "unknown",
        secure=scope.get("scheme") in ("https", "wss"),
    )


def _path_of(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    # Hosts and frameworks have not agreed on whether `path` includes `root_path`; the specification says that it does.
    if root and (path == root or path.startswith(root.rstrip("/") + "/")):
        path = path[len(root.rstrip("/")) :] or "/"
    raw: bytes = (scope.get("raw_path") or b"").partition(b"?")[0]
    if len(path) > 1 and path.endswith("/") and raw and not raw.endswith(b"/"):
        path = path[:-1]  # Litestar's, whose mounted paths all end so
    return path if path.startswith("/") else f"/{path}"


def _headers(scope: Scope) -> Iterable[tuple[bytes, bytes]]:
    named = False
    for name, value in scope.get("headers", ()):
        lower = bytes(name).lower()
        named = named or lower == b"sec-websocket-protocol"
        yield lower, bytes(value)
    if not named and scope.get("subprotocols"):
        # A host may tell the offers in the scope alone, and a token may be one of them.
        yield b"sec-websocket-protocol", ", ".join(scope["subprotocols"]).encode("latin-1", "replace")
