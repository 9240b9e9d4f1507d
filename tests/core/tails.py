"""One room's offsets, entries and pages, and ways to deliver them to a tail."""

from __future__ import annotations

from collections.abc import Iterable

from roomwire.core.positions import Position
from roomwire.core.tail import Entry, Need, Page, RoomTail

EPOCH = "e"
NOW = 1000.0
"""Monotonic seconds; most tests need no other time."""


def body(offset: int) -> bytes:
    return b"body %d" % offset


def entry(offset: int) -> Entry:
    return Entry(offset - 1, offset, body(offset))


def at(offset: int, epoch: str = EPOCH) -> Position:
    return Position(epoch, offset)


def page(top: int, offsets: Iterable[int] = (), reason: str | None = None, epoch: str = EPOCH) -> Page:
    return Page(at(top, epoch), [entry(offset) for offset in offsets], reason)


def receive(tail: RoomTail, *offsets: int, epoch: str = EPOCH) -> list[int]:
    """Deliver; the offsets that the tail passes on."""
    passed = [e for offset in offsets for e in tail.receive(epoch, *entry(offset), NOW)]
    assert all(e == entry(e.offset) for e in passed)
    return [e.offset for e in passed]


def needs(tail: RoomTail) -> Need:
    """As a call, since a type checker takes an attribute that was compared for settled."""
    return tail.need


def offsets(entries: Iterable[Entry] | None) -> list[int]:
    assert entries is not None
    return [e.offset for e in entries]
