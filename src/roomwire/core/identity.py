"""Who a connection belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Identity"]


@dataclass(frozen=True, slots=True)
class Identity:
    """The outcome of an authentication.

    Attributes:
        user: the user's id, any non-empty string of the application's.
        claims: what the credential says besides, such as a JWT's payload.
        expires_in: seconds until the credential expires, from the moment of authentication;
            ``None`` where it never does. The connection is closed with 4003 at that time.
    """

    user: str
    claims: Mapping[str, object] = field(default_factory=dict)
    expires_in: float | None = None
