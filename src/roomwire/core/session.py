"""The rules of one logical connection: rates, errors, liveness, expiry. Pure: `now` is an argument.

Its deadlines are separate on purpose. Looking for silence only when a heartbeat is due would find
a dead peer after up to `heartbeat_timeout` + `heartbeat_interval`. While reading is paused neither
pongs nor messages can be seen, so silence says nothing then: that deadline is suspended and the
pause has a limit of its own.
"""

from __future__ import annotations

import math

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.commands import Call, Command, Heartbeat, Invalid, Resume
from roomwire.core.limits import Limits, TokenBucket
from roomwire.core.notices import Failed

__all__ = ["Session"]

_MINUTE = 60.0


class Session:
    """Limits and deadlines of a connection.

    Args:
        limits: the node's limits.
        now: monotonic seconds.
        expires_in: seconds until the credential expires; None for never.
        must_resume: whether the handshake promised a ``session.resume`` (``last_event_id=later``).
    """

    __slots__ = (
        "_active_at",
        "_beat_at",
        "_byte_bucket",
        "_error_bucket",
        "_expires_at",
        "_frame_bucket",
        "_heard_at",
        "_limits",
        "_message_bucket",
        "_paused_at",
        "resume_by",
        "opened_at",
    )

    def __init__(
        self, limits: Limits, now: float, *, expires_in: float | None = None, must_resume: bool = False
    ) -> None:
        self._limits = limits
        self._frame_bucket = TokenBucket(limits.frames_per_second, limits.frame_burst)
        self._message_bucket = TokenBucket(limits.messages_per_second, limits.message_burst)
        self._byte_bucket = TokenBucket(limits.bytes_per_second, limits.byte_burst)
        self._error_bucket = TokenBucket(limits.max_errors / _MINUTE, limits.max_errors)
        self.opened_at = self._heard_at = self._active_at = now
        self._beat_at = now + limits.heartbeat_interval
        self._expires_at = math.inf if expires_in is None else now + expires_in
        self._paused_at = math.inf
        self.resume_by = now + limits.resume_timeout if must_resume else math.inf

    def heard(self, now: float, frames: int, size: int) -> Closing | None:
        """Bytes came: `frames` frames in `size` bytes. Returns a close where that is too fast."""
        self._heard_at = now
        if not (self._frame_bucket.take(now, frames) and self._byte_bucket.take(now, size)):
            return Closing.of(CloseCode.RATE_LIMITED)
        return None

    def receive(self, command: Command, now: float) -> Failed | Closing | None:
        """Judge a command as it arrives: None to carry it out, else what to answer."""
        if self.resume_by != math.inf and not isinstance(command, Heartbeat):
            if not isinstance(command, Resume):
                return Closing.of(CloseCode.POLICY)
            self.resume_by = math.inf
        if isinstance(command, Invalid):
            if not self._error_bucket.take(now):
                return Closing.of(CloseCode.POLICY)
            return Failed(command.ref, "invalid", command.message)
        if isinstance(command, Call):
            self._active_at = now
        if not self._message_bucket.take(now):
            return Failed(command.ref, "rate_limited", "too many messages, slow down")
        return None

    def pause(self, now: float) -> None:
        """Reading is paused: the peer cannot be heard from now on."""
        self._paused_at = now

    def resume(self, now: float) -> None:
        """Reading goes on; what the peer sent meanwhile is about to be read."""
        self._paused_at = math.inf
        self._heard_at = now

    def next_deadline(self) -> float:
        """The earliest deadline."""
        limits = self._limits
        if self._paused_at == math.inf:
            silence = self._heard_at + limits.heartbeat_timeout
        else:
            silence = self._paused_at + limits.max_read_pause
        idle = self._active_at + limits.idle_timeout if limits.idle_timeout else math.inf
        return min(silence, self._beat_at, self._expires_at, idle, self.resume_by)

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
        if self._paused_at != math.inf:
            return Closing.of(CloseCode.TRY_LATER) if now >= self._paused_at + limits.max_read_pause else None
        if now >= self._heard_at + limits.heartbeat_timeout:
            return Closing.of(CloseCode.HEARTBEAT_MISSED)
        if now >= self.resume_by:
            return Closing.of(CloseCode.NOT_RESUMABLE)
        if limits.idle_timeout and now >= self._active_at + limits.idle_timeout:
            return Closing.of(CloseCode.IDLE)
        return None
