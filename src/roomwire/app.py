"""App: what the user declares, and what handlers call.

Declarations are checked when they are made: a name in a pattern that the function lacks, a parameter
too many, an annotation that cannot be resolved or a tie between two patterns fails at import, with
the names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from roomwire.core.closing import CloseCode, is_sendable
from roomwire.core.errors import DeclarationError, LocalError
from roomwire.core.events import check_event_name
from roomwire.core.patterns import Pattern, PatternTable
from roomwire.core.positions import check_room_name
from roomwire.core.publication import Publication
from roomwire.core.routing import Handler, Hook, Router
from roomwire.node.connection import Connection, check_reason
from roomwire.node.control import Add, Disconnect, Remove
from roomwire.node.node import running
from roomwire.node.scope import Scope, current

if TYPE_CHECKING:
    from roomwire.asgi import AsgiApp

__all__ = ["App", "Lifespan", "Member"]

AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Awaitable[Any]])
RoomPolicyHook = TypeVar("RoomPolicyHook", bound=Callable[..., Awaitable[bool]])
ConnectHook = TypeVar("ConnectHook", bound=Callable[..., Awaitable[Collection[str] | bool | None]])
DisconnectHook = TypeVar("DisconnectHook", bound=Callable[..., Awaitable[None]])

Lifespan = Callable[["App"], AbstractAsyncContextManager[None]]


class Member:
    """A user in a room, as `App.members` gives it.

    Attributes:
        user: the user's id.
        info: what the application set as `Connection.info`, as raw JSON.
    """

    __slots__ = ("info", "user")

    def __init__(self, user: str, info: bytes) -> None:
        self.user = user
        self.info = info

    def __repr__(self) -> str:
        return f"Member({self.user!r})"


class App:
    """The declarations of an application.

    Args:
        lifespan: an async context manager, entered before the first connection and left after the last.
    """

    def __init__(self, *, lifespan: Lifespan | None = None) -> None:
        self.lifespan = lifespan
        self.router = Router()
        self.rooms: PatternTable[Hook] = PatternTable()
        self.snapshots: PatternTable[Hook] = PatternTable()
        self.connect_hook: Hook | None = None
        self.disconnect_hook: Hook | None = None
        self._asgi: AsgiApp | None = None

    @property
    def asgi(self) -> AsgiApp:
        """This application as an ASGI application; see `roomwire.asgi`."""
        if self._asgi is None:
            from roomwire.asgi import AsgiApp

            self._asgi = AsgiApp(self)
        return self._asgi

    # --- declarations

    def on(self, event: str, *, room: str | None = None, joined: bool = True) -> Callable[[AnyHandler], AnyHandler]:
        """Declare the handler of an event.

        Its parameters are the pattern's, one annotated `Connection`, and one other: the data,
        validated to its annotation (any pydantic type; `bytes` for binary frames). What it
        returns becomes the ack.

        Args:
            event: 1 to 128 characters of ``A-Z a-z 0-9 . _ : -``; the protocol's own names are refused.
            room: a room pattern; without one the handler takes the event where no pattern matches.
            joined: whether the connection has to be in the room.

        Raises:
            DeclarationError: with what does not fit.
        """
        try:
            check_event_name(event)
        except LocalError as error:
            raise DeclarationError(str(error)) from None
        pattern = None if room is None else Pattern(room)

        def declare(function: AnyHandler) -> AnyHandler:
            self.router.add(Handler(event, function, Connection, pattern, joined=joined))
            return function

        return declare

    def room(self, pattern: str) -> Callable[[RoomPolicyHook], RoomPolicyHook]:
        """Declare who may join the rooms of a pattern. Rooms that no pattern matches cannot be joined."""
        compiled = Pattern(pattern)

        def declare(function: RoomPolicyHook) -> RoomPolicyHook:
            self.rooms.add(compiled, Hook(function, Connection, compiled.names))
            return function

        return declare

    def snapshot(self, pattern: str) -> Callable[[AnyHandler], AnyHandler]:
        """Declare the state of a room: what a client gets whose replay cannot be proven, or that asks for it."""
        compiled = Pattern(pattern)

        def declare(function: AnyHandler) -> AnyHandler:
            hook = Hook(function, Connection, compiled.names)
            if hook.pass_link:
                raise DeclarationError(f"{hook.name} takes a connection, but a snapshot is shared by all who ask")
            self.snapshots.add(compiled, hook)
            return function

        return declare

    def on_connect(self, function: ConnectHook) -> ConnectHook:
        """Declare the hook that decides about a connection before the upgrade.

        It returns the rooms to join (authorised by it), or False to refuse with 403. It may
        raise `EventError` to refuse with a text.
        """
        if self.connect_hook is not None:
            raise DeclarationError(f"on_connect is declared twice: {self.connect_hook.name}")
        self.connect_hook = Hook(function, Connection)
        return function

    def on_disconnect(self, function: DisconnectHook) -> DisconnectHook:
        """Declare the hook that is called after a connection ended, whoever ended it."""
        if self.disconnect_hook is not None:
            raise DeclarationError(f"on_disconnect is declared twice: {self.disconnect_hook.name}")
        self.disconnect_hook = Hook(function, Connection)
        return function

    # --- acting

    async def publish(
        self,
        room: str,
        event: str,
        data: object = None,
        *,
        exclude: Connection | str | None = None,
        history: bool = True,
        key: str | None = None,
    ) -> Publication:
        """Publish an event to all members of a room, on all nodes; returns when it is stored.

        In a handler the event bears the user whose message is handled, and a message that is handled
        twice publishes once.

        Args:
            room: the room's name.
            event: the event's name.
            data: any JSON value or pydantic model; `bytes` go in a binary frame.
            exclude: who does not get it, now or in a replay: a connection's client, or a client id, which is
                one of the user whose message is handled; where none is, of whatever user.
            history: False for an ephemeral event, such as "is typing": for those live now, never stored.
            key: makes it idempotent for 5 minutes: a second publish with the key returns the first.

        Raises:
            LocalError: no correct name, or no node is running.
            EventTooLarge: larger than ``limits.max_event_size``.
            Unavailable: it was not stored, or may not have been (``stored`` is None): retry with the key.
        """
        scope = self._scope()
        user = scope.connection.user if scope.connection is not None else None
        excluded = (exclude.client, exclude.user) if isinstance(exclude, Connection) else (exclude, user)
        return await scope.node.publish(
            room,
            event,
            data,
            exclude=excluded[0],
            exclude_user=excluded[1],
            user=user,
            history=history,
            key=key if key is not None or not history else scope.next_publish_key(room),
        )

    async def members(self, room: str) -> list[Member]:
        """The users in a room, each once, on all nodes.

        Raises:
            EventError: ``forbidden``: the room's policy keeps no presence.
            Unavailable: it cannot be read now.
        """
        people = await self._scope().node.presence.people(room)
        return [Member(person.user, person.info) for person in people]

    async def rooms_of(self, user: str) -> list[str]:
        """The rooms with presence that a user is in, on all nodes.

        Raises:
            Unavailable: it cannot be read now.
        """
        return await self._scope().node.backplane.rooms_of(user)

    async def disconnect(self, user: str, *, code: int = CloseCode.REMOVED, reason: str = "") -> None:
        """Close all connections of a user, on all nodes.

        In the connect hook that is all of the user's other ones: about the one that it decides its answer does.

        Args:
            user: the user.
            code: the close code: 4502 for a revoked credential, 4503 as a default; of your own 4100 to
                4199 (the client comes back) and 4600 to 4699 (it does not).
            reason: a text for people.

        Raises:
            LocalError: the code may not stand in a close frame, or `reason` is no text that can be written.
            Unavailable: other nodes could not be told.
        """
        if not is_sendable(code):
            raise LocalError(f"{code} cannot be sent; use 4502, 4503, 4100 to 4199 or 4600 to 4699")
        check_reason(reason)
        await self._scope().node.control.tell(Disconnect(user=user, code=int(code), reason=reason))

    async def add(self, user: str, room: str) -> None:
        """Put all connections of a user into a room, on all nodes, without asking its policy.

        Raises:
            LocalError: that is no room's name.
            Unavailable: other nodes could not be told.
        """
        check_room_name(room)
        await self._scope().node.control.tell(Add(user=user, room=room))

    async def remove(self, user: str, room: str, reason: str = "") -> None:
        """Take all connections of a user out of a room, on all nodes; what let them in before does so no more.

        In a room's policy that is all of the user's other ones: about the one that asks its answer decides.

        Raises:
            LocalError: that is no room's name, or `reason` is no text that can be written.
            Unavailable: other nodes could not be told.
        """
        check_room_name(room)
        check_reason(reason)
        await self._scope().node.control.tell(Remove(user=user, room=room, reason=reason))

    def _scope(self) -> Scope:
        """Where we are: a handler's or a hook's context, else the one running node of the process."""
        scope = current.get(None)
        if scope is not None and scope.node in running:
            return scope
        if len(running) == 1:
            return Scope(running[0])
        state = f"{len(running)} nodes run in this process" if running else "no Node runs in this process"
        raise LocalError(f"{state}: call this from a handler, a hook or the lifespan")
