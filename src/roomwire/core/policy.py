"""What holds for a room: how much of its past is kept, who may publish, whether presence is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

__all__ = ["RoomPolicy"]

NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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
