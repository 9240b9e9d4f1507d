"""What a handler or hook takes besides the connection, path parameters and data: markers in ``Annotated``.

Dependencies are resolved when the function is declared, into a `Plan`: what is read of the connection and
the room, then the functions to call, each after those that it takes. What does not fit fails then, with
the names. Calling them is the node's work (`roomwire.node.calling`): some of them wait, some block.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import ValidationError

from roomwire.core.errors import DeclarationError, EventError
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

__all__ = ["Claims", "Depends", "Input", "Marker", "Plan", "Step", "User", "marker_of", "plan"]

Function = Callable[..., Any]
Overrides = Mapping[Function, Function]

_LINK = 0
"""The slot of the connection."""
_GENERATORS = (Kind.ASYNC_GENERATOR, Kind.GENERATOR)
_BLOCKING = (Kind.SYNC, Kind.GENERATOR)


@dataclass(frozen=True, slots=True)
class Depends:
    """Marks a parameter as what a function gives: ``session: Annotated[Session, Depends(get_session)]``.

    The function is a ``def``, an ``async def``, or a generator of either kind that yields once and cleans up
    after it. It may take the connection, path parameters of the room's pattern, and other dependencies.

    Args:
        provide: the function, or a class; None: the class that the parameter is annotated with.
        use_cache: False to call it for each parameter anew, in place of once for a message.
    """

    provide: Function | None = None
    use_cache: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if self.provide is not None and not callable(self.provide):
            raise DeclarationError(f"Depends takes a function or a class, not {self.provide!r}")


class User:
    """Marks a parameter as the user's id: ``user: Annotated[str, User]``; validated to its type."""


class Claims:
    """Marks a parameter as what the credential says: ``claims: Annotated[Model, Claims]``; validated to its type."""


Marker = Depends | type[User] | type[Claims]


@dataclass(frozen=True, slots=True)
class Input:
    """What is read of the connection or the room: of the path parameter `name`, or of that attribute of the link."""

    name: str
    of_link: bool
    validate: Callable[[Any], object] | None

    def read(self, link: object, path: Mapping[str, str]) -> object:
        """The value.

        Raises:
            ValidationError: a path parameter does not fit.
            EventError: ``forbidden``: user or claims do not.
        """
        if not self.of_link:
            return path[self.name] if self.validate is None else self.validate(path[self.name])
        value = getattr(link, self.name)
        if self.validate is None:
            return value
        try:
            return self.validate(value)
        except ValidationError:
            raise EventError("forbidden", "the credential does not say what this needs") from None


@dataclass(frozen=True, slots=True)
class Step:
    """A function to call: how, and with which slots by the names of its parameters.

    Attributes:
        call: the function; of a generator, what makes its context manager.
    """

    name: str
    kind: Kind
    call: Function
    takes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How one function is called. Slots: the connection, then the values of `inputs`, then those of `steps`.

    Attributes:
        takes: the function's parameters that are slots.
        blocks: whether the function itself is a ``def``.
        holds: whether it needs a thread while something is open that a generator gave: then it has its
            place before anything is opened, so that nobody who waits for a place keeps others from theirs.
        provided: the functions that its dependencies name, before overrides.
        path: the path parameters that they take.
        link_takers: those of them that take the connection, or something of it.
    """

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    takes: tuple[tuple[str, int], ...]
    blocks: bool
    holds: bool
    provided: frozenset[Function]
    path: frozenset[str]
    link_takers: tuple[str, ...]

    def read(self, link: object, path: Mapping[str, str]) -> list[object]:
        """The slots that are there before any step; see `Input.read` for errors."""
        return [link, *(entry.read(link, path) for entry in self.inputs)]


def marker_of(function: Function, parameter: inspect.Parameter, annotation: Any) -> tuple[Marker, Any] | None:
    """The marker of a parameter, and the type that it marks; None where there is no marker.

    Raises:
        DeclarationError: there are several, or one stands in the wrong place.
    """
    what = f"the parameter {parameter.name} of {name_of(function)}"
    if isinstance(parameter.default, Depends):
        raise DeclarationError(f"{what}: write {parameter.name}: Annotated[..., Depends(...)], without a default")
    inner, extras = annotation_of(annotation)
    markers = [extra for extra in extras if isinstance(extra, Depends) or extra in (User, Claims)]
    if inner in (User, Claims) or isinstance(inner, Depends):
        raise DeclarationError(f"{what}: the marker stands behind the type: Annotated[str, User]")
    if Depends in extras:
        raise DeclarationError(f"{what}: write Depends(...), with the function or with nothing")
    if len(markers) > 1:
        raise DeclarationError(f"{what} has {len(markers)} markers")
    if not markers:
        return None
    rest = [extra for extra in extras if extra is not markers[0]]
    return markers[0], Annotated[(inner, *rest)] if rest else inner


def plan(
    function: Function,
    link: type,
    names: frozenset[str],
    marked: Mapping[str, tuple[Marker, Any]],
    overrides: Overrides,
) -> Plan:
    """Resolve what a declared function takes.

    Args:
        function: the handler or hook.
        link: the class whose annotation marks the connection.
        names: the path parameters that there are.
        marked: its parameters with a marker, and their types.
        overrides: functions to call in place of others.

    Raises:
        DeclarationError: with the names of what does not fit.
    """
    return _Planner(function, link, names, overrides).plan(marked)


class _Planner:
    def __init__(self, function: Function, link: type, names: frozenset[str], overrides: Overrides) -> None:
        self._function = function
        self._link = link
        self._names = names
        self._overrides = overrides
        self._inputs: list[Input] = []
        self._steps: list[tuple[Function, Kind, dict[str, int]]] = []
        self._known: dict[object, int] = {}
        self._provided: set[Function] = set()
        self._path: set[str] = set()
        self._link_takers: list[str] = []

    def plan(self, marked: Mapping[str, tuple[Marker, Any]]) -> Plan:
        takes = {
            name: self._marked(self._function, name, marker, annotation, ())
            for name, (marker, annotation) in marked.items()
        }
        blocks = kind_of(self._function) is Kind.SYNC
        kinds = [kind for _, kind, _ in self._steps]
        generators = any(kind in _GENERATORS for kind in kinds)
        return Plan(
            inputs=tuple(self._inputs),
            steps=tuple(
                Step(name_of(call), kind, _callable(call, kind), self._slots(its)) for call, kind, its in self._steps
            ),
            takes=self._slots(takes),
            blocks=blocks,
            holds=blocks or (generators and any(kind in _BLOCKING for kind in kinds)),
            provided=frozenset(self._provided),
            path=frozenset(self._path),
            link_takers=tuple(dict.fromkeys(self._link_takers)),
        )

    def _slots(self, takes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
        """Steps are counted below zero until it is known how many inputs there are."""
        return tuple((name, slot if slot >= 0 else len(self._inputs) - slot) for name, slot in takes.items())

    def _marked(self, owner: Function, name: str, marker: Marker, annotation: Any, trail: tuple[Function, ...]) -> int:
        if not isinstance(marker, Depends):
            self._link_takers.append(name_of(owner))
            return self._input(owner, name, annotation, "user" if marker is User else "claims", of_link=True)
        provide = marker.provide or annotation
        if marker.provide is None and not _is_class(annotation):
            raise DeclarationError(
                f"the parameter {name} of {name_of(owner)}: Depends() calls the class that the parameter is annotated"
                f" with, and {annotation!r} is none"
            )
        if provide in trail:
            circle = " -> ".join(map(name_of, (*trail[trail.index(provide) :], provide)))
            raise DeclarationError(f"{name_of(provide)} depends on itself: {circle}")
        self._provided.add(provide)
        if marker.use_cache and provide in self._known:
            return self._known[provide]
        slot = self._step(self._overrides.get(provide, provide), (*trail, provide))
        if marker.use_cache:
            self._known[provide] = slot
        return slot

    def _step(self, function: Function, trail: tuple[Function, ...]) -> int:
        hints = hints_of(function)
        takes = {}
        for name, parameter in parameters_of(function).items():
            slot = self._parameter(function, parameter, hints.get(name), trail)
            if slot is not None:
                takes[name] = slot
        self._steps.append((function, kind_of(function), takes))
        return -len(self._steps)

    def _parameter(
        self, function: Function, parameter: inspect.Parameter, annotation: Any, trail: tuple[Function, ...]
    ) -> int | None:
        """Its slot; None where its default holds."""
        name = parameter.name
        marked = marker_of(function, parameter, annotation)
        if marked is not None:
            return self._marked(function, name, *marked, trail)
        if annotation is self._link:
            self._link_takers.append(name_of(function))
            return _LINK
        if name in self._names:
            self._path.add(name)
            return self._input(function, name, str if annotation is None else annotation, name, of_link=False)
        if parameter.default is not parameter.empty:
            return None
        known = f"the pattern's {', '.join(sorted(self._names))}" if self._names else "a pattern's parameters"
        raise DeclarationError(
            f"{place_of(function)}, a dependency of {name_of(self._function)}, takes {name}: a dependency takes the"
            f" connection (annotated {self._link.__name__}), {known}, and what is marked by Depends, User or Claims"
        )

    def _input(self, owner: Function, parameter: str, annotation: Any, name: str, *, of_link: bool) -> int:
        key = (of_link, name, repr(annotation), annotation if inspect.isclass(annotation) else None)
        if key not in self._known:
            validate: Callable[[Any], object] | None = None
            as_it_is = annotation in (Any, object) or (annotation is str and name != "claims")
            if not as_it_is:
                adapter = adapter_of(annotation, owner, f"the parameter {parameter}")
                validate = adapter.validator.validate_python
            self._inputs.append(Input(name, of_link, validate))
            self._known[key] = len(self._inputs)
        return self._known[key]


def _is_class(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    return inspect.isclass(annotation if origin is None else origin) and origin is not types.UnionType


def _callable(function: Function, kind: Kind) -> Function:
    if kind is Kind.ASYNC_GENERATOR:
        return asynccontextmanager(function)
    return contextmanager(function) if kind is Kind.GENERATOR else function
