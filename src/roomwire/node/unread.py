"""What a connection was sent of the past and has not read yet.

Replays and states do not count as slowness: a client that comes back from a long absence is not too slow.
So they must not add up. What a client asks for next waits until it has read them, and of the states of
many rooms a few at a time are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from roomwire.node.connection import Connection

__all__ = ["STATES_AT_ONCE", "places", "until_read", "was_read"]

STATES_AT_ONCE = 4
"""States that are made for one connection, or wait for it to read them, at a time."""


async def until_read(connection: Connection) -> None:
    """Wait until the peer has read all of it, or the connection ends."""
    while connection._closing is None and (link := connection._link) is not None and link.uncounted():
        if connection._read is None:
            connection._read = anyio.Event()
            link.when_empty(lambda: was_read(connection))
        await connection._read.wait()


def was_read(connection: Connection) -> None:
    """It is read, or nothing is any more."""
    read, connection._read = connection._read, None
    if read is not None:
        read.set()


def places(connection: Connection) -> anyio.Semaphore:
    """Whoever makes a state for the connection, and writes it, holds one of these."""
    if connection._places is None:
        connection._places = anyio.Semaphore(STATES_AT_ONCE)
    return connection._places
