"""Uploading: from the head of a plain request that may have a body to its answer.

The body is part of the request: it counts towards ``limits.handshake_timeout``, and its connection keeps its
place at the door. While the answer is made nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from roomwire.core.body import CONTINUE, BodyReader
from roomwire.core.errors import HandshakeRefused
from roomwire.core.http import http_response
from roomwire.core.request import RequestHead
from roomwire.transports.contract import Upload

if TYPE_CHECKING:
    from roomwire.transports.anyio.carrier import Carrier
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["Uploading"]


class Uploading:
    """Reads a body and has it answered.

    Args:
        transport: the carrier's transport.
        carrier: the socket's carrier.
        head: the request's head.
        upload: what is to be done with the body.

    Raises:
        HandshakeRefused: the head already says that the body cannot be taken.
    """

    __slots__ = ("_cancel", "_carrier", "_head", "_reader", "_transport", "_upload")

    def __init__(self, transport: AnyioTransport, carrier: Carrier, head: RequestHead, upload: Upload) -> None:
        self._transport = transport
        self._carrier = carrier
        self._head = head
        self._upload = upload
        self._reader = BodyReader(head, upload.max_size)
        self._cancel: Callable[[], object] | None = None

    def receive(self, data: bytes) -> None:
        """Bytes of the body came; none, or the first of them, with the head."""
        try:
            body = self._reader.receive(data)
        except HandshakeRefused as refused:
            self._carrier.refuse(self._head, refused.refusal)
            return
        if body is not None:
            self._carrier.wait_for_decision()
            self._cancel = self._transport.host.runtime.spawn(self._answer, body)
        elif self._reader.awaits_continue and not data:
            self._carrier._put(CONTINUE)

    def give_up(self) -> None:
        """The answer takes too long: whoever makes it is to stop."""
        if self._cancel is not None:
            self._cancel()

    async def _answer(self, body: bytes) -> None:
        carrier = self._carrier
        try:
            try:
                response = await self._upload.answer(body)
            except HandshakeRefused as refused:
                if carrier.is_undecided:
                    carrier.refuse(self._head, refused.refusal)
                return
            data = http_response(response.status, response.body, response.content_type, response.headers)
            if carrier.is_undecided:
                carrier.answer(data)
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self._transport.failed(carrier, error)
