"""The transport contract: how a transport and the node meet.

A transport turns a listener's sockets, or a host's callbacks, into links. For each request it asks
the node (`Host.admit`), answers the refusal or completes the upgrade, and then moves messages
between a link and the `Receiver` that the node made for it. A link is a WebSocket, or a response that
goes on (`Host.admit_stream`): there messages go one way, and nothing but the end comes back. It holds
no policy: who may connect, what a message means and when a connection is dead are the node's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, Literal, Protocol

from roomwire.core.closing import Closing
from roomwire.core.errors import Refusal
from roomwire.core.limits import Limits
from roomwire.core.request import RequestHead
from roomwire.core.wheel import TimerWheel

__all__ = [
    "Admission",
    "Capabilities",
    "Fallback",
    "Framing",
    "FreshLink",
    "GatheringLink",
    "Host",
    "HttpResponse",
    "Link",
    "ListenOptions",
    "Receiver",
    "Runtime",
    "SpreadingLink",
    "Transport",
    "Upload",
]

Message = str | bytes


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a transport can do.

    Attributes:
        sees_pings: pongs reach us, and count as a sign of life.
        denies_with_status: a refusal keeps its HTTP status.
        writes_directly: a broadcast goes to the socket without a queue in between.
        takes_over: it serves connections that another process accepted (`ListenOptions.handover`).
        serves_fallback: what the node does not answer goes to `Host.fallback`.
    """

    sees_pings: bool = True
    denies_with_status: bool = True
    writes_directly: bool = True
    takes_over: bool = False
    serves_fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenOptions:
    """Where and how a transport listens: the ``[server]`` section as adapters get it.

    Attributes:
        host, port: a TCP address; port 0 takes any.
        uds: the path of a Unix socket, instead.
        fd: an inherited listening socket, instead.
        handover: a Unix stream socket, instead, by which another process hands over the connections that it
            accepted: each byte brings one (``SCM_RIGHTS``). Back go two unsigned 64-bit numbers (big-endian),
            soon after a change: connections taken so far, connections open. Their end (``SHUT_WR``) says that
            no more are taken.
        backlog: connections that the kernel keeps for us.
        ssl: a context where TLS is spoken.
        shell: ``"callback"``, ``"portable"``, or ``"auto"``.
        compression: whether permessage-deflate may be negotiated.
        io_uring: whether one block for many links may be sent in one system call, where the kernel can.
        proxy_headers: whether ``X-Forwarded-For`` and ``-Proto`` are believed, from `forwarded_allow_ips`:
            addresses, networks, or ``"*"``.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    fd: int | None = None
    handover: int | None = None
    backlog: int = 2048
    ssl: SSLContext | None = None
    shell: Literal["auto", "callback", "portable"] = "auto"
    compression: bool = False
    io_uring: bool = True
    proxy_headers: bool = False
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1", "::1")


class Runtime(Protocol):
    """The event loop as the node and its transports see it (`roomwire.runtime`)."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call it in the next turn of the loop, in the order asked for."""
        ...

    def spawn(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> Callable[[], object]:
        """Run it as a task of the node; returns what cancels it."""
        ...


class Framing(Protocol):
    """How a kind of link joins messages into a block, the unit that is written.

    One object for each kind, shared by all links that can take the very same block.
    """

    def block(self, messages: Sequence[Message]) -> Any:
        """The messages, framed and joined."""
        ...

    def size(self, block: Any) -> int:
        """Bytes of a block."""
        ...


class Link(Protocol):
    """One connection's way out. Nothing here blocks, awaits or raises.

    Attributes:
        framing: how its blocks are made.
        peer: where the client is, for logs.
        sent: messages that it was given to send.
    """

    framing: Framing
    peer: str
    sent: int

    def write(self, block: Any, messages: int, *, counted: bool = True) -> None:
        """Send a block of the link's framing, or queue it.

        `counted` is False for a replay, which does not count as slowness. A queue over its limit is told
        to the receiver, `Receiver.overflowed`. Nothing once a close began: no frame follows a close frame.
        """
        ...

    def queued(self) -> int:
        """Bytes that wait for the peer, those in the transport's buffer included."""
        ...

    def uncounted(self) -> int:
        """Bytes that were written with `counted` False and wait."""
        ...

    def when_empty(self, callback: Callable[[], object]) -> None:
        """Call it once, when nothing waits any more; never, where the link ends before."""
        ...

    def ping(self) -> None:
        """Send a protocol ping, where the transport can and the link has any; nothing once a close began."""
        ...

    def close(self, closing: Closing) -> None:
        """Begin the closing handshake, or end the response; after its deadline the link is aborted."""
        ...

    def pause_reading(self) -> None:
        """Read no more for now: the peer's sends come to a halt."""
        ...

    def resume_reading(self) -> None:
        """Read on."""
        ...


class GatheringLink(Link, Protocol):
    """A link whose transport can write to several at the end of a turn of the loop. To have this is optional."""

    def write_soon(self, block: Any, messages: int) -> None:
        """As `Link.write`, before the next turn of the loop ends.

        Whatever is written to this link after it goes out after it.
        """
        ...


class SpreadingLink(Link, Protocol):
    """A link whose transport writes one block to many at once. To have this is optional: else each is written to."""

    def spread(self, links: Sequence[Any], block: Any, messages: int, *, counted: bool = True) -> None:
        """As `Link.write` to each of `links`, which have this one's framing."""
        ...


class FreshLink(Link, Protocol):
    """A link that can have little wait where nobody can replace it any more. To have this is optional."""

    def keep_fresh(self) -> None:
        """Only the newest matters on it from now on: the system below is to take little more than it can send.

        So `Link.queued` shows early that the peer does not keep up. Nothing where the system cannot do it, and
        nothing more where it is called again.
        """
        ...


class Receiver(Protocol):
    """One connection's way in: what the node made of an admission."""

    def opened(self, link: Link) -> None:
        """The request is about to be answered: writes the welcome, and takes messages from now on."""
        ...

    def received(self, messages: Sequence[Message], frames: int, size: int) -> None:
        """Messages came, in `frames` frames (control frames included) and `size` bytes; bytes alone of a stream."""
        ...

    def overflowed(self) -> None:
        """More waits for the peer than may: close the link with 4002."""
        ...

    def failed(self) -> None:
        """The link's own code failed on this connection: close it with 1011."""
        ...

    def starved(self) -> None:
        """An incomplete message comes too slowly: close the link with 4004."""
        ...

    def lost(self, code: int, reason: str, *, by_peer: bool, cause: BaseException | None = None) -> None:
        """The link has ended, with this close code (1006 without a close).

        Called once, and never from within a call of the link.
        """
        ...

    def next_deadline(self) -> float:
        """When `poll` is due, in the runtime's seconds."""
        ...

    def poll(self, now: float) -> None:
        """Deadlines may have passed."""
        ...


@dataclass(slots=True)
class Admission:
    """A request that may go on.

    Attributes:
        receiver: its connection.
        headers: of the response of a stream, all but those of its framing.
    """

    receiver: Receiver
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The answer to a plain HTTP request on the transport's port.

    Attributes:
        sized: whether its length is said; not where a HEAD asks for what would go on, and not with a 204.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    sized: bool = True


@dataclass(frozen=True, slots=True)
class Upload:
    """A plain request whose body is wanted.

    Attributes:
        max_size: bytes of the body at the most.
        answer: gets the body, and gives the response. It may raise `HandshakeRefused` with another one, and is
            cancelled ``limits.handshake_timeout`` seconds after the connection was accepted, as `Host.admit` is.
    """

    max_size: int
    answer: Callable[[bytes], Awaitable[HttpResponse]]


class Fallback(Protocol):
    """The ASGI 3 application that answers plain requests which are not the node's (``server.fallback``)."""

    @property
    def keeps_connections(self) -> bool:
        """Whether a connection may be kept for a further request: not while draining."""
        ...

    def begin(self) -> Refusal | None:
        """A request comes: a refusal where there is no place for it, else it counts until `ended`."""
        ...

    async def run(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Have the application answer; the scope's ``state`` is set here. Raises whatever the application does."""
        ...

    def answered(self, head: RequestHead, status: int, size: int, seconds: float) -> None:
        """The response has ended, with `size` bytes of its body sent; status 0 where none was sent: for the log."""
        ...

    def failed(self, head: RequestHead, problem: BaseException | str) -> None:
        """The application raised, or did what it may not: for the log."""
        ...

    def ended(self) -> None:
        """The application has returned, and its response is with the kernel, or the peer is gone."""
        ...


class Host(Protocol):
    """What the node offers to its transport."""

    @property
    def fallback(self) -> Fallback | None:
        """What answers the plain requests to which `respond` gives None; without it they are 404."""
        ...

    @property
    def limits(self) -> Limits:
        """The node's limits."""
        ...

    @property
    def runtime(self) -> Runtime:
        """The loop that the node runs on."""
        ...

    @property
    def wheel(self) -> TimerWheel:
        """Where links note their deadlines."""
        ...

    @property
    def subprotocols(self) -> Sequence[str]:
        """The wire protocols that may be selected."""
        ...

    def path_is_socket(self, path: str) -> bool:
        """Whether `path` is the WebSocket path."""
        ...

    def path_is_stream(self, path: str) -> bool:
        """Whether `path` is one of event streams, whatever the method: `admit_stream` answers."""
        ...

    def respond(self, head: RequestHead) -> HttpResponse | None:
        """The answer to a plain request (health, the browser client); None for 404."""
        ...

    def wants_body(self, head: RequestHead) -> Upload | None:
        """What to do with the body of a plain request, asked before any of it is read; None: `respond` answers.

        Raises:
            HandshakeRefused: with the response to send, whatever the body is.
        """
        ...

    def at_the_door(self) -> Refusal | None:
        """A refusal that needs no request's content: draining, or too many handshakes already."""
        ...

    async def admit(self, head: RequestHead, subprotocol: str | None) -> Admission:
        """Decide about an upgrade request that is correct in itself; `subprotocol` is the selected one.

        The application decides in here. The transport cancels it ``limits.handshake_timeout`` seconds after
        it accepted the connection, and answers 503.

        Raises:
            HandshakeRefused: with the response to send.
        """
        ...

    async def admit_stream(self, head: RequestHead) -> Admission | HttpResponse:
        """Decide about a request on the path of a stream: it is answered with 200 and goes on, or with a whole answer.

        As `admit` otherwise.

        Raises:
            HandshakeRefused: with the response to send.
        """
        ...

    def abandon(self, admission: Admission) -> None:
        """The peer went away between `admit` and `Receiver.opened`."""
        ...

    def refused(self, head: RequestHead | None, refusal: Refusal, peer: str) -> None:
        """A refusal was sent: for the log."""
        ...

    def fault(self, error: BaseException, where: str) -> None:
        """A fault in the transport's own callback: logged, and the node stops."""
        ...


class Transport(Protocol):
    """Constructed as ``Adapter(options)``, with `ListenOptions`."""

    @property
    def capabilities(self) -> Capabilities:
        """What this transport can do."""
        ...

    async def serve(self, host: Host, *, ready: Callable[[Sequence[str]], None]) -> None:
        """Listen and serve until cancelled, or until `aclose`; `ready` gets the addresses bound."""

    async def stop_accepting(self) -> None:
        """Accept no more: the first step of a drain."""

    async def aclose(self) -> None:
        """Abort what is left."""
