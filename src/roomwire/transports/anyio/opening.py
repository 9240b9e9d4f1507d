"""Opening: from the first byte of a request to its answer. It lives no longer than that.

The checks run in the protocol's order (docs/reference/protocol.md section 1.4): another path, not a correct
upgrade, then what the node decides. A request for an event stream goes to the node as it is. While the node
decides nothing is read, so what a client sends ahead of the answer waits in the kernel.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from roomwire.core.deflate import Deflate, negotiate_deflate
from roomwire.core.errors import HandshakeRefused, Refusal
from roomwire.core.handshake import MAX_TRAILING, accept_response, check_upgrade, choose_subprotocol
from roomwire.core.http import RequestParser, http_response, stream_response
from roomwire.core.request import RequestHead
from roomwire.transports.anyio.accepting import limit_silence
from roomwire.transports.anyio.framing import CHUNKED, UNFRAMED
from roomwire.transports.anyio.peers import group_of
from roomwire.transports.anyio.refusals import FULL
from roomwire.transports.anyio.serving import serve
from roomwire.transports.anyio.uploading import Uploading
from roomwire.transports.contract import Admission, HttpResponse

if TYPE_CHECKING:
    from roomwire.transports.anyio.carrier import Carrier
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = ["Opening"]


class Opening:
    """Reads a request, and answers it or has the node decide about it.

    Args:
        transport: the carrier's transport.
        carrier: the socket's carrier.
        host: the peer's address without the port, empty for a Unix socket.

    Attributes:
        waits: whether what came is enough to be answered, and waits for its turn at the door.
    """

    __slots__ = ("_cancel", "_carrier", "_host", "_name", "_parser", "_transport", "_uploading", "waits")

    def __init__(self, transport: AnyioTransport, carrier: Carrier, host: str) -> None:
        self._transport = transport
        self._carrier = carrier
        self._host = host
        self._name = carrier.peer  # a forwarded request has another one
        self._parser = RequestParser(peer=carrier.peer, secure=transport.secure)
        self._cancel: Callable[[], object] | None = None
        self._uploading: Uploading | None = None
        self.waits = False

    def receive(self, data: bytes) -> None:
        """Bytes of the head came, or of the body behind it."""
        if self._uploading is not None:
            self._uploading.receive(data)
            return
        if self._parser.collect(data) and not self.waits:
            if self._transport.door.knock(self._carrier):
                self.enter()
            else:
                self.waits = True
                self._carrier.pause_reading()

    def enter(self) -> None:
        """Its turn at the door has come: what is to be said of the request costs something from here on."""
        self.waits = False
        head = None
        try:
            head = self._parser.parse()
            self._decide(self._forwarded(head), self._parser.trailing)
        except HandshakeRefused as refused:
            self._carrier.refuse(head, refused.refusal)

    def _forwarded(self, head: RequestHead) -> RequestHead:
        """The head with the client's address, where a proxy of ours names it."""
        transport = self._transport
        if not (transport.options.proxy_headers and transport.proxies.trust(self._host)):
            return head
        address, secure = transport.proxies.client_of(head)
        if address:
            self._carrier.peer = address
            # The proxy's own address did not count at the door: this one does.
            if not transport.door.readdress(self._carrier, group_of(address)):
                raise HandshakeRefused(FULL)
        return replace(head, peer=self._carrier.peer, secure=head.secure or secure)

    def _decide(self, head: RequestHead, trailing: bytes) -> None:
        host = self._transport.host
        if not host.path_is_socket(head.path):
            self._decide_other(head, trailing)
            return
        upgrade = check_upgrade(head)
        subprotocol = choose_subprotocol(upgrade.subprotocols, host.subprotocols)
        if len(trailing) > MAX_TRAILING:
            raise HandshakeRefused(Refusal(400, "bad_request", "messages before the handshake was answered"))
        refusal = host.at_the_door()
        if refusal is not None:
            raise HandshakeRefused(refusal)
        deflate = negotiate_deflate(upgrade.extensions) if self._transport.options.compression else None
        begin = partial(self._begin_socket, upgrade.key, subprotocol, deflate)
        self._have_decided(head, partial(host.admit, head, subprotocol), begin, trailing)

    def _decide_other(self, head: RequestHead, trailing: bytes) -> None:
        host = self._transport.host
        if host.path_is_stream(head.path):
            self._have_decided(head, partial(host.admit_stream, head), partial(self._begin_stream, head), trailing)
            return
        upload = host.wants_body(head)
        if upload is None:
            self._answer(head)
            return
        self._carrier.resume_reading()  # it may have waited for its turn
        self._uploading = Uploading(self._transport, self._carrier, head, upload)
        self._uploading.receive(trailing)

    def lost(self) -> None:
        """The link has ended; who decides finds out."""

    def expire(self, now: float) -> None:
        """Its deadline is its carrier's."""

    def give_up(self) -> None:
        """The decision takes too long: whoever makes it is to stop."""
        if self._uploading is not None:
            self._uploading.give_up()
        if self._cancel is not None:
            self._cancel()

    def _have_decided(
        self,
        head: RequestHead,
        decide: Callable[[], Awaitable[Admission | HttpResponse]],
        begin: Callable[[Admission], None],
        trailing: bytes,
    ) -> None:
        """Nothing is read until the node has decided; `begin` answers a request that goes on."""
        self._carrier.wait_for_decision()
        self._cancel = self._transport.host.runtime.spawn(self._decided, head, decide, begin, trailing)

    async def _decided(
        self,
        head: RequestHead,
        decide: Callable[[], Awaitable[Admission | HttpResponse]],
        begin: Callable[[Admission], None],
        trailing: bytes,
    ) -> None:
        carrier = self._carrier
        try:
            try:
                decided = await decide()
            except HandshakeRefused as refused:
                if carrier.is_undecided:
                    carrier.refuse(head, refused.refusal)
                return
            if isinstance(decided, HttpResponse):
                if carrier.is_undecided:
                    self._respond(head, decided)
            elif not carrier.is_undecided:
                self._transport.host.abandon(decided)
            else:
                begin(decided)
                if trailing:
                    carrier.receive(trailing)
        except Exception as error:  # noqa: BLE001  the boundary of a connection
            self._transport.failed(carrier, error)

    def _begin_socket(self, key: bytes, subprotocol: str | None, deflate: Deflate | None, admission: Admission) -> None:
        self._carrier.open(admission, accept_response(key, subprotocol, deflate), deflate)

    def _begin_stream(self, head: RequestHead, admission: Admission) -> None:
        # Nothing is heard of such a peer, and while nothing happens it is sent too little to be found slow.
        limit_silence(self._carrier.socket_options(), self._transport.host.limits.heartbeat_timeout)
        framing = UNFRAMED if head.version == "1.0" else CHUNKED
        self._carrier.open_stream(admission, stream_response(head.version, admission.headers), framing)

    def _answer(self, head: RequestHead) -> None:
        """A plain HTTP request."""
        host = self._transport.host
        response = host.respond(head) if head.method in ("GET", "HEAD") else None
        if response is not None:
            self._respond(head, response)
        elif host.fallback is None or "websocket" in map(str.lower, head.header_items(b"upgrade")):
            raise HandshakeRefused(Refusal(404, "not_found", "nothing is here"))
        else:
            serve(self._transport, self._carrier, host.fallback, head, (self._name, self._host), self._parser, Opening)

    def _respond(self, head: RequestHead, response: HttpResponse) -> None:
        data = http_response(
            response.status,
            response.body,
            response.content_type,
            response.headers,
            head_only=head.method == "HEAD",
            sized=response.sized,
        )
        self._carrier.answer(data)
