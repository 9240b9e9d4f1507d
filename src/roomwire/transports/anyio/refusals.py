"""What the raw transport itself refuses a peer, or fails it, with."""

from __future__ import annotations

from roomwire.core.errors import Refusal

__all__ = ["FAILED", "FULL", "TOO_LATE", "TOO_LONG", "UNANSWERED"]


def _unavailable(detail: str) -> Refusal:
    return Refusal(503, "unavailable", detail, (("Retry-After", "5"),))


_LOGGED = "the server failed; it has been logged"

FULL = _unavailable("too many handshakes at once")
FAILED = _unavailable(_LOGGED)
"""A handshake that may go better the next time."""
TOO_LONG = _unavailable("the decision took too long")
TOO_LATE = Refusal(408, "bad_request", "the request took too long")
UNANSWERED = Refusal(500, "internal", _LOGGED)
"""A request that the fallback's application has not answered."""
