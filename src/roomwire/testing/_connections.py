"""Connections of the test clients: `Connection` for tests without async, `AsyncConnection` for asyncio and trio."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, TypeVar

from roomwire.testing._sockets import AsyncSocket, BaseSocket, BlockingSocket
from roomwire.testing._talk import Message, matching

__all__ = ["ANY", "AsyncConnection", "Connection", "Facts"]

__tracebackhide__ = True  # pytest shows the test's own line

_S = TypeVar("_S", bound=BaseSocket)


class _Any:
    def __repr__(self) -> str:
        return "ANY"


ANY: Any = _Any()
"""Whatever data a message has."""


class Facts(Generic[_S]):
    """What both kinds of connection know."""

    def __init__(self, sock: _S, name: str) -> None:
        self._socket = sock
        self._talk = sock.talk
        self._name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def welcome(self) -> dict[str, Any]:
        """The data of ``session.welcome``: ``session``, ``client``, ``user``, ``limits``, ``rooms`` and so on."""
        return self._talk.welcome

    @property
    def user(self) -> str:
        """Who the server takes this connection for."""
        return str(self.welcome["user"])

    @property
    def client_id(self) -> str:
        """The client id; a further connection with the same one takes this one's place."""
        return str(self.welcome["client"])

    @property
    def unread(self) -> list[Message]:
        """What has come and was not expected yet, oldest first."""
        self._socket.glance()
        return list(self._talk.inbox)

    @property
    def closed(self) -> tuple[int, str] | None:
        """The code and the reason with which the server ended it, as far as it was read; None while it is open."""
        return self._talk.closed

    @property
    def cursor(self) -> str:
        """What a client that comes back says as ``last_event_id``: the positions of all of its rooms."""
        return self._talk.cursor

    def position(self, room: str) -> str:
        """The last position in a room, ``EPOCH:OFFSET``.

        Raises:
            KeyError: the connection is not in that room.
        """
        return self._talk.position(room)

    def drop(self) -> None:
        """Break the link without a word, as a lost network does."""
        self._socket.abort()


class Connection(Facts[BlockingSocket]):
    """A connection of a `Client`; at the end of a `with` block it is closed."""

    def send(
        self, event: str, data: object = None, *, room: str | None = None, id: str | None = None,
        timeout: float | None = None,
    ) -> Any:  # fmt: skip
        """Send a message, and give what the handler returned.

        Args:
            event: the message's name.
            data: any JSON value or pydantic model; `bytes` go in a binary frame.
            room: the room that it concerns.
            id: the message's id, where a test sends one twice; by default a fresh one.
            timeout: seconds; by default those of ``roomwire_timeout``.

        Raises:
            RequestFailed: the server answered with an error. Of ``internal`` the cause is the handler's own exception.
            NotReceived: there was no answer in time.
            ConnectionClosed: the server closed the connection.
        """
        return self._socket.drive(self._talk.sent(event, data, room, id), f"the reply to {event}", timeout)

    def notify(self, event: str, data: object = None, *, room: str | None = None) -> None:
        """Send a message that wants no reply."""
        self._socket.drive(self._talk.notified(event, data, room), event)

    def send_raw(self, payload: str | bytes) -> None:
        """Send a text or binary message as it is, correct or not."""
        self._socket.drive(self._talk.written(payload), "a message")

    def expect(
        self, event: str, *, room: str | None = None, user: str | None = None, data: object = ANY,
        timeout: float | None = None,
    ) -> Message:  # fmt: skip
        """Wait for the first unread message of that event; others stay unread, for later.

        Args:
            event: its name.
            room: its room, if that matters.
            user: the user whose message made it, if that matters.
            data: its data, if that matters.
            timeout: seconds; by default those of ``roomwire_timeout``.

        Raises:
            NotReceived: it did not come in time. The text lists what did.
            ConnectionClosed: the server closed the connection before.
        """
        wanted = matching(event, room, user, data, ANY)
        return self._socket.drive(self._talk.next_of(wanted), _named(event, room), timeout)

    def receive(self, timeout: float | None = None) -> Message:
        """The very next unread message, whatever it is."""
        return self._socket.drive(self._talk.next_of(lambda item: True), "a message", timeout)

    def join(self, room: str, *, since: str | None = None, state: bool = False) -> dict[str, Any]:
        """Join a room; gives ``position``, ``recovered`` and, where a replay was not proven, ``reason``.

        Args:
            room: its name.
            since: the position from which on it is to be replayed.
            state: whether a ``room.state`` is to come.

        Raises:
            RequestFailed: ``forbidden``, for example.
        """
        return self._socket.drive(self._talk.joined(room, since, state), f"the reply to the join of {room}")

    def leave(self, room: str) -> None:
        """Leave a room; no further event of it comes."""
        self._socket.drive(self._talk.left(room), f"the reply to the leave of {room}")

    def members(self, room: str) -> dict[str, Any]:
        """Who is in a room with presence: each user's info."""
        return self._socket.drive(self._talk.members(room), f"the members of {room}")

    def fence(self) -> list[str]:
        """Wait until the server has handled all that was sent here, and all that it sent until then has come.

        Returns:
            The rooms that this connection is in.
        """
        return self._socket.drive(self._talk.fenced(), "the reply to a fence")

    def assert_silent(self, *events: str, room: str | None = None) -> None:
        """Nothing unread has come; by a fence, not by waiting.

        Args:
            events: the events that must not have come; by default all but those of presence and the session.
            room: only there.

        Raises:
            Unexpected: something did. The text lists it.
        """
        self._socket.drive(self._talk.silent(events, room), "the reply to a fence")

    def expect_close(self, timeout: float | None = None) -> tuple[int, str]:
        """Wait until the server closes the connection; gives the code and the reason."""
        return self._socket.drive(self._talk.ended(), "the server's close", timeout)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, and wait until the server has answered."""
        try:
            if self._socket.socket is not None:
                self._socket.drive(self._talk.said_goodbye(code, reason), "the server's close")
        finally:
            self._socket.abort()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._socket.abort()


class AsyncConnection(Facts[AsyncSocket]):
    """A connection of an `AsyncClient`; each method is the one of `Connection`, to be awaited."""

    async def send(
        self, event: str, data: object = None, *, room: str | None = None, id: str | None = None,
        timeout: float | None = None,
    ) -> Any:  # fmt: skip
        """See `Connection.send`."""
        return await self._socket.drive(self._talk.sent(event, data, room, id), f"the reply to {event}", timeout)

    async def notify(self, event: str, data: object = None, *, room: str | None = None) -> None:
        """See `Connection.notify`."""
        await self._socket.drive(self._talk.notified(event, data, room), event)

    async def send_raw(self, payload: str | bytes) -> None:
        """See `Connection.send_raw`."""
        await self._socket.drive(self._talk.written(payload), "a message")

    async def expect(
        self, event: str, *, room: str | None = None, user: str | None = None, data: object = ANY,
        timeout: float | None = None,
    ) -> Message:  # fmt: skip
        """See `Connection.expect`."""
        wanted = matching(event, room, user, data, ANY)
        return await self._socket.drive(self._talk.next_of(wanted), _named(event, room), timeout)

    async def receive(self, timeout: float | None = None) -> Message:
        """See `Connection.receive`."""
        return await self._socket.drive(self._talk.next_of(lambda item: True), "a message", timeout)

    async def join(self, room: str, *, since: str | None = None, state: bool = False) -> dict[str, Any]:
        """See `Connection.join`."""
        return await self._socket.drive(self._talk.joined(room, since, state), f"the reply to the join of {room}")

    async def leave(self, room: str) -> None:
        """See `Connection.leave`."""
        await self._socket.drive(self._talk.left(room), f"the reply to the leave of {room}")

    async def members(self, room: str) -> dict[str, Any]:
        """See `Connection.members`."""
        return await self._socket.drive(self._talk.members(room), f"the members of {room}")

    async def fence(self) -> list[str]:
        """See `Connection.fence`."""
        return await self._socket.drive(self._talk.fenced(), "the reply to a fence")

    async def assert_silent(self, *events: str, room: str | None = None) -> None:
        """See `Connection.assert_silent`."""
        await self._socket.drive(self._talk.silent(events, room), "the reply to a fence")

    async def expect_close(self, timeout: float | None = None) -> tuple[int, str]:
        """See `Connection.expect_close`."""
        return await self._socket.drive(self._talk.ended(), "the server's close", timeout)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """See `Connection.close`."""
        try:
            if self._socket.socket is not None:
                await self._socket.drive(self._talk.said_goodbye(code, reason), "the server's close")
        finally:
            self._socket.abort()

    async def __aenter__(self) -> AsyncConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        else:
            self._socket.abort()


def _named(event: str, room: str | None) -> str:
    return event if room is None else f"{event} in {room}"
