"""Test clients: `Client` for tests without async, `AsyncClient` for asyncio and trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar

from roomwire.core.events import SUBPROTOCOL
from roomwire.testing._connections import ANY, AsyncConnection, Connection, Facts
from roomwire.testing._sockets import AsyncSocket, BaseSocket, BlockingSocket
from roomwire.testing._talk import Target
from roomwire.testing._transcript import Transcript

__all__ = ["AsyncClient", "Client", "MakeToken"]

__tracebackhide__ = True  # pytest shows the test's own line

MakeToken = Callable[..., str]
_Options = dict[str, Any]
_S = TypeVar("_S", bound=BaseSocket)


class _Connecting(Awaitable[AsyncConnection]):
    """What `AsyncClient.connect` gives: to be awaited, or a block that closes the connection at its end."""

    def __init__(self, connect: Callable[[], Generator[Any, Any, AsyncConnection]]) -> None:
        self._connect = connect
        self._connection: AsyncConnection | None = None

    def __await__(self) -> Generator[Any, Any, AsyncConnection]:
        return self._connect()

    async def __aenter__(self) -> AsyncConnection:
        self._connection = await self
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._connection is not None
        await self._connection.__aexit__(kind, error, traceback)


class _Factory(Generic[_S]):
    """Opens connections to one server, and aborts at the end what a test left open.

    Args:
        port: the server's, on 127.0.0.1.
        path: of its WebSocket.
        make_token: makes a token for a user, with further claims as keywords.
        transcript: what is told of everything.
        timeout: seconds that an operation may take.
    """

    _socket_type: type[_S]

    def __init__(
        self, port: int, path: str, make_token: MakeToken, transcript: Transcript, timeout: float = 5.0
    ) -> None:
        self._port = port
        self._path = path
        self._make_token = make_token
        self._transcript = transcript
        self._timeout = timeout
        self._sockets: list[_S] = []

    def abort(self) -> list[str]:
        """End what is open still, at once; gives the ``session`` of every connection there was."""
        sessions = []
        while self._sockets:
            sock = self._sockets.pop()
            sock.abort()
            sessions += [sock.talk.welcome["session"]] if sock.talk.welcome else []
        return sessions

    def glance(self) -> None:
        """Take in what has come to every connection, for the transcript."""
        for sock in self._sockets:
            sock.glance()

    def _new(self, user: str | None, token: str | None, claims: Mapping[str, object], options: _Options) -> _S:
        if token is ANY:
            token = None if user is None else self._make_token(user, **claims)
        name = f"{user or 'nobody'}#{len(self._sockets) + 1}"
        target = Target(self._port, self._path, name, token, **options)
        sock = self._socket_type(target, self._transcript, self._timeout)
        self._sockets.append(sock)
        return sock


def _options(
    client_id: str | None,
    last_event_id: str | None,
    state: bool,
    query: Mapping[str, str] | None,
    headers: Mapping[str, str] | None,
    compression: bool,
) -> _Options:
    asked = {"client": client_id, "last_event_id": last_event_id or None, "state": "1" if state else None}
    return {
        "query": {**{name: value for name, value in asked.items() if value is not None}, **(query or {})},
        "headers": dict(headers or {}),
        "subprotocols": (SUBPROTOCOL,),
        "compression": compression,
    }


class Client(_Factory[BlockingSocket]):
    """Connects users to the server under test, in blocking style: no event loop, no thread."""

    _socket_type = BlockingSocket

    def connect(
        self,
        user: str | None = None,
        *,
        token: str | None = ANY,
        claims: Mapping[str, object] | None = None,
        client_id: str | None = None,
        last_event_id: str | None = None,
        state: bool = False,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        compression: bool = False,
        timeout: float | None = None,
    ) -> Connection:
        """Open a connection, and wait for its welcome.

        Args:
            user: whose; a token is made for it.
            token: in place of that one; None for none.
            claims: further claims of the token.
            client_id: what a client keeps across reconnects; the server makes one where it is missing.
            last_event_id: resumes: `Connection.cursor` of a connection that was lost, say.
            state: whether the rooms that the server joins by itself come with a ``room.state``.
            query, headers: further parts of the request, such as an ``Origin``.
            compression: whether permessage-deflate is offered.
            timeout: seconds; by default those of ``roomwire_timeout``.

        Raises:
            Refused: the server answered with an HTTP status.
            NotReceived: it did not answer in time.
        """
        options = _options(client_id, last_event_id, state, query, headers, compression)
        sock = self._new(user, token, claims or {}, options)
        try:
            sock.dial()
            sock.drive(sock.talk.opened(), "the welcome", timeout)
        except BaseException:
            sock.abort()
            raise
        return Connection(sock, sock.talk.target.name)

    def reconnect(self, connection: Connection, **options: Any) -> Connection:
        """Come back as a client does whose link broke: same client id, and where it was in its rooms."""
        return self.connect(**_again(connection, options))


class AsyncClient(_Factory[AsyncSocket]):
    """Connects users to the server under test, on asyncio and trio. A connection is bound to no loop and no task."""

    _socket_type = AsyncSocket

    def connect(
        self,
        user: str | None = None,
        *,
        token: str | None = ANY,
        claims: Mapping[str, object] | None = None,
        client_id: str | None = None,
        last_event_id: str | None = None,
        state: bool = False,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        compression: bool = False,
        timeout: float | None = None,
    ) -> _Connecting:
        """See `Client.connect`: ``await client.connect("ann")``, or ``async with client.connect("ann") as ann:``."""
        options = _options(client_id, last_event_id, state, query, headers, compression)

        async def connected() -> AsyncConnection:
            sock = self._new(user, token, claims or {}, options)
            try:
                sock.dial()
                await sock.drive(sock.talk.opened(), "the welcome", timeout)
            except BaseException:
                sock.abort()
                raise
            return AsyncConnection(sock, sock.talk.target.name)

        return _Connecting(lambda: connected().__await__())

    def reconnect(self, connection: AsyncConnection, **options: Any) -> _Connecting:
        """See `Client.reconnect`."""
        return self.connect(**_again(connection, options))


def _again(connection: Facts[Any], options: _Options) -> _Options:
    connection.drop()
    known = {"client_id": connection.client_id, "last_event_id": connection.cursor}
    return {"user": connection.user, **known, **options}
