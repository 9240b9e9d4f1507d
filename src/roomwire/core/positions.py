"""Positions in a room's stream, and the resume cursor made of them (WIRE section 5).

A position is ``EPOCH:OFFSET``. An offset alone lies: when a store is lost and made anew its
counter starts again, and "42" would name another event than before. The epoch names the
stream's life, so a position from an earlier life is recognised and never "proven".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from roomwire.core.errors import InvalidCursor, LocalError

__all__ = ["MAX_ROOM_BYTES", "Position", "check_room_name", "format_cursor", "is_room_name", "parse_cursor"]

MAX_ROOM_BYTES = 128
_POSITION = re.compile(r"([A-Za-z0-9]{1,24}):([0-9]{1,16})", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Position(NamedTuple):
    """All events of ``epoch`` up to and including ``offset``."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read ``EPOCH:OFFSET``.

        Raises:
            InvalidCursor: the text has another form.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidCursor("a position is EPOCH:OFFSET, 1 to 24 letters or digits and 1 to 16 digits")
        return cls(match[1], int(match[2]))


def is_room_name(name: object) -> bool:
    """Whether `name` is 1 to 128 bytes of UTF-8 without control characters (WIRE section 2)."""
    if not isinstance(name, str) or not name or _CONTROL.search(name):
        return False
    try:
        return len(name.encode()) <= MAX_ROOM_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False


def check_room_name(room: str) -> None:
    """Refuse what is no room's name.

    Raises:
        LocalError: with the rule.
    """
    if not is_room_name(room):
        raise LocalError(f"{room!r} is no room name: 1 to 128 bytes of UTF-8 without control characters")


def parse_cursor(value: str, max_rooms: int) -> dict[str, Position]:
    """Read ``ROOM@EPOCH:OFFSET,...`` as it stands after the query string was decoded once.

    Raises:
        InvalidCursor: malformed, a repeated room, or more than `max_rooms` rooms.
    """
    positions: dict[str, Position] = {}
    # Counted before the split, so that a long cursor costs nothing.
    if value.count(",") >= max_rooms:
        raise InvalidCursor(f"a cursor names at most {max_rooms} rooms")
    for item in value.split(","):
        encoded, at, position = item.rpartition("@")
        try:
            room = unquote(encoded, errors="strict")
        except UnicodeDecodeError:
            room = ""
        if not at or not is_room_name(room):
            raise InvalidCursor("a cursor is ROOM@EPOCH:OFFSET, joined by commas, each ROOM percent-encoded")
        if room in positions:
            raise InvalidCursor("a cursor names each room once")
        positions[room] = Position.parse(position)
    return positions


def format_cursor(positions: Mapping[str, Position]) -> str:
    """The inverse of `parse_cursor`; still to be encoded once more, as any query value."""
    return ",".join(f"{quote(room, safe='')}@{position}" for room, position in positions.items())
