"""What travels over NATS: bodies behind a version byte, headers, and times.

A body of ours is ``VERSION KIND PAYLOAD``. Bodies of another version are dropped, counted and logged once:
a node may run beside one that is newer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

__all__ = [
    "CONTROL",
    "EPHEMERAL",
    "HINT",
    "LEASE",
    "PUBLICATION",
    "Bodies",
    "Reply",
    "epoch_of",
    "header",
    "pack",
    "parse_time",
    "status_of",
]

logger = logging.getLogger("roomwire.backplane")

T = TypeVar("T")

VERSION = 1
PUBLICATION, EPHEMERAL, HINT, CONTROL, LEASE = range(5)

_TIME_DIGITS = str.maketrans("", "", "-:TZ.")


def pack(kind: int, payload: bytes = b"") -> bytes:
    """A body."""
    return bytes((VERSION, kind)) + payload


class Bodies:
    """Reads bodies.

    Attributes:
        dropped: how many could not be read.
    """

    def __init__(self) -> None:
        self.dropped = 0

    def read(self, load: Callable[[bytes], T], value: bytes | None) -> T | None:
        """A record; None for none, and for one that nobody of ours can have written."""
        try:
            return None if value is None else load(value)
        except (ValueError, TypeError, AttributeError):
            self.dropped += 1
            if self.dropped == 1:
                logger.error("a record that cannot be read was dropped: who else writes to the buckets?")
            return None

    def kind(self, body: bytes) -> int:
        """The kind of a body; -1 for one to drop. The payload is ``body[2:]``."""
        if len(body) >= 2 and body[0] == VERSION and body[1] <= LEASE:
            return body[1]
        self.dropped += 1
        if self.dropped == 1:
            logger.error("a body of an unknown version was dropped: is there a newer node, or another application?")
        return -1


class Reply(NamedTuple):
    """An answer of the server, or of JetStream.

    Attributes:
        status: 0, or the number of an inline status, such as 404.
    """

    status: int
    headers: bytes
    data: bytes


def status_of(headers: bytes | None) -> int:
    """The inline status of a header block ``NATS/1.0[ STATUS[ TEXT]]``; 0 where there is none."""
    if headers is None or headers[8:9] != b" ":
        return 0
    digits = headers[9:12]
    return int(digits) if digits.isdigit() else 0


def header(headers: bytes, name: bytes) -> bytes:
    """The value of a header, the last one of that name, since the server adds its own behind the publisher's."""
    start = headers.rfind(b"\r\n" + name + b": ")
    if start < 0:
        return b""
    start += len(name) + 4
    return headers[start : headers.find(b"\r\n", start)]


def parse_time(text: str) -> float:
    """RFC 3339 in UTC, to the nanosecond, as seconds since 1970."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return seconds + (float(f"0.{fraction}") if fraction else 0.0)


def epoch_of(created: str) -> str:
    """The time at which a stream was made, as the epoch of its rooms: 23 digits."""
    whole, _, fraction = created.rstrip("Z").partition(".")
    return whole.translate(_TIME_DIGITS) + fraction.ljust(9, "0")[:9]
