"""Close codes (WIRE section 6, RFC 6455 section 7.4): what each means and whether a client comes back.

A client decides by range, not by list, so codes can be added without a new client:

    1001 1011 1012 1013, 4000 to 4499, anything else or none    reconnect
    1000 1002 1003 1007 1008 1009, 4500 to 4999                 stay away
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from roomwire.core.errors import LocalError

__all__ = ["REASONS", "CloseCode", "Closing", "check_reason", "fitting", "is_sendable", "reconnects"]


class CloseCode(IntEnum):
    """The codes that roomwire itself sends."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    ABNORMAL = 1006  # never sent: the link broke without a close frame
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTART = 1012
    TRY_LATER = 1013
    HEARTBEAT_MISSED = 4001
    TOO_SLOW = 4002
    TOKEN_EXPIRED = 4003
    RATE_LIMITED = 4004
    NOT_RESUMABLE = 4005
    REPLACED = 4501
    REVOKED = 4502
    REMOVED = 4503
    IDLE = 4504


# Fixed texts: a reason never repeats what a library or an exception said (HARDENING B8).
REASONS: dict[int, str] = {
    CloseCode.NORMAL: "",
    CloseCode.GOING_AWAY: "going away",
    CloseCode.PROTOCOL_ERROR: "protocol error",
    CloseCode.UNSUPPORTED_DATA: "unsupported data",
    CloseCode.INVALID_DATA: "invalid UTF-8 or compressed data",
    CloseCode.POLICY: "too many errors",
    CloseCode.TOO_BIG: "message too big",
    CloseCode.INTERNAL_ERROR: "internal error",
    CloseCode.RESTART: "restart",
    CloseCode.TRY_LATER: "try again later",
    CloseCode.HEARTBEAT_MISSED: "heartbeat missed",
    CloseCode.TOO_SLOW: "too slow",
    CloseCode.TOKEN_EXPIRED: "token expired",
    CloseCode.RATE_LIMITED: "rate limit",
    CloseCode.NOT_RESUMABLE: "not resumable now",
    CloseCode.REPLACED: "replaced by another connection",
    CloseCode.REVOKED: "revoked",
    CloseCode.REMOVED: "removed by the application",
    CloseCode.IDLE: "idle",
}

_MAX_REASON = 123
"""Bytes: a control frame has 125, and the code takes two."""
_FINAL = {1000, 1002, 1003, 1007, 1008, 1009}
# No JSON message may precede these: the peer cannot be trusted to read on, or cannot keep up.
_SILENT = {1002, 1007, 1009, CloseCode.TOO_SLOW}


def reconnects(code: int) -> bool:
    """Whether a client that was closed with `code` comes back."""
    return code not in _FINAL and not 4500 <= code <= 4999


def is_sendable(code: int) -> bool:
    """Whether `code` may stand in a close frame (RFC 6455 section 7.4.1 and the IANA registry)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def fitting(reason: str) -> str:
    """A reason as a close frame takes it: 123 bytes of UTF-8, cut at a character's boundary (RFC 6455 section 5.5)."""
    return reason.encode(errors="replace")[:_MAX_REASON].decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class Closing:
    """A close that the server begins.

    Attributes:
        code: the close code.
        reason: a text for people, at most 123 bytes of UTF-8 on the wire.
        retry_after: seconds that the client is asked to wait before it comes back.
    """

    code: int
    reason: str = ""
    retry_after: float = 0.0

    @classmethod
    def of(cls, code: CloseCode, retry_after: float = 0.0) -> Closing:
        """With the code's fixed reason."""
        return cls(code, REASONS[code], retry_after)

    @property
    def reconnect(self) -> bool:
        """Whether the client comes back."""
        return reconnects(self.code)

    @property
    def announced(self) -> bool:
        """Whether ``session.closing`` is sent before it (WIRE section 4)."""
        return self.code not in _SILENT


def check_reason(reason: str) -> None:
    """Refuse what cannot be told as a reason.

    Raises:
        LocalError: it is no string, or holds a lone surrogate.
    """
    try:
        reason.encode()
    except (AttributeError, UnicodeEncodeError):
        raise LocalError(f"{reason!r} is no reason that can be written: it has to be a text that is UTF-8") from None
