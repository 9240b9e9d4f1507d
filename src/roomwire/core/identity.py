"""Who a connection belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Identity", "is_client_id", "is_user"]

_USER = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")
_CLIENT = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)


def is_user(value: object) -> bool:
    """Whether `value` can be a user's id: 1 to 255 characters, none of them a control character."""
    return isinstance(value, str) and _USER.fullmatch(value) is not None


def is_client_id(text: object) -> bool:
    """Whether `text` is 8 to 64 characters of ``A-Z a-z 0-9 _ -``."""
    return isinstance(text, str) and _CLIENT.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Identity:
    """The outcome of an authentication.

    Attributes:
        user: the user's id, a string of the application's for which `is_user` holds.
        claims: what the credential says besides, such as a JWT's payload.
        expires_in: seconds until the credential expires, from the moment of authentication;
            ``None`` where it never does. The connection is closed with 4003 at that time.
    """

    user: str
    claims: Mapping[str, object] = field(default_factory=dict)
    expires_in: float | None = None
