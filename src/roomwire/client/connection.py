"""The door to the client: `connect`, and the `Client` that it gives."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from roomwire.client.endpoint import Endpoint
from roomwire.client.engine import Engine, Token
from roomwire.client.events import Item
from roomwire.client.headers import Headers, checked_headers
from roomwire.client.link import Dialer
from roomwire.client.room import Room
from roomwire.client.rooms import Membership
from roomwire.client.session import Options, Phase, Session
from roomwire.client.ticket import Ticket
from roomwire.client.timing import SystemTiming, Timing
from roomwire.core.errors import ConnectionClosed
from roomwire.core.schema import EventSchema

__all__ = ["Client", "connect"]


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: Token = None,
    state: bool = False,
    link_events: bool = False,
    events: Iterable[EventSchema[Any]] = (),
    headers: Headers = (),
    uds: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    compression: bool = False,
    options: Options | None = None,
    timing: Timing | None = None,
) -> AsyncIterator[Client]:
    """Connect to a roomwire server, and stay connected.

        async with connect("ws://127.0.0.1:8000/ws", token=fetch_token) as client:
            await client.join("chat:general")
            async for item in client:
                match item:
                    case Event(name="message.new", data=data): ...
                    case StateReset(room=room, state=state): ...

    It enters once the first welcome is there, however many attempts that takes; put
    `anyio.fail_after` around it to bound the wait. What ends it for good is raised: here before the first
    welcome, later from whatever is called.

    Args:
        url: ``ws://`` or ``wss://``.
        token: a credential, sent in the ``Authorization`` header only; or a function, plain or async, that gives a
            fresh one and is called before every attempt. What it raises before the first welcome is raised
            here; after that the attempt counts as failed, unless it is a `RoomwireError`, which ends the client.
        state: whether the rooms that the server joins by itself come with a `StateReset` at first.
        link_events: whether `Connected` and `Disconnected` are handed over too.
        events: declarations of events (`roomwire.Event`): their data comes as what they say, such as a model,
            and where it is not that, an `InvalidEvent` comes instead.
        headers: further headers of the handshake, by name or as pairs of names and values.
        uds: the path of a Unix socket to connect to in place of the URL's host.
        ssl_context: for ``wss://``; by default the system's certificates are trusted.
        compression: whether to offer permessage-deflate (RFC 7692).
        options: limits.
        timing: clock, waits and chance; for tests.

    Raises:
        LocalError: the URL, the token or a header is not correct, or an event is declared twice.
        ConnectionRefused: the server refused, and trying again would not help.
        ConnectionClosed: the server closed the connection for good.
    """
    options = options or Options()
    timing = timing or SystemTiming()
    endpoint = Endpoint.parse(url, uds)
    # 22 characters of A-Z a-z 0-9 - _. It lives in this object alone, so no two clients share one.
    session = Session(secrets.token_urlsafe(16), timing.random, options, wants_state=state, events=events)
    dialer = Dialer(
        endpoint=endpoint,
        headers=checked_headers(headers),
        ssl_context=ssl_context,
        compression=compression,
        max_incoming_size=options.max_incoming_size,
    )
    engine = Engine(session, dialer, token, timing=timing, options=options, link_events=link_events)
    client = Client(engine, session, endpoint)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(engine.run)
        try:
            await engine.opened()
            yield client
        except Exception as error:  # noqa: BLE001  raised below, outside of the group, which would wrap it
            failure = error
        finally:
            await engine.aclose()
    if failure is not None:
        raise failure


class Client:
    """A connection to a roomwire server that outlives its links; made by `connect`.

    Iterating gives what comes, in order and each once: see `roomwire.client.events`. Nothing of it is ever
    dropped. While more than `Options.max_unread_events` wait to be read, no more is read from the socket, and the
    server, if that lasts, closes the link as too slow; the client comes back and resumes. Who waits for a reply,
    in the body of such an iteration for example, still gets it: reading then goes on up to four times the
    bound, beyond which the wait fails with `NoReply` or `UnknownOutcome`.
    """

    __slots__ = ("_endpoint", "_engine", "_session")

    def __init__(self, engine: Engine, session: Session, endpoint: Endpoint) -> None:
        self._engine = engine
        self._session = session
        self._endpoint = endpoint

    def __repr__(self) -> str:
        return f"<Client {self._endpoint.url} {self._session.phase.value}>"

    @property
    def user(self) -> str:
        """Who the server takes this client for."""
        return self._session.user

    @property
    def connected(self) -> bool:
        """Whether there is a link at this moment, its rooms resumed."""
        return self._session.phase is Phase.READY

    @property
    def rooms(self) -> list[Room]:
        """The rooms that this client is in, or will be in once there is a link."""
        return [Room(self, membership.name) for membership in self._session.rooms]

    def room(self, name: str) -> Room:
        """A room by its name, whether it is joined or not."""
        return Room(self, name)

    # --- receiving

    def __aiter__(self) -> Client:
        return self

    async def __anext__(self) -> Item:
        try:
            return await self.receive()
        except ConnectionClosed:
            if self._engine.leaving:
                raise StopAsyncIteration from None
            raise

    async def receive(self) -> Item:
        """Wait for the next item; a cancelled wait loses none.

        Raises:
            ConnectionClosed: the client has ended, and everything that came before was read.
            LocalError: another task receives already.
        """
        return await self._engine.receive()

    # --- sending

    async def send(self, event: str, data: object = None, *, room: str | None = None) -> Any:
        """Send a message and wait for its reply, over as many breaks as it takes.

        The server carries it out once, however often it had to be sent. Without a link it waits in a
        bounded queue. Cancelled, it is not sent, or not again.

        Args:
            event: the message's name.
            data: any JSON value or pydantic model; `bytes` go in a binary frame.
            room: the room that it concerns.

        Returns:
            What the server's handler returned.

        Raises:
            RequestFailed: the server answered with an error.
            UnknownOutcome: it was sent, and no reply can come any more.
            NoReply: it was not sent, since events wait unread, or since the token became another user's.
            QueueFull: too many messages have no reply yet.
            MessageTooLarge: the server would not take it.
            LocalError: the name, the room or the data cannot be sent.
            ConnectionClosed: the client has ended, and the message was not sent.
        """
        self._check_open()
        settled = anyio.Event()
        ticket = Ticket(settled.set)
        message = self._session.requests.send(self._engine.now(), event, data, room, ticket)
        self._engine.pump()
        try:
            await settled.wait()
        finally:
            self._session.requests.forget(message)
        return ticket.result()

    async def notify(self, event: str, data: object = None, *, room: str | None = None) -> bool:
        """Send a message that wants no reply: typing, a cursor's place. If it fails, a `ServerError` tells.

        Returns:
            Whether it was put on a link. False: there is none, and it is gone.

        Raises:
            MessageTooLarge: the server would not take it.
            LocalError: the name, the room or the data cannot be sent.
            ConnectionClosed: the client has ended.
        """
        self._check_open()
        sent = self._session.requests.notify(event, data, room)
        self._engine.pump()
        await anyio.lowlevel.checkpoint()
        await self._engine.written()
        return sent

    # --- rooms

    async def join(self, room: str, *, state: bool = False) -> Room:
        """Be in a room from now on, over all breaks; wait until the server has joined it.

        In the room already it stays in it; without `state` it returns at once.

        Args:
            room: its name.
            state: whether its state is to come, as a `StateReset`: before its first event, or in the room already
                as soon as it is made. Events beyond the state follow on it, again where they came before it.

        Raises:
            RequestFailed: not allowed (``forbidden``), for example.
            NoReply: the reply cannot be read, since events wait unread.
            LocalError: that is no room's name.
            ConnectionClosed: the client has ended.
        """
        self._check_open()
        settled = anyio.Event()
        ticket = Ticket(settled.set)
        membership = self._session.requests.join(room, ticket, state=state)
        self._engine.pump()
        try:
            await settled.wait()
        finally:
            if not ticket.settled:
                self._session.requests.forget_join(membership, ticket)
                self._engine.pump()
        ticket.result()
        return Room(self, room)

    async def leave(self, room: str) -> None:
        """Be in a room no longer; wait until no further event of it can come.

        Raises:
            RequestFailed: the server did not let it go, for example with ``rate_limited``.
            NoReply: the reply cannot be read, since events wait unread.
            ConnectionClosed: the client has ended.
        """
        self._check_open()
        settled = anyio.Event()
        ticket = Ticket(settled.set)
        self._session.requests.leave(room, ticket)
        self._engine.pump()
        await settled.wait()
        ticket.result()

    async def fetch_members(self, room: str) -> dict[str, Any]:
        """Ask the server who is in a room, over all its nodes: by user, each with its info.

        Raises:
            RequestFailed: the server answered with an error.
            NoReply: there is no link, or it broke; ask again.
            ConnectionClosed: the client has ended.
        """
        self._check_open()
        settled = anyio.Event()
        ticket = Ticket(settled.set)
        self._session.requests.members(room, ticket)
        self._engine.pump()
        await settled.wait()
        members: dict[str, Any] = ticket.result()
        return members

    # --- the end

    async def aclose(self) -> None:
        """End it: whoever waits for something is told, and iterating ends after what was received."""
        await self._engine.aclose()

    def _check_open(self) -> None:
        if self._session.phase is Phase.ENDED:
            raise self._session.error()

    def _membership(self, room: str) -> Membership | None:
        return self._session.rooms.get(room)
