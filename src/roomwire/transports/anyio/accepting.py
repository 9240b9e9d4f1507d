"""Accepting: the sockets that the portable shell serves, and in either shell those that are to speak TLS.

A socket can be silent in its TLS handshake as well. So it takes its place at the door before that, and has one
deadline from here to the end of its request's head.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio

from roomwire.transports.anyio.peers import Peer, peer_of

if TYPE_CHECKING:
    from roomwire.transports.anyio.door import Door
    from roomwire.transports.anyio.transport import AnyioTransport

__all__ = [
    "ACCEPTS_PER_TURN",
    "UNSENT",
    "Arrival",
    "Listener",
    "SocketOptions",
    "accept_each",
    "contained",
    "greet",
    "keep_little_unsent",
    "limit_silence",
    "prepare",
    "secured",
]

logger = logging.getLogger("roomwire")

ACCEPTS_PER_TURN = 32
"""A loop by itself accepts as many sockets in a turn as its backlog says; the kernel's queue is another number."""
UNSENT = 16_384
"""Bytes that wait unsent where only the newest matters: about a block, so that for who keeps up it is taken whole."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_EXHAUSTED_PAUSE = 0.1
"""Seconds until the next attempt to accept where the process has no descriptor left (trio: 0.1)."""
_EXHAUSTED_TOLD = 60.0
"""Seconds until the log is told again."""
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)

_T = TypeVar("_T")


class Arrival:
    """A socket up to the end of its TLS handshake; a visitor at the door.

    Attributes:
        peer: the other end.
        address: see `roomwire.transports.anyio.door.Visitor`.
        deadline: of the TLS handshake and the request's head together, in monotonic seconds.
    """

    __slots__ = ("_turn", "address", "deadline", "peer")

    def __init__(self, peer: Peer, address: str, deadline: float) -> None:
        self.peer = peer
        self.address = address
        self.deadline = deadline
        self._turn: anyio.Event | None = None

    def enter(self) -> None:
        """See `roomwire.transports.anyio.door.Visitor`."""
        if self._turn is not None:
            self._turn.set()

    async def turn(self, door: Door) -> None:
        """Wait for its turn at the door: a TLS handshake costs more than what follows it."""
        if not door.knock(self):
            self._turn = anyio.Event()
            await self._turn.wait()


def prepare(sock: socket.socket, family: int) -> None:
    """Set what a socket of `family` that was accepted needs.

    Raises:
        OSError: the peer is gone already (macOS: EINVAL after a reset).
    """
    if family != socket.AF_UNIX:
        # asyncio does so itself, but not for a socket of a listener that was made with protocol 0.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class SocketOptions(Protocol):
    """A socket, as far as its options go: asyncio gives no more of one."""

    @property
    def family(self) -> int:
        """Its address family."""
        ...

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set an option."""
        ...


def limit_silence(sock: SocketOptions, seconds: float) -> None:
    """End a link whose peer acknowledges nothing for so long (RFC 5482). Where the system cannot, it takes minutes."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and sock.family != socket.AF_UNIX:
        with suppress(OSError):  # the peer is gone already
            sock.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))


def keep_little_unsent(sock: SocketOptions) -> None:
    """Have the kernel take no more while `UNSENT` bytes wait in it that it has not sent. On Linux; else nothing.

    What it has sent counts no more, so that a far peer is sent as much at a time as before. macOS has the option as
    well, and yet takes what is written: only whether the socket is said to be writable depends on it, and a link
    with a full buffer would have to be sent nearly all of that before the next byte is taken.
    """
    if sys.platform == "linux" and sock.family != socket.AF_UNIX:
        with suppress(OSError):  # the peer is gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


def greet(sock: socket.socket) -> Peer | None:
    """Prepare a socket that was accepted, and say whose it is; None where that one is gone, and it is closed then."""
    try:
        family = sock.family
        peer = peer_of(family, sock.getpeername())
        prepare(sock, family)
    except OSError:
        sock.close()
        return None
    return peer


class Listener(Protocol):
    """Where sockets come from: a listening socket, or what looks like one."""

    def fileno(self) -> int:
        """Readable where a socket can be had."""
        ...

    def accept(self) -> tuple[socket.socket, object]:
        """As of a socket that does not block; `EOFError` where none comes any more."""
        ...


async def accept_each(owner: AnyioTransport, listener: Listener, start: Callable[[socket.socket], object]) -> None:
    """Start a task for each socket, until `anyio.notify_closing` is called for the listener."""
    tell_at = 0.0
    while True:
        try:
            await anyio.wait_readable(listener)
        except anyio.ClosedResourceError:
            return
        for _ in range(ACCEPTS_PER_TURN):
            try:
                start(listener.accept()[0])
            except BlockingIOError:
                break
            except EOFError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                if (now := owner.host.runtime.now()) >= tell_at:
                    tell_at = now + _EXHAUSTED_TOLD
                    fields = {"event": "exhausted", "error": error.strerror, "open": len(owner.carriers)}
                    logger.error("cannot accept connections now", extra={"roomwire": fields})
                await anyio.sleep(_EXHAUSTED_PAUSE)
                break


async def contained(
    serve: Callable[[AnyioTransport, socket.socket], Awaitable[None]], owner: AnyioTransport, sock: socket.socket
) -> None:
    """Serve one socket; a fault in that is logged, and the other sockets go on."""
    try:
        await serve(owner, sock)
    except Exception as error:
        logger.error("a connection failed", exc_info=error, extra={"roomwire": {"event": "error"}})


async def secured(
    owner: AnyioTransport,
    sock: socket.socket,
    handshake: Callable[[AnyioTransport, socket.socket, Arrival], Awaitable[_T]],
) -> _T | None:
    """Take a socket through its TLS handshake; None where that failed, and the socket is closed then.

    `handshake` minds the deadline, and closes the socket where it fails. The place at the door is given back at
    the end: who calls has its carrier welcomed in the same turn of the loop, so that it gets that place.
    """
    peer = greet(sock)
    if peer is None:
        return None
    arrival = owner.arrive(peer)
    if arrival is None:
        sock.close()  # before TLS there is no way to say why
        return None
    try:
        try:
            await arrival.turn(owner.door)  # it comes soon, whoever else is silent
        except BaseException:
            sock.close()
            raise
        return await handshake(owner, sock, arrival)
    except _BROKEN as error:  # OSError has ssl.SSLError and TimeoutError
        fields = {"event": "tls_failed", "peer": peer.name, "error": type(error).__name__}
        logger.debug("a TLS handshake failed", extra={"roomwire": fields})
        return None
    finally:
        owner.door.leave(arrival)
