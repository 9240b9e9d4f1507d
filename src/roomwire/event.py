"""Event: the declaration of an event that the server sends, as applications, publishers and clients hold it."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from roomwire.acting import Acting
from roomwire.core.errors import DeclarationError
from roomwire.core.publication import Publication
from roomwire.core.schema import EventSchema
from roomwire.node.connection import Connection

__all__ = ["Event"]

T = TypeVar("T")

_OPTIONS = ("exclude", "history", "key")
_acting = Acting()


class Event(EventSchema[T]):
    """An event that the server sends: its name, the type of its data, and its rooms.

        message_new = app.event("message.new", MessageNew, room="chat:{channel}")
        await message_new.publish(MessageNew(content="hi"), channel="general")

    `App.event` makes one and declares it. One that is made by itself can be shared with programs that have no
    application: ``app.event(message_new)`` declares it.

    Args:
        name: 1 to 128 characters of ``A-Z a-z 0-9 . _ : -``; the protocol's own names are refused.
        data: the type of its data: whatever a pydantic `TypeAdapter` takes, `bytes` for a binary event,
            None for one without data.
        room: the pattern of the rooms that it is published in; None for any room.

    Attributes:
        name: its name.
        type: the type of its data.
        pattern: its rooms; None for any.
        binary: whether its data is bytes.

    Raises:
        DeclarationError: the name, the pattern or the type is not correct.
    """

    __slots__ = ()

    @overload
    def __init__(self: Event[None], name: str, data: None = None, *, room: str | None = None) -> None: ...

    @overload
    def __init__(self, name: str, data: type[T], *, room: str | None = None) -> None: ...

    @overload
    def __init__(self: Event[Any], name: str, data: Any, *, room: str | None = None) -> None: ...

    def __init__(self, name: str, data: Any = None, *, room: str | None = None) -> None:
        super().__init__(name, data, room=room)
        taken = [option for option in _OPTIONS if self.pattern is not None and option in self.pattern.names]
        if taken:
            raise DeclarationError(
                f"the room pattern {room!r} names {', '.join(taken)}, an option of publish: choose another name"
            )

    @overload
    async def publish(
        self: Event[None],
        data: None = None,
        /,
        *,
        exclude: Connection | str | None = None,
        history: bool = True,
        key: str | None = None,
        **parameters: str | int,
    ) -> Publication: ...

    @overload
    async def publish(
        self,
        data: T,
        /,
        *,
        exclude: Connection | str | None = None,
        history: bool = True,
        key: str | None = None,
        **parameters: str | int,
    ) -> Publication: ...

    async def publish(
        self,
        data: Any = None,
        /,
        *,
        exclude: Connection | str | None = None,
        history: bool = True,
        key: str | None = None,
        **parameters: str | int,
    ) -> Publication:
        """Publish it to the room that the parameters of its pattern name; see `App.publish`.

        Args:
            data: its data.
            exclude, history, key: see `App.publish`.
            parameters: those of the pattern.

        Raises:
            LocalError: the parameters do not make a room (see `EventSchema.room`), or no node is running.
            InvalidData: the data does not fit; with the paths.
            EventTooLarge, Unavailable: see `App.publish`.
        """
        room = self.room(**parameters)
        return await _acting.publish(room, self, data, exclude=exclude, history=history, key=key)
