"""Acting: what handlers, hooks and the lifespan call, on an application or on a router of its.

It acts on the node whose context is current, so that a module with handlers needs no import of the application.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

from roomwire.core.closing import CloseCode, check_reason, is_sendable
from roomwire.core.errors import LocalError
from roomwire.core.positions import check_room_name
from roomwire.core.publication import Publication
from roomwire.core.schema import EventSchema
from roomwire.node.connection import Connection
from roomwire.node.control import Add, Disconnect, Remove
from roomwire.node.node import running
from roomwire.node.scope import Scope, current

__all__ = ["Acting", "Member"]

T = TypeVar("T")


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


class Acting:
    """What `App` and `Router` can do while a node runs."""

    @overload
    async def publish(
        self,
        room: str,
        event: EventSchema[None],
        data: None = None,
        *,
        exclude: Connection | str | None = None,
        history: bool = True,
        key: str | None = None,
    ) -> Publication: ...

    @overload
    async def publish(
        self,
        room: str,
        event: EventSchema[T],
        data: T,
        *,
        exclude: Connection | str | None = None,
        history: bool = True,
        key: str | None = None,
    ) -> Publication: ...

    @overload
    async def publish(
        self,
        room: str,
        event: str,
        data: object = None,
        *,
        exclude: Connection | str | None = None,
        history: bool = True,
        key: str | None = None,
    ) -> Publication: ...

    async def publish(
        self,
        room: str,
        event: str | EventSchema[Any],
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
            event: the event's name, or its declaration. The data of a declared event is held to what it is
                declared to be, by its name too.
            data: any JSON value or pydantic model; `bytes` go in a binary frame.
            exclude: who does not get it, now or in a replay: a connection's client, or a client id, which is
                one of the user whose message is handled; where none is, of whatever user.
            history: False for an ephemeral event, such as "is typing": for those live now, never stored.
            key: makes it idempotent for 5 minutes: a second publish with the key returns the first.

        Raises:
            LocalError: no correct name, or no node is running; or the event is declared, for other rooms.
            InvalidData: it does not fit the declaration; with the paths.
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
        await self._scope().node.control.give(Disconnect(user=user, code=int(code), reason=reason))

    async def add(self, user: str, room: str) -> None:
        """Put all connections of a user into a room, on all nodes, without asking its policy.

        Raises:
            LocalError: that is no room's name.
            Unavailable: other nodes could not be told.
        """
        check_room_name(room)
        await self._scope().node.control.give(Add(user=user, room=room))

    async def remove(self, user: str, room: str, reason: str = "") -> None:
        """Take all connections of a user out of a room, on all nodes; what let them in before does so no more.

        In a room's policy that is all of the user's other ones: about the one that asks its answer decides.

        Raises:
            LocalError: that is no room's name, or `reason` is no text that can be written.
            Unavailable: other nodes could not be told.
        """
        check_room_name(room)
        check_reason(reason)
        await self._scope().node.control.give(Remove(user=user, room=room, reason=reason))

    def _scope(self) -> Scope:
        """Where we are: a handler's or a hook's context, else the one running node of the process."""
        scope = current.get(None)
        if scope is not None and scope.node in running:
            return scope
        if len(running) == 1:
            return Scope(running[0])
        state = f"{len(running)} nodes run in this process" if running else "no Node runs in this process"
        raise LocalError(f"{state}: call this from a handler, a hook or the lifespan")
