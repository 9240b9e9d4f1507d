"""Backplanes that a configuration names, on one hub; some of them lose answers."""

from __future__ import annotations

from roomwire.backplanes.contract import KEY_WINDOW, Capabilities, HistoryPolicy
from roomwire.backplanes.memory import MemoryBackplane, MemoryHub, MemoryOptions
from roomwire.core.errors import Unavailable
from roomwire.core.positions import Position
from roomwire.core.publication import Publication, read_body

__all__ = ["HUB", "Faults", "HubBackplane", "LosingBackplane", "kept", "losing"]

HUB = MemoryHub()


class HubBackplane(MemoryBackplane):
    """Joins whatever is made in this process."""

    capabilities = Capabilities(survives_restart=False)

    def __init__(self, options: MemoryOptions | None = None) -> None:
        super().__init__(options, hub=HUB)


class Faults:
    """What goes wrong with the next publishes, in order: ``"lost"`` is stored, ``"refused"`` is not."""

    def __init__(self, *kinds: str, room: str | None = None) -> None:
        self.kinds = list(kinds)
        self.room = room
        self.keys: list[str | None] = []


class LosingBackplane(HubBackplane):
    """The hub behind a link that breaks."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    async def publish(
        self, room: str, body: bytes, *, key: str | None, policy: HistoryPolicy, window: float = KEY_WINDOW
    ) -> Position:
        faults = self._faults
        fault = faults.kinds.pop(0) if faults.kinds and faults.room in (None, room) else None
        if fault == "refused":
            faults.keys.append(key)
            raise Unavailable("nobody listens", stored=False)
        position = await super().publish(room, body, key=key, policy=policy, window=window)
        faults.keys.append(key)
        if fault == "lost":
            raise Unavailable("the answer was lost", stored=None)
        return position


def losing(faults: Faults) -> LosingBackplane:
    return LosingBackplane(faults)


def kept(room: str) -> list[Publication]:
    """What the hub keeps of a room."""
    stream = HUB.streams.get(room)
    return [read_body(room, entry.body, None) for _, entry in (stream.stored or ())] if stream is not None else []
