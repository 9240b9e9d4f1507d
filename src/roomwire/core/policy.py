"""What holds for a room: how much of its past is kept, who may publish, what of it its members are sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

__all__ = ["RoomPolicy"]

SLOWEST = 0.01
"""Blocks a second: one in 100 s."""

NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
FieldName = Annotated[str, Field(min_length=1, max_length=128)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPolicy:
    """A ``[rooms."PATTERN"]`` section of the configuration. Times are seconds."""

    history_size: NonNegativeInt = 1000
    """Events that are kept for a replay; with 0 events are numbered and sent, and none is kept."""
    history_ttl: PositiveFloat = 3600.0
    """How long each of them is kept."""
    presence: bool = False
    """Whether members see who is in the room, and who comes and goes. Off: it is a permission of its own."""
    broadcast_only: bool = False
    """Whether clients may listen only, and the server alone publishes."""
    leave_grace: NonNegativeFloat = 2.0
    """From a lost connection to ``presence.leave``, so that a reload is not told as a leave and a join."""
    conflate_rate: Rate | None = None
    """Updates a second at the most, for live dashboards: of what came for one key between two of them members are sent
    the newest event alone. Unset or 0: every event is sent."""
    conflate_key: FieldName | None = None
    """A field of the event's JSON object: a key is the event's name and the value there. Unset, the name is the key."""
    latest: bool = False
    """Whether who joins without a position is sent the newest event of each key at once."""

    @property
    def conflates(self) -> bool:
        """Whether members are sent less than every event."""
        return bool(self.conflate_rate)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Keys that do not go together, each with what is wrong and what to do."""
        if self.conflate_rate and self.conflate_rate < SLOWEST:
            yield "conflate_rate", f"expected 0, or at least {SLOWEST:g} (one in 100 s), found {self.conflate_rate:g}"
        if self.conflate_key is not None and not (self.conflates or self.latest):
            yield "conflate_key", "nothing is conflated: set conflate_rate or latest as well, or leave it out"
        if self.latest and self.history_size == 0:
            yield (
                "latest",
                "the newest events are read from the history: set history_size to more than 0, or latest = false",
            )
