"""From a message's event and room to the handler, with its data validated both ways.

A handler's parameters are bound once, at declaration: a parameter that the room pattern names is a
path parameter, one annotated with the connection's class is the link, one with a marker is a dependency
(`roomwire.core.injection`), exactly one other is the data.
What does not fit fails then, with the names, not when the first message comes.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Never, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

from roomwire.core.envelope import dump
from roomwire.core.errors import DeclarationError, EventError, LocalError
from roomwire.core.injection import Plan, marker_of, plan
from roomwire.core.patterns import Pattern, PatternTable, PatternTie
from roomwire.core.signatures import (
    Kind,
    adapter_of,
    annotation_of,
    hints_of,
    kind_of,
    name_of,
    parameters_of,
    place_of,
)

__all__ = ["Bound", "Handler", "Hook", "InvalidReturn", "Router", "add_to"]

AnyHook = TypeVar("AnyHook", bound="Hook")

_UNCHECKED = (Any, object)
_NOTHING = (None, type(None), NoReturn, Never)
_MAX_FAULTS = 20
_PYDANTIC_FAULTS = frozenset(typing.get_args(ErrorType))


class InvalidReturn(LocalError):
    """A handler returned what its own annotation, or JSON, does not allow."""


def _is_bytes(annotation: Any) -> bool:
    return annotation_of(annotation)[0] is bytes


class Bound(dict[str, object]):
    """Arguments of a function that has a `Plan`, and the plan's slots that are there before any step."""

    __slots__ = ("slots",)

    slots: list[object]


class Hook:
    """A declared function and how to call it: with the connection, path parameters, data, and dependencies.

    Args:
        function: an ``async def`` or a ``def``.
        link: the class whose annotation marks the connection's parameter.
        names: the parameters that the room pattern names.
        takes_data: whether one more parameter, the data, is allowed.

    Attributes:
        function: the function.
        name: its name, for logs and errors.
        hints: its annotations, resolved.
        data: the name of the parameter that takes the data, if it has one.
        plan: what has to be done for a call; None for an ``async def`` without dependencies, which is awaited.

    Raises:
        DeclarationError: with the names of what does not fit.
    """

    __slots__ = (
        "_link",
        "_link_class",
        "_marked",
        "_names",
        "_path",
        "_path_is_text",
        "data",
        "function",
        "hints",
        "name",
        "plan",
    )

    def __init__(
        self, function: Callable[..., Any], link: type, names: Iterable[str] = (), *, takes_data: bool = False
    ) -> None:
        self.function = function
        self.name = name_of(function)
        if kind_of(function) not in (Kind.ASYNC, Kind.SYNC):
            raise DeclarationError(f"{self.name} is {kind_of(function).value}: it has to be an async def or a def")
        self.hints = hints_of(function)
        self._link_class = link
        self._names = tuple(names)
        parameters = parameters_of(function)
        marked = {name: marker_of(function, taken, self.hints.get(name)) for name, taken in parameters.items()}
        self._marked = {name: found for name, found in marked.items() if found is not None}
        self.plan = self.plan_with({})
        self._check_names(parameters)
        path = [name for name in self._names if name in parameters]
        self._path = {name: adapter_of(self.hints.get(name, str), function, f"the parameter {name}") for name in path}
        self._path_is_text = all(self.hints.get(name, str) is str for name in path)
        rest = [name for name in parameters if name not in path and name not in self._marked]
        links = [name for name in rest if self.hints.get(name) is link]
        self._link = links[0] if links else None
        others = [name for name in rest if name not in links]
        if len(links) > 1 or len(others) > (1 if takes_data else 0):
            allowed = "one parameter for the data besides" if takes_data else "none besides"
            raise DeclarationError(
                f"{self.name} takes {', '.join(rest) or 'nothing'}: a hook takes the connection"
                f" (annotated {link.__name__}), the pattern's parameters and what is marked by Depends, User or"
                f" Claims, {allowed}"
            )
        self.data = others[0] if others else None

    def _check_names(self, parameters: Mapping[str, object]) -> None:
        twice = [name for name in self._names if name in self._marked]
        if twice:
            raise DeclarationError(f"{', '.join(twice)} of {self.name} has a marker, and the pattern names it too")
        taken = self.plan.path if self.plan is not None else frozenset[str]()
        missing = [name for name in self._names if name not in parameters and name not in taken]
        if missing:
            raise DeclarationError(f"the pattern names {', '.join(missing)}, and {self.name} has no such parameter")

    def plan_with(self, overrides: Mapping[Callable[..., Any], Callable[..., Any]]) -> Plan | None:
        """The plan with other functions in place of some dependencies.

        Raises:
            DeclarationError: with the names of what does not fit.
        """
        if not self._marked and kind_of(self.function) is Kind.ASYNC:
            return None
        return plan(self.function, self._link_class, frozenset(self._names), self._marked, overrides)

    @property
    def place(self) -> str:
        """Its name and where it stands, for errors."""
        return place_of(self.function)

    @property
    def link_takers(self) -> tuple[str, ...]:
        """The functions, it or its dependencies, that take the connection or something of it."""
        own = () if self._link is None else (self.name,)
        return own if self.plan is None else own + self.plan.link_takers

    def bind(self, link: object, path: Mapping[str, str]) -> dict[str, object]:
        """The keyword arguments, path parameters validated; `Bound` where there is a plan.

        Raises:
            ValidationError: a path parameter does not fit its annotation.
            EventError: ``forbidden``: the user or the claims do not fit theirs.
        """
        arguments: dict[str, object] = (
            {name: path[name] for name in self._path}
            if self._path_is_text
            else {name: adapter.validate_python(path[name]) for name, adapter in self._path.items()}
        )
        if self._link is not None:
            arguments[self._link] = link
        if self.plan is None:
            return arguments
        bound = Bound(arguments)
        bound.slots = self.plan.read(link, path)
        return bound


class Handler(Hook):
    """A handler of an event.

    Args:
        event: the event's name.
        function: an ``async def`` or a ``def``.
        link: the class whose annotation marks the connection's parameter.
        pattern: the rooms that it is for; None for wherever no pattern matches.
        joined: whether the connection has to be in the room.

    Attributes:
        binary: whether it takes the payload of binary messages; else it takes JSON.

    Raises:
        DeclarationError: with the names of what does not fit.
    """

    __slots__ = ("_check_return", "_is_direct", "_read", "_write", "binary", "event", "joined", "pattern")

    def __init__(
        self, event: str, function: Callable[..., Any], link: type, pattern: Pattern | None, *, joined: bool = True
    ) -> None:
        super().__init__(function, link, pattern.names if pattern else (), takes_data=True)
        self.event = event
        self.pattern = pattern
        self.joined = joined
        annotation = Any if self.data is None else self.hints.get(self.data, Any)
        self.binary = _is_bytes(annotation)
        # The path parameters are handed on as they stand in the room's name, and there is nothing to prepare.
        self._is_direct = self.plan is None and self._path_is_text
        self._read: Callable[[Any], object] = bytes if self.binary else json.loads
        if annotation not in (*_UNCHECKED, bytes):
            adapter = adapter_of(annotation, function, f"the parameter {self.data}")
            # The adapter's own methods are wrappers that take as long as the work.
            self._read = adapter.validator.validate_python if self.binary else adapter.validator.validate_json
        returns = self.hints.get("return", Any)
        self._check_return: Callable[[Any], Any] | None = None
        self._write: Callable[[Any], bytes] = dump
        if returns not in (*_UNCHECKED, *_NOTHING):
            adapter = adapter_of(returns, function, "the return")
            self._check_return = adapter.validator.validate_python
            self._write = partial(adapter.serializer.to_json, by_alias=True)  # as in events and snapshots

    def arguments(self, link: object, path: Mapping[str, str], data: str | bytes) -> dict[str, object]:
        """The keyword arguments for a message.

        Args:
            link: the connection.
            path: the parameters of the room's pattern.
            data: raw JSON, or the payload of a binary message.

        Raises:
            EventError: code ``invalid``; where the data does not fit, with its faults as details. ``forbidden``
                where the user or the claims do not.
        """
        name = self.data
        if name is not None and self.binary != isinstance(data, bytes):
            wanted, got = ("bytes", "JSON") if self.binary else ("JSON", "bytes")
            raise EventError("invalid", f"{self.event} takes {wanted}, not {got}")
        arguments: dict[str, object]
        if self._is_direct:
            arguments = {**path}
            if self._link is not None:
                arguments[self._link] = link
        else:
            try:
                arguments = self.bind(link, path)
            except ValidationError:
                raise EventError("invalid", "the room does not fit the event's schema") from None
        if name is not None:
            try:
                arguments[name] = self._read(data)
            except ValidationError as error:
                raise EventError("invalid", "the data does not fit the event's schema", _faults(error)) from None
        return arguments

    def dump(self, value: object) -> bytes:
        """The handler's return value as JSON.

        Raises:
            InvalidReturn: it does not fit the annotation, or JSON.
        """
        try:
            if self._check_return is not None:
                value = self._check_return(value)
            elif value is None:
                return b"null"
            return self._write(value)
        except ValueError as error:  # pydantic's errors of validation and of serialisation are some
            raise InvalidReturn(f"{self.name} returned what its annotation does not allow: {error}") from error


def _faults(error: ValidationError) -> list[dict[str, object]]:
    """Where and what, as codes. A text is told only where the application wrote it (`PydanticCustomError`)."""
    faults = []
    for found in error.errors(include_url=False, include_input=False, include_context=False)[:_MAX_FAULTS]:
        fault: dict[str, object] = {"loc": list(found["loc"]), "type": found["type"]}
        if found["type"] not in _PYDANTIC_FAULTS:
            fault["msg"] = found["msg"]
        faults.append(fault)
    return faults


def add_to(table: PatternTable[AnyHook], pattern: Pattern, hook: AnyHook) -> None:
    """Add a hook to a table.

    Raises:
        DeclarationError: it ties with another one; the text says where both stand.
    """
    try:
        table.add(pattern, hook)
    except PatternTie as tie:
        known: Hook = tie.known
        raise DeclarationError(f"{tie}: {known.place} and {hook.place}") from None


class Router:
    """The handlers of an application."""

    __slots__ = ("_in_rooms", "_plain")

    def __init__(self) -> None:
        self._plain: dict[str, Handler] = {}
        self._in_rooms: dict[str, PatternTable[Handler]] = {}

    def add(self, handler: Handler) -> None:
        """Add a handler.

        Raises:
            DeclarationError: another handler has the same event and the same rooms.
        """
        if handler.pattern is not None:
            add_to(self._in_rooms.setdefault(handler.event, PatternTable()), handler.pattern, handler)
        elif handler.event in self._plain:
            known = self._plain[handler.event]
            raise DeclarationError(f"{handler.event} is handled by {known.place} and by {handler.place}")
        else:
            self._plain[handler.event] = handler

    def find(self, event: str, room: str | None) -> tuple[Handler, dict[str, str]] | None:
        """The handler of an event in a room, with the path parameters.

        A handler without a pattern takes the event where no pattern matches, with or without a room.
        """
        if room is not None and (table := self._in_rooms.get(event)) is not None:
            found = table.match(room)
            if found is not None:
                return found
        handler = self._plain.get(event)
        return None if handler is None else (handler, {})

    def handlers(self) -> list[Handler]:
        """All of them, by event, and of one event the most specific first."""
        found: list[Handler] = []
        for event in sorted({*self._plain, *self._in_rooms}):
            if event in self._in_rooms:
                found += [handler for _, handler in self._in_rooms[event].items()]
            if event in self._plain:
                found.append(self._plain[event])
        return found

    def knows(self, event: str) -> bool:
        """Whether any handler takes the event, in whatever room."""
        return event in self._plain or event in self._in_rooms
