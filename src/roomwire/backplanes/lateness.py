"""A loop that stood still: what came meanwhile is in the socket, while the timers that are due are served first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

__all__ = ["LATE", "first_of"]

LATE = 0.1
"""Seconds by which a timer is late where the loop stood still; as long it has then to read what came."""


async def first_of(futures: Sequence[asyncio.Future[Any]], due: float) -> bool:
    """Wait until one of them is done, or until `due`, in seconds of the loop's clock. None is cancelled.

    Returns:
        Whether one is done.
    """
    loop = asyncio.get_running_loop()
    for patience in (max(due - loop.time(), 0.0), LATE):
        await asyncio.wait(futures, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if loop.time() - due <= LATE:
            break
    return any(future.done() for future in futures)
