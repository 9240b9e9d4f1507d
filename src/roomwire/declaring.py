"""Declaring: the decorators of an application and of a router, and what they make of a function.

Declarations are checked when they are made: a name in a pattern that the function lacks, a parameter
too many, an annotation that cannot be resolved, a dependency that does not fit or a tie between two
patterns fails at import, with the names.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from roomwire.acting import Acting
from roomwire.core.errors import DeclarationError, EventError, LocalError, Unavailable
from roomwire.core.events import check_event_name
from roomwire.core.patterns import Pattern
from roomwire.core.routing import Handler, Hook
from roomwire.core.signatures import Kind, kind_of, name_of, place_of
from roomwire.event import Event
from roomwire.node.connection import Connection

__all__ = ["Declaration", "Declarations", "ErrorHandler"]

AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Any])
RoomPolicyHook = TypeVar("RoomPolicyHook", bound=Callable[..., Awaitable[bool] | bool])
ConnectHook = TypeVar(
    "ConnectHook",
    bound=Callable[..., Awaitable[Collection[str] | bool | None] | Collection[str] | bool | None],
)
DisconnectHook = TypeVar("DisconnectHook", bound=Callable[..., Awaitable[None] | None])
AnyError = TypeVar("AnyError", bound=Exception)

T = TypeVar("T")

ErrorHandler = Callable[[Any], EventError | None]


@dataclass(frozen=True, slots=True)
class Declaration:
    """What one decorator made.

    Attributes:
        hook: how the function is called; None for one of errors.
        pattern: the rooms that it is for, if any.
        errors: the class of errors that `function` turns into answers.
        event: an event that the server sends; `function` is its class.
    """

    kind: Literal["event", "room", "snapshot", "on_connect", "on_disconnect", "error", "sent"]
    function: Callable[..., Any]
    hook: Hook | None = None
    pattern: Pattern | None = None
    errors: type[Exception] | None = None
    event: Event[Any] | None = None

    def copy(self) -> Declaration:
        """One whose hook can be given other dependencies."""
        return self if self.hook is None else _with(self, copy.copy(self.hook))


def _with(declared: Declaration, hook: Hook) -> Declaration:
    return Declaration(declared.kind, declared.function, hook, declared.pattern, declared.errors)


class Declarations(Acting):
    """The decorators that applications and routers have."""

    _event_prefix = ""
    _room_prefix = ""

    def _add(self, declared: Declaration) -> None:
        raise NotImplementedError

    def on(self, event: str, *, room: str | None = None, joined: bool = True) -> Callable[[AnyHandler], AnyHandler]:
        """Declare the handler of an event.

        Its parameters are the pattern's, one annotated `Connection`, those that are marked by `Depends`,
        `User` or `Claims`, and one other: the data, validated to its annotation (any pydantic type; `bytes`
        for binary frames). What it returns becomes the ack. A ``def`` runs in a thread.

        Args:
            event: 1 to 128 characters of ``A-Z a-z 0-9 . _ : -``; the protocol's own names are refused.
            room: a room pattern; without one the handler takes the event where no pattern matches.
            joined: whether the connection has to be in the room.

        Raises:
            DeclarationError: with what does not fit.
        """
        event = self._event_prefix + event
        try:
            check_event_name(event)
        except LocalError as error:
            raise DeclarationError(str(error)) from None
        pattern = None if room is None else Pattern(self._room_prefix + room)

        def declare(function: AnyHandler) -> AnyHandler:
            handler = Handler(event, function, Connection, pattern, joined=joined)
            self._add(Declaration("event", function, handler, pattern))
            return function

        return declare

    @overload
    def event(self, event: Event[T]) -> Event[T]: ...

    @overload
    def event(self, event: str, data: None = None, *, room: str | None = None) -> Event[None]: ...

    @overload
    def event(self, event: str, data: type[T], *, room: str | None = None) -> Event[T]: ...

    @overload
    def event(self, event: str, data: Any, *, room: str | None = None) -> Event[Any]: ...

    def event(self, event: str | Event[Any], data: Any = None, *, room: str | None = None) -> Event[Any]:
        """Declare an event that the server sends. Whoever publishes it is held to this, also by its name.

        Args:
            event: its name; or an `Event` that was made elsewhere, whose name and rooms get no router's prefix.
            data: the type of its data: whatever a pydantic `TypeAdapter` takes, `bytes` for a binary event,
                None for one without data.
            room: the pattern of the rooms that it is published in; None for any room.

        Returns:
            What publishes it: `Event.publish`, or `App.publish` with it in place of the name.

        Raises:
            DeclarationError: with what does not fit, or where it is declared twice.
        """
        if isinstance(event, str):
            event = Event(self._event_prefix + event, data, room=None if room is None else self._room_prefix + room)
        elif data is not None or room is not None:
            raise DeclarationError(f"{event!r} says itself what its data and its rooms are")
        self._add(Declaration("sent", type(event), pattern=event.pattern, event=event))
        return event

    def room(self, pattern: str) -> Callable[[RoomPolicyHook], RoomPolicyHook]:
        """Declare who may join the rooms of a pattern. Rooms that no pattern matches cannot be joined."""
        compiled = Pattern(self._room_prefix + pattern)

        def declare(function: RoomPolicyHook) -> RoomPolicyHook:
            self._add(Declaration("room", function, Hook(function, Connection, compiled.names), compiled))
            return function

        return declare

    def snapshot(self, pattern: str) -> Callable[[AnyHandler], AnyHandler]:
        """Declare the state of a room: what a client gets whose replay cannot be proven, or that asks for it."""
        compiled = Pattern(self._room_prefix + pattern)

        def declare(function: AnyHandler) -> AnyHandler:
            hook = Hook(function, Connection, compiled.names)
            check_shared(hook, hook.link_takers)
            self._add(Declaration("snapshot", function, hook, compiled))
            return function

        return declare

    def on_connect(self, function: ConnectHook) -> ConnectHook:
        """Declare the hook that decides about a connection before the upgrade.

        It returns the rooms to join (authorised by it), or False to refuse with 403. It may
        raise `EventError` to refuse with a text.
        """
        self._add(Declaration("on_connect", function, Hook(function, Connection)))
        return function

    def on_disconnect(self, function: DisconnectHook) -> DisconnectHook:
        """Declare the hook that is called after a connection ended, whoever ended it."""
        self._add(Declaration("on_disconnect", function, Hook(function, Connection)))
        return function

    def error(
        self, errors: type[AnyError]
    ) -> Callable[[Callable[[AnyError], EventError | None]], Callable[[AnyError], EventError | None]]:
        """Declare what clients are told of errors of a class, and of those derived from it.

        The function gets what a handler, a policy, the connect hook or a dependency raised, and returns the
        `EventError` to answer with; None: it is ``internal``, as without the function, and logged. It runs on
        the event loop, so it must not block.

        Raises:
            DeclarationError: it is declared already, too general, or one that roomwire answers itself.
        """
        given: object = errors
        if not (isinstance(given, type) and issubclass(given, Exception)):
            raise DeclarationError(f"error takes a class of exceptions, not {given!r}")
        if errors is Exception:
            raise DeclarationError("error(Exception) would hide every fault: name a class of the application's own")
        if issubclass(errors, EventError | Unavailable):
            raise DeclarationError(f"{errors.__name__} is answered by roomwire itself")

        def declare(function: Callable[[AnyError], EventError | None]) -> Callable[[AnyError], EventError | None]:
            if kind_of(function) is not Kind.SYNC:
                raise DeclarationError(f"{name_of(function)} has to be a def: it only says what to answer")
            self._add(Declaration("error", function, errors=errors))
            return function

        return declare


def check_shared(hook: Hook, link_takers: Collection[str]) -> None:
    """A snapshot is the same for all who ask.

    Raises:
        DeclarationError: it, or a dependency of it, takes a connection.
    """
    for name in link_takers:
        whose = "" if name == hook.name else f", a dependency of {hook.name},"
        raise DeclarationError(f"{name}{whose} takes a connection, but a snapshot is shared by all who ask")


def conflict(what: str, known: Callable[..., Any], other: Callable[..., Any]) -> DeclarationError:
    """Two functions for one thing."""
    return DeclarationError(f"{what} is declared twice: by {place_of(known)} and by {place_of(other)}")
