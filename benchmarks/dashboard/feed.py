"""What is published, the same by every server: METRICS of them, each so many times a second, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic_ns

METRICS = 20
EVERY_SECOND = 10
"""Times that each of them is published."""
PADDING = "x" * 40


async def measurements() -> AsyncIterator[dict[str, object]]:
    """Each when it is due, with the time at which it was; who falls behind gets them at once."""
    due = monotonic_ns()
    number = 0
    while True:
        due += 1_000_000_000 // (METRICS * EVERY_SECOND)
        wait = (due - monotonic_ns()) / 1e9
        await asyncio.sleep(max(wait, 0))
        number += 1
        name = f"metric-{number % METRICS:02}"
        yield {"name": name, "value": number * 0.25, "at": f"@@{due:016x}", "about": PADDING}
