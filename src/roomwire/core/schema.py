"""What an application declares of an event that its server sends: its name, its data, and its rooms.

An event that is not declared carries whatever JSON it is given. A declared one is validated when it is
published, by whoever publishes it, and written as its type says: see `EventSchema.encode`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from roomwire.core.envelope import dump
from roomwire.core.errors import DeclarationError, LocalError
from roomwire.core.events import check_event_name
from roomwire.core.patterns import Pattern, PatternTable, PatternTie
from roomwire.core.positions import check_room_name
from roomwire.core.signatures import annotation_of

__all__ = ["EventSchema", "EventTable", "InvalidData", "write_event"]

T = TypeVar("T")

_MAX_FAULTS = 20
_FIELD = re.compile(r"field_name='([^']*)'")


class InvalidData(LocalError):
    """The data of a declared event is not what it is declared to be; nothing was published.

    Attributes:
        event: the event's name.
        faults: where and what: each a path, such as ``author.name``, and a text. They hold nothing of the data.
    """

    def __init__(self, event: str, faults: list[tuple[str, str]]) -> None:
        told = "; ".join(f"{path}: {text}" if path else text for path, text in faults)
        super().__init__(f"the data of {event} does not fit its declaration: {told}")
        self.event = event
        self.faults = faults


class EventSchema(Generic[T]):
    """An event that the server sends.

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

    __slots__ = ("_check", "_read", "_write", "binary", "name", "pattern", "type")

    @overload
    def __init__(self: EventSchema[None], name: str, data: None = None, *, room: str | None = None) -> None: ...

    @overload
    def __init__(self, name: str, data: type[T], *, room: str | None = None) -> None: ...

    @overload
    def __init__(self: EventSchema[Any], name: str, data: Any, *, room: str | None = None) -> None: ...

    def __init__(self, name: str, data: Any = None, *, room: str | None = None) -> None:
        try:
            check_event_name(name)
        except LocalError as error:
            raise DeclarationError(str(error)) from None
        self.name = name
        self.type = data
        self.pattern = None if room is None else Pattern(room)
        self.binary = annotation_of(data)[0] is bytes
        adapter = _adapter(name, data)
        # The adapter's own methods are wrappers that take as long as the work.
        self._check: Callable[..., Any] = adapter.validator.validate_python
        self._read: Callable[..., Any] = adapter.validator.validate_json
        self._write: Callable[..., bytes] = adapter.serializer.to_json

    def __repr__(self) -> str:
        where = "" if self.pattern is None else f" in {self.pattern.text}"
        return f"<{type(self).__name__} {self.name}{where}>"

    def room(self, **parameters: str | int) -> str:
        """The name of one of its rooms: the pattern with its parameters filled in.

        Raises:
            LocalError: it has no pattern, the pattern has a part without a name, or a parameter is missing, too
                many, or not what the pattern would read out of the name again.
        """
        if self.pattern is None:
            raise LocalError(f"{self.name} is declared without a room: name the room that it is for")
        return self.pattern.fill(**parameters)

    def check_room(self, room: str) -> None:
        """Refuse a room that it is not declared for.

        Raises:
            LocalError: the pattern does not match it.
        """
        if self.pattern is not None and self.pattern.match(room) is None:
            check_room_name(room)
            raise LocalError(f"{self.name} is declared for the rooms {self.pattern.text}, not for {room}")

    def validate(self, data: object) -> T:
        """The data, validated; an instance of its model is taken as it is.

        Raises:
            InvalidData: it does not fit.
        """
        if self.binary != isinstance(data, bytes):
            wanted, got = ("bytes", "JSON") if self.binary else ("JSON", "bytes")
            raise InvalidData(self.name, [("", f"it takes {wanted}, not {got}")])
        try:
            value: T = self._check(data)
        except ValidationError as error:
            raise InvalidData(self.name, _faults(error)) from None
        return value

    def encode(self, data: object) -> bytes:
        """The payload of data that is about to be published: raw JSON, or bytes.

        Raises:
            InvalidData: it does not fit, or a model was changed since to what does not.
        """
        value = self.validate(data)
        if isinstance(value, bytes):
            return value
        try:
            return self._write(value, by_alias=True, warnings="error")
        except PydanticSerializationError as error:
            raise InvalidData(self.name, [_changed(error)]) from None

    def read(self, data: object) -> T:
        """What came over the wire, as its type: decoded JSON, or bytes.

        Raises:
            InvalidData: it does not fit.
        """
        if self.binary or isinstance(data, bytes):
            return self.validate(data)
        try:
            # As JSON, in which a date is a string and a tuple an array also where a model is strict.
            value: T = self._read(dump(data))
        except ValidationError as error:
            raise InvalidData(self.name, _faults(error)) from None
        return value


def write_event(event: str | EventSchema[Any], room: str | None, data: object) -> tuple[str, bytes, bool]:
    """The name of an event, its payload (raw JSON, or bytes), and whether it is bytes.

    Raises:
        LocalError: the event or the room has no correct name, or the event is declared for other rooms;
            `InvalidData`.
        ValueError: the data of an event that is not declared cannot be serialised.
    """
    if isinstance(event, str):
        check_event_name(event)
    elif room is not None:
        event.check_room(room)
    if room is not None:
        check_room_name(room)
    if not isinstance(event, str):
        return event.name, event.encode(data), event.binary
    if isinstance(data, bytes):
        return event, data, True
    return event, dump(data), False


def _adapter(name: str, data: Any) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(data)
    except Exception as error:
        text = getattr(error, "message", str(error))
        raise DeclarationError(f"the data of {name}: pydantic cannot validate it: {text}") from error
    if not adapter.pydantic_complete:
        raise DeclarationError(f"the data of {name}: its type names one that is not defined yet")
    return adapter


def _faults(error: ValidationError) -> list[tuple[str, str]]:
    found = error.errors(include_url=False, include_input=False, include_context=False)[:_MAX_FAULTS]
    return [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in found]


def _changed(error: PydanticSerializationError) -> tuple[str, str]:
    """Which field, where pydantic says it; its text holds the input."""
    field = _FIELD.search(str(error))
    return (field[1] if field else "", "it was changed to what its type does not allow")


class EventTable:
    """The events that an application declares: by name, and of one name by room."""

    __slots__ = ("_by_name",)

    def __init__(self) -> None:
        self._by_name: dict[str, tuple[PatternTable[EventSchema[Any]], list[EventSchema[Any]]]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def add(self, event: EventSchema[Any]) -> None:
        """Add one.

        Raises:
            PatternTie: one of the name is there for the same rooms; with that one.
        """
        in_rooms, anywhere = self._by_name.setdefault(event.name, (PatternTable(), []))
        if event.pattern is not None:
            in_rooms.add(event.pattern, event)
        elif anywhere:
            raise PatternTie("both for any room", anywhere[0])
        else:
            anywhere.append(event)

    def items(self) -> list[EventSchema[Any]]:
        """All of them, by name, and of one name the most specific first."""
        return [
            event
            for _, (in_rooms, anywhere) in sorted(self._by_name.items())
            for event in (*(entry[1] for entry in in_rooms.items()), *anywhere)
        ]

    def find(self, name: str, room: str | None) -> EventSchema[Any] | None:
        """The declaration that holds for an event in a room; None where there is none of the name.

        Args:
            name: the event's name.
            room: the room; None where it is sent to one client, without a room.

        Raises:
            LocalError: the event is declared, but not for this room.
        """
        found = self._by_name.get(name)
        if found is None:
            return None
        in_rooms, anywhere = found
        if room is None:
            entries = [*anywhere, *(entry[1] for entry in in_rooms.items())]
            if len(entries) == 1 or anywhere:
                return entries[0]
            raise LocalError(
                f"{name} is declared for several rooms: say which one it concerns, or give the declaration"
            )
        match = in_rooms.match(room)
        if match is not None:
            return match[0]
        if anywhere:
            return anywhere[0]
        check_room_name(room)
        patterns = ", ".join(entry[0].text for entry in in_rooms.items())
        raise LocalError(f"{name} is declared for the rooms {patterns}, not for {room}")
