"""The pattern language for room names, the same in code and in the configuration.

``{name}`` matches one or more characters but ``:``, and names them; ``*`` does so without a name.
Everything else stands for itself. A pattern and a name match segment by segment (``:`` parts them),
so patterns with different numbers of segments never meet. Where several match, the first segment
in which they differ decides: a literal beats a mixed one, a mixed one beats a bare parameter, and of
two mixed ones that with more literal characters wins. Two patterns that could match one room and that
nothing decides between are refused at the start.

In a segment with several parameters each but the last takes as little as it can: ``{a}-{b}`` reads
``x-y-z`` as ``x`` and ``y-z``. A parameter is never tried at another length once what follows it was
found, so that a match is linear in the length of the name, which is the client's.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

from roomwire.core.errors import DeclarationError, LocalError
from roomwire.core.positions import check_room_name

__all__ = ["Pattern", "PatternTable", "PatternTie"]

T = TypeVar("T")

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}|\*")
_LITERAL, _MIXED, _BARE = 0, 1, 2


class PatternTie(DeclarationError):
    """Two patterns can match one room, and nothing decides between them.

    Attributes:
        known: the value of the one that was there.
    """

    def __init__(self, text: str, known: Any) -> None:
        super().__init__(text)
        self.known = known


class Pattern:
    """A compiled pattern.

    Raises:
        DeclarationError: the pattern is malformed.
    """

    __slots__ = ("_regex", "names", "rank", "segments", "text")

    def __init__(self, text: str) -> None:
        if not text:
            raise DeclarationError("a room pattern cannot be empty")
        self.text = text
        self.segments = text.split(":")
        self.names: tuple[str, ...] = tuple(name for name in _PARAMETER.findall(text) if name)
        if len(set(self.names)) != len(self.names):
            raise DeclarationError(f"the room pattern {text!r} names a parameter twice")
        for segment in self.segments:
            self._check(segment)
        self._regex = re.compile(":".join(map(_regex_of, self.segments)))
        self.rank = tuple(map(_segment_rank, self.segments))

    def _check(self, segment: str) -> None:
        literals, _ = _split(segment)
        if set("".join(literals)) & set("{}"):
            raise DeclarationError(
                f"the room pattern {self.text!r} has a stray brace; a parameter is {{name}}, and * has no name"
            )
        if not all(literals[1:-1]):
            raise DeclarationError(f"the room pattern {self.text!r} has two parameters side by side")

    def match(self, room: str) -> dict[str, str] | None:
        """The parameters by name, or None where the room does not match."""
        match = self._regex.fullmatch(room)
        return None if match is None else match.groupdict()

    def fill(self, **parameters: str | int) -> str:
        """The name of a room from the parameters, which `match` gives back.

        Raises:
            LocalError: a part of the pattern has no name, a parameter is missing or too many, or the name
                would be read otherwise: one is empty or has a ``:`` in it, say.
        """
        for names, what in (
            ([name for name in self.names if name not in parameters], "needs"),
            ([name for name in parameters if name not in self.names], "has no parameter"),
        ):
            if names:
                raise LocalError(f"the room pattern {self.text!r} {what} {', '.join(names)}")
        if "*" in self.text:
            raise LocalError(f"the room pattern {self.text!r} has a part without a name: name the room itself")
        texts = {name: str(value) for name, value in parameters.items()}
        room = _PARAMETER.sub(lambda found: texts[found[1]], self.text)
        check_room_name(room)
        if self.match(room) != texts:
            given = ", ".join(f"{name} = {text!r}" for name, text in texts.items())
            raise LocalError(f"{room!r}, of {given}, would not be read as that by the room pattern {self.text!r}")
        return room

    def overlaps(self, other: Pattern) -> bool:
        """Whether one room could match both; the greatest length of a room's name is left out of account."""
        return len(self.segments) == len(other.segments) and all(map(_may_meet, self.segments, other.segments))


def _split(segment: str) -> tuple[list[str], list[str]]:
    """The literals of a segment, one more than its parameters, and the parameters' names (``""`` for ``*``)."""
    parts = _PARAMETER.split(segment)
    return parts[::2], [name or "" for name in parts[1::2]]


def _regex_of(segment: str) -> str:
    literals, names = _split(segment)
    regex = re.escape(literals[0])
    for index, (name, literal) in enumerate(zip(names, literals[1:], strict=True), start=1):
        group = f"?P<{name}>" if name else "?:"
        if index < len(names):
            # Atomic: where the earliest end leads to no match, no later one does, since the last
            # parameter takes whatever is between.
            regex += f"(?>({group}[^:]+?){re.escape(literal)})"
        else:
            regex += f"({group}[^:]+){re.escape(literal)}"
    return regex


def _segment_rank(segment: str) -> tuple[int, int]:
    literals, names = _split(segment)
    literal = "".join(literals)
    if not names:
        return (_LITERAL, 0)
    return (_MIXED, -len(literal)) if literal else (_BARE, 0)


def _may_meet(one: str, other: str) -> bool:
    (literals, names), (other_literals, other_names) = _split(one), _split(other)
    if not names or not other_names:
        if names:
            one, other = other, one
        return re.fullmatch(_regex_of(other), one) is not None
    # Both have parameters, which take whatever stands between the outermost literals.
    head, other_head, tail, other_tail = literals[0], other_literals[0], literals[-1], other_literals[-1]
    heads_meet = head.startswith(other_head) or other_head.startswith(head)
    return heads_meet and (tail.endswith(other_tail) or other_tail.endswith(tail))


_KNOWN = 4096
"""Names whose match a table remembers: the rooms that are in use, mostly."""


class PatternTable(Generic[T]):
    """Values by pattern; a lookup gives the most specific one."""

    __slots__ = ("_entries", "_known")

    def __init__(self) -> None:
        self._entries: list[tuple[Pattern, T]] = []
        self._known: dict[str, tuple[T, dict[str, str]] | None] = {}

    def add(self, pattern: Pattern, value: T) -> None:
        """Add a value.

        Raises:
            PatternTie: a pattern in the table could match the same room with the same right.
        """
        for known, its_value in self._entries:
            if known.rank == pattern.rank and known.overlaps(pattern):
                raise PatternTie(
                    f"the room patterns {known.text!r} and {pattern.text!r} can match the same room,"
                    " and nothing decides between them: make one more specific",
                    its_value,
                )
        self._entries.append((pattern, value))
        self._entries.sort(key=lambda entry: entry[0].rank)
        self._known.clear()

    def items(self) -> list[tuple[Pattern, T]]:
        """All values with their patterns, the most specific first."""
        return list(self._entries)

    def match(self, room: str) -> tuple[T, dict[str, str]] | None:
        """The value of the most specific pattern that matches, and its parameters by name.

        The parameters are shared with every other look-up of the name: not to be changed.
        """
        try:
            return self._known[room]
        except KeyError:
            pass
        # Names are the clients': what is remembered has a bound.
        if len(self._known) >= _KNOWN:
            self._known.clear()
        found = self._known[room] = self._match(room)
        return found

    def _match(self, room: str) -> tuple[T, dict[str, str]] | None:
        for pattern, value in self._entries:
            parameters = pattern.match(room)
            if parameters is not None:
                return value, parameters
        return None

    def __bool__(self) -> bool:
        return bool(self._entries)
