"""The rules of one logical connection: rates, errors, liveness, expiry. Pure: `now` is an argument.

Who cannot say anything (an event stream) is not missed when silent, and is closed when it does say something.

Its deadlines are separate on purpose. Looking for silence only when a heartbeat is due would find
a dead peer after up to `heartbeat_timeout` + `heartbeat_interval`. While reading is paused neither
pongs nor messages can be seen, so silence and idleness say nothing then: those deadlines are suspended
and the pause has a limit of its own.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.commands import Call, Command, Heartbeat, Invalid, Resume
from roomwire.core.eventstream import MAX_HEARD
from roomwire.core.limits import Limits, Rates
from roomwire.core.notices import Failed

__all__ = ["Session"]

_MINUTE = 60.0
_NEVER = math.inf

_NOT_ASKED = Closing(CloseCode.POLICY, "nothing is sent on an event stream")
_RESUME_FIRST = Closing(CloseCode.POLICY, "session.resume has to come first")


class Session:
    """Limits and deadlines of a connection.

    Args:
        limits: the node's limits.
        now: monotonic seconds.
        rates: those of `limits`, for all sessions of a node together; its own, where none are given.
        expires_in: seconds until the credential expires; None for never.
        must_resume: whether the handshake promised a ``session.resume`` (``last_event_id=later``).
        hears: whether the peer can say anything.

    Attributes:
        opened_at: when it was made.
    """

    __slots__ = (
        "_active_at",
        "_beat_at",
        "_bytes",
        "_errors",
        "_expires_at",
        "_frames",
        "_heard_at",
        "_limits",
        "_messages",
        "_paused_at",
        "_rates",
        "_resume_by",
        "_unheard",
        "opened_at",
    )

    def __init__(
        self,
        limits: Limits,
        now: float,
        rates: Rates | None = None,
        *,
        expires_in: float | None = None,
        must_resume: bool = False,
        hears: bool = True,
    ) -> None:
        self._limits = limits
        self._rates = rates or Rates(limits)
        self._frames = self._messages = self._bytes = 0.0  # buckets, see `roomwire.core.limits.Rate`
        self._errors: deque[float] | None = None
        self.opened_at = self._heard_at = self._active_at = now
        self._beat_at = now + limits.heartbeat_interval
        self._expires_at = _NEVER if expires_in is None else now + expires_in
        self._paused_at = _NEVER
        self._unheard: int | None = None if hears else 0  # bytes that came of one who cannot say anything
        self._resume_by = now + limits.resume_timeout if must_resume else _NEVER

    def heard(self, now: float, frames: int, size: int) -> Closing | None:
        """Bytes came: `frames` frames in `size` bytes. Returns a close where that is too fast."""
        if self._unheard is not None:
            self._unheard += size
            return _NOT_ASKED if self._unheard > MAX_HEARD else None
        self._heard_at = now
        rates = self._rates
        by_frames = rates.frames.taken(self._frames, now, frames)
        by_bytes = rates.bytes.taken(self._bytes, now, size)
        if by_frames is None or by_bytes is None:
            return Closing.of(CloseCode.RATE_LIMITED)
        self._frames, self._bytes = by_frames, by_bytes
        return None

    def receive(self, command: Command, now: float) -> Failed | Closing | None:
        """Judge a command as it arrives: None to carry it out, else what to answer."""
        if isinstance(command, Call):
            self._active_at = now
        elif isinstance(command, Invalid):
            if self._has_erred_too_often(now):
                return Closing.of(CloseCode.POLICY)
            return Failed(command.ref, "invalid", command.message)
        promised = self._resume_by != _NEVER and not isinstance(command, Heartbeat)
        if promised and not isinstance(command, Resume):
            return _RESUME_FIRST
        left = self._rates.messages.taken(self._messages, now)
        if left is None:
            return Failed(command.ref, "rate_limited", "too many messages, slow down")
        self._messages = left
        if promised:
            self._resume_by = _NEVER
        if isinstance(command, Resume) and len(command.rooms) > self._limits.rooms:
            # It is refused for their number when its turn comes; until then the others would take up
            # a dozen times their text.
            command.rooms = dict(islice(command.rooms.items(), self._limits.rooms + 1))
        return None

    def _has_erred_too_often(self, now: float) -> bool:
        """Note an error; whether it is one more than a minute may have."""
        if self._errors is None:
            self._errors = deque(maxlen=self._limits.max_errors)
        errors = self._errors
        too_often = len(errors) == errors.maxlen and now - errors[0] < _MINUTE
        errors.append(now)
        return too_often

    def pause(self, now: float) -> None:
        """Reading is paused: the peer cannot be heard from now on."""
        if self._paused_at == _NEVER:
            self._paused_at = now

    def resume(self, now: float) -> None:
        """Reading goes on; what the peer sent meanwhile is about to be read."""
        if self._paused_at != _NEVER:
            self._active_at = min(now, self._active_at + now - self._paused_at)
            self._heard_at = now
            self._paused_at = _NEVER

    def next_deadline(self) -> float:
        """The earliest deadline, in monotonic seconds: when `poll` has something to say."""
        limits = self._limits
        deadline = min(self._beat_at, self._expires_at, self._resume_by)
        if self._unheard is not None:
            return deadline
        if self._paused_at != _NEVER:
            return min(deadline, self._paused_at + limits.max_read_pause)
        if limits.idle_timeout:
            deadline = min(deadline, self._active_at + limits.idle_timeout)
        return min(deadline, self._heard_at + limits.heartbeat_timeout)

    def poll(self, now: float) -> tuple[bool, Closing | None]:
        """What is due at `now`: whether a heartbeat is to be sent, and whether to close."""
        return self._beat_is_due(now), self._overdue(now)

    def _beat_is_due(self, now: float) -> bool:
        if now < self._beat_at:
            return False
        interval = self._limits.heartbeat_interval
        # From the time it was due, so that the phase stays; but no volley after a stall.
        self._beat_at = max(self._beat_at + interval, now + interval / 2)
        return True

    def _overdue(self, now: float) -> Closing | None:
        limits = self._limits
        if now >= self._expires_at:
            return Closing.of(CloseCode.TOKEN_EXPIRED)
        if now >= self._resume_by:
            return Closing.of(CloseCode.NOT_RESUMABLE)
        if self._unheard is not None:
            return None
        if self._paused_at != _NEVER:
            return Closing.of(CloseCode.TRY_LATER) if now >= self._paused_at + limits.max_read_pause else None
        if now >= self._heard_at + limits.heartbeat_timeout:
            return Closing.of(CloseCode.HEARTBEAT_MISSED)
        if limits.idle_timeout and now >= self._active_at + limits.idle_timeout:
            return Closing.of(CloseCode.IDLE)
        return None
