"""The pattern language for room names, the same in code and in the configuration.

``{name}`` matches one or more characters but ``:``, and names them; ``*`` does so without a name.
Everything else stands for itself. A pattern and a name match segment by segment (``:`` parts them),
so patterns with different numbers of segments never meet. Where several match, the first segment
in which they differ decides: a literal beats a mixed one, a mixed one beats a bare parameter. Two
patterns that could match one room and that nothing decides between are refused at the start.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

from roomwire.core.errors import DeclarationError

__all__ = ["Pattern", "PatternTable"]

T = TypeVar("T")

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}|\*")
_LITERAL, _MIXED, _BARE = 0, 1, 2


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
        self._regex = re.compile(":".join(map(self._compile, self.segments)), re.DOTALL)
        self.rank = tuple(map(_segment_rank, self.segments))

    def _compile(self, segment: str) -> str:
        regex, position, after_parameter = "", 0, False
        for match in _PARAMETER.finditer(segment):
            literal = segment[position : match.start()]
            if after_parameter and not literal:
                raise DeclarationError(f"the room pattern {self.text!r} has two parameters side by side")
            regex += re.escape(literal) + (f"(?P<{match[1]}>[^:]+)" if match[1] else "[^:]+")
            position, after_parameter = match.end(), True
        literal = segment[position:]
        if set(_PARAMETER.sub("", segment)) & set("{}"):
            raise DeclarationError(
                f"the room pattern {self.text!r} has a stray brace; a parameter is {{name}}, and * has no name"
            )
        return regex + re.escape(literal)

    def match(self, room: str) -> dict[str, str] | None:
        """The parameters by name, or None where the room does not match."""
        match = self._regex.fullmatch(room)
        return None if match is None else match.groupdict()

    def overlaps(self, other: Pattern) -> bool:
        """Whether one room could match both (literal prefixes and suffixes are compared)."""
        return len(self.segments) == len(other.segments) and all(map(_may_meet, self.segments, other.segments))


def _segment_rank(segment: str) -> tuple[int, int]:
    literal = _PARAMETER.sub("", segment)
    if literal == segment:
        return (_LITERAL, 0)
    return (_MIXED, -len(literal)) if literal else (_BARE, 0)


def _may_meet(one: str, other: str) -> bool:
    if _PARAMETER.search(one) is None and _PARAMETER.search(other) is None:
        return one == other
    (head, tail), (other_head, other_tail) = _ends(one), _ends(other)
    heads_meet = head.startswith(other_head) or other_head.startswith(head)
    return heads_meet and (tail.endswith(other_tail) or other_tail.endswith(tail))


def _ends(segment: str) -> tuple[str, str]:
    parts = re.split(r"\{[^}]*\}|\*", segment)
    return parts[0], parts[-1]


class PatternTable(Generic[T]):
    """Values by pattern; a lookup gives the most specific one."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[tuple[Pattern, T]] = []

    def add(self, pattern: Pattern, value: T) -> None:
        """Add a value.

        Raises:
            DeclarationError: a pattern in the table could match the same room with the same right.
        """
        for known, _ in self._entries:
            if known.rank == pattern.rank and known.overlaps(pattern):
                raise DeclarationError(
                    f"the room patterns {known.text!r} and {pattern.text!r} can match the same room,"
                    " and nothing decides between them: make one more specific"
                )
        self._entries.append((pattern, value))
        self._entries.sort(key=lambda entry: entry[0].rank)

    def match(self, room: str) -> tuple[T, dict[str, str]] | None:
        """The value of the most specific pattern that matches, and its parameters."""
        for pattern, value in self._entries:
            parameters = pattern.match(room)
            if parameters is not None:
                return value, parameters
        return None

    def __bool__(self) -> bool:
        return bool(self._entries)

