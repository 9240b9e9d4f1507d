"""The declarations of an application, in an order that does not depend on that of its modules."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from roomwire.app import App
from roomwire.core.patterns import Pattern, PatternTable
from roomwire.core.routing import Handler, Hook

__all__ = ["Contract", "Message", "RoomKind", "contract_of", "shape_of"]

_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}|\*")
_NOTHING = (None, type(None), NoReturn)


@dataclass(frozen=True, slots=True)
class Message:
    """An event and its data.

    Attributes:
        event: its name.
        pattern: its rooms; None for any room, or none.
        data: the type of its data; None for no data.
        binary: whether that is bytes.
        to_server: whether a client sends it; else the server does.
        ack: what the handler returns, of a client's message.
        text: the first paragraph of the handler's docstring.
    """

    event: str
    pattern: Pattern | None
    data: Any
    binary: bool
    to_server: bool
    ack: Any = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class RoomKind:
    """The rooms of one pattern.

    Attributes:
        pattern: it.
        messages: what is said in such a room, by direction and name.
        state: the type of the snapshot; `Contract.no_state` where there is none.
    """

    pattern: Pattern
    messages: tuple[Message, ...]
    state: Any
    has_state: bool


@dataclass(frozen=True, slots=True)
class Contract:
    """What an application and its clients say to each other.

    Attributes:
        messages: all messages, the client's first, by name, and of one name the most specific first.
        rooms: the rooms by pattern, the most specific first.
    """

    messages: tuple[Message, ...]
    rooms: tuple[RoomKind, ...]


def contract_of(app: App) -> Contract:
    """Read an application's declarations."""
    messages = (
        *sorted((_of_handler(handler) for handler in app.router.handlers()), key=_order),
        *sorted(_of_events(app), key=_order),
    )
    patterns: dict[str, Pattern] = {}
    hooks = [pattern for table in (app.rooms, app.snapshots) for pattern, _ in table.items()]
    for pattern in (*hooks, *(message.pattern for message in messages if message.pattern is not None)):
        known = patterns.setdefault(shape_of(pattern), pattern)
        # One with names rather than without, whichever was declared first.
        if (pattern.text.count("*"), pattern.text) < (known.text.count("*"), known.text):
            patterns[shape_of(pattern)] = pattern
    # More segments first: a template of TypeScript's has no end at a colon.
    ordered = sorted(patterns.values(), key=_specificity)
    return Contract(messages, tuple(_room(app, pattern, messages) for pattern in ordered))


def _order(message: Message) -> tuple[Any, ...]:
    return message.event, message.pattern is None, message.pattern and _specificity(message.pattern)


def _specificity(pattern: Pattern) -> tuple[Any, ...]:
    return -len(pattern.segments), pattern.rank, pattern.text


def shape_of(pattern: Pattern) -> str:
    """The pattern without the names of its parameters."""
    return _PARAMETER.sub("*", pattern.text)


def _of_handler(handler: Handler) -> Message:
    data = None if handler.data is None else handler.hints.get(handler.data, Any)
    returns = handler.hints.get("return", Any)
    ack = None if returns in _NOTHING else returns
    return Message(handler.event, handler.pattern, data, handler.binary, True, ack, _text(handler))


def _of_events(app: App) -> list[Message]:
    return [Message(event.name, event.pattern, event.type, event.binary, False) for event in app.events.items()]


def _text(hook: Hook) -> str:
    doc = inspect.getdoc(hook.function) or ""
    return " ".join(doc.split("\n\n")[0].split())


def _room(app: App, pattern: Pattern, messages: tuple[Message, ...]) -> RoomKind:
    """With what holds in such a room at large: for a more specific one, what is declared for that."""
    sample = _PARAMETER.sub("\x7f", pattern.text)  # no character of a room's name, hence no literal of a pattern
    found: list[Message] = []
    for key in dict.fromkeys((message.to_server, message.event) for message in messages):
        table: PatternTable[Message] = PatternTable()
        anywhere = None
        for message in messages:
            if (message.to_server, message.event) == key:
                if message.pattern is None:
                    anywhere = message
                else:
                    table.add(message.pattern, message)
        match = table.match(sample)
        best = anywhere if match is None else match[0]
        if best is not None:
            found.append(best)
    snapshot = app.snapshots.match(sample)
    state = Any if snapshot is None else snapshot[0].hints.get("return", Any)
    return RoomKind(pattern, tuple(found), state, snapshot is not None)
