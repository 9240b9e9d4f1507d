"""Scribe: has the links written, by as few tasks as can be.

One task writes for all links that have something to say, one after the other, as long as the host's `send`
does not suspend: a fan-out is one task, not one for each member. Where it suspends, since the peer is slow or
the host does so each time, that task stays with its link, and the others get tasks of their own; so a slow
peer holds up nobody. A turn of the loop later that is seen.

A `send` always runs in a task, since a host's or a framework's may ask for the one it is in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from roomwire.transports.contract import Runtime

if TYPE_CHECKING:
    from roomwire.transports.asgi.link import AsgiLink

__all__ = ["Scribe"]


class _Turn:
    """A task that writes for one link after the other."""

    __slots__ = ("cancel", "link")

    def __init__(self) -> None:
        self.cancel: Callable[[], object] = lambda: None
        self.link: AsgiLink | None = None


class Scribe:
    """Writes for the links of one transport.

    Args:
        runtime: where its tasks run.
    """

    __slots__ = ("_runtime", "_turn", "_waiting")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiting: deque[AsgiLink] = deque()
        self._turn: _Turn | None = None

    def ask(self, link: AsgiLink) -> None:
        """Have `AsgiLink.write_out` called, soon and once."""
        self._waiting.append(link)
        if self._turn is None:
            self._turn = turn = _Turn()
            turn.cancel = self._runtime.spawn(self._write, turn)

    async def _write(self, turn: _Turn) -> None:
        self._runtime.call_soon(lambda: self._look(turn))
        try:
            while self._turn is turn and self._waiting:
                turn.link = self._waiting.popleft()
                await turn.link.write_out(lambda: self._cancel(turn))
        finally:
            self._end(turn)

    def _look(self, turn: _Turn) -> None:
        """A turn of the loop after it began: if it is not through, it is suspended in a `send`."""
        link = turn.link
        if self._turn is turn and link is not None:
            self._end(turn)
            link.suspended()

    def _cancel(self, turn: _Turn) -> None:
        """Its link has ended. The host may not raise the cancellation, which would then meet the next link."""
        self._end(turn)
        turn.cancel()

    def _end(self, turn: _Turn) -> None:
        """It takes no more links; those that wait are written by themselves."""
        if self._turn is not turn:
            return
        self._turn = None
        while self._waiting:
            single = _Turn()
            single.link = self._waiting.popleft()
            single.cancel = self._runtime.spawn(self._write_one, single, single.link)

    async def _write_one(self, single: _Turn, link: AsgiLink) -> None:
        link.suspended()
        await link.write_out(single.cancel)
