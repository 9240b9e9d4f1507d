"""One WebSocket to the server: the handshake, and moving bytes between a stream and the machine in `core`."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream

from roomwire.client.endpoint import Endpoint
from roomwire.client.headers import bearer
from roomwire.core.closing import CloseCode
from roomwire.core.errors import ProtocolViolation
from roomwire.core.events import SUBPROTOCOL
from roomwire.core.handshake import Accepted, ClientHandshake, InvalidHandshake
from roomwire.core.websocket import Received, Role, WebSocket

__all__ = ["Dialer", "Link"]

_READ = 65_536
_MAX_FRAGMENTS = 1024


class Link:
    """An open WebSocket.

    Args:
        stream: what it runs over.
        websocket: the machine.
        first: bytes that came behind the handshake.
    """

    __slots__ = ("_first", "_lock", "_stream", "_websocket")

    def __init__(self, stream: ByteStream, websocket: WebSocket, first: bytes = b"") -> None:
        self._stream = stream
        self._websocket = websocket
        self._first = first
        self._lock = anyio.Lock()

    async def receive(self) -> list[Received]:
        """Wait for bytes; what they hold may be nothing whole yet. The last of all is a `Closed`."""
        first, self._first = self._first, b""
        try:
            return self._websocket.receive(first or await self._stream.receive(_READ))
        except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
            return self._websocket.receive_eof()

    async def send(self, payloads: Iterable[str | bytes]) -> None:
        """Send messages, and whatever the machine has to answer.

        A link that broke takes all and sends nothing: what came before it broke is still to be read, a
        close frame for one, and how it ended is seen there.
        """
        async with self._lock:
            data = self._websocket.data_to_send() + b"".join(map(self._websocket.encode, payloads))
            await self._write(data)

    async def close(self, code: int, reason: str = "") -> None:
        """Send a close frame."""
        async with self._lock:
            await self._write(self._websocket.close(code, reason))

    async def abort(self) -> None:
        """End the stream at once."""
        await anyio.aclose_forcefully(self._stream)

    async def _write(self, data: bytes) -> None:
        if data:
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, ssl.SSLError):
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialer:
    """How to open a link.

    Attributes:
        endpoint: where to.
        headers: further request headers.
        ssl_context: for ``wss://``; None for the system's certificates.
        compression: whether to offer permessage-deflate.
        max_incoming_size: bytes of one message that is taken.
    """

    endpoint: Endpoint
    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)
    ssl_context: ssl.SSLContext | None = None
    compression: bool = False
    max_incoming_size: int

    async def open(self, target: str, token: str | None) -> Link:
        """Dial, and shake hands.

        Raises:
            HandshakeRejected: the server answered with a plain HTTP response.
            InvalidHandshake: it did not answer, or not correctly.
            ProtocolViolation: it speaks another protocol.
            OSError: it cannot be reached.
            LocalError: the target or the token cannot be sent.
        """
        authorization = () if token is None else (bearer(token),)
        handshake = ClientHandshake(
            self.endpoint.host_header,
            target,
            key=os.urandom(16),
            subprotocols=(SUBPROTOCOL,),
            headers=(*self.headers, *authorization),
            deflate=self.compression,
        )
        request = handshake.request()
        stream = await self.endpoint.dial(self.ssl_context)
        try:
            accepted = await _shake_hands(stream, handshake, request)
            if accepted.subprotocol != SUBPROTOCOL:
                raise ProtocolViolation(CloseCode.PROTOCOL_ERROR, f"the server does not speak {SUBPROTOCOL}")
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        websocket = WebSocket(
            Role.CLIENT,
            max_message_size=self.max_incoming_size,
            max_fragments=_MAX_FRAGMENTS,
            deflate=accepted.deflate,
            mask_source=os.urandom,
        )
        return Link(stream, websocket, handshake.trailing)


async def _shake_hands(stream: ByteStream, handshake: ClientHandshake, request: bytes) -> Accepted:
    try:
        await stream.send(request)
        while True:
            accepted = handshake.receive(await stream.receive(_READ))
            if accepted is not None:
                return accepted
    except anyio.EndOfStream:
        handshake.receive_eof()
    except (anyio.BrokenResourceError, ssl.SSLError):
        raise InvalidHandshake("the connection broke in the handshake") from None
