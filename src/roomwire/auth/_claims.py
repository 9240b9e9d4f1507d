"""A verified payload becomes an identity: strict JSON, and the checks of RFC 7519 section 4.1.

PyJWT verifies the signatures. The claims are checked here, since a server has rules of its own: the
clock is an argument, ``exp`` is always required and must be a number, and every refusal is a `Cause`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from roomwire.auth.tokens import Cause, TokenError
from roomwire.core.identity import Identity

__all__ = ["ClaimRules", "identify", "is_user", "parse_object"]

# 9999-12-31T23:59:59Z. A larger NumericDate is in milliseconds, or meant to overflow a timer.
_LAST_DATE = 253_402_300_799
_NUMBER = (int, float)

# OpenID Connect bounds `sub` at 255. No control characters: it is logged. No lone surrogates, which
# JSON can spell: it becomes part of keys and must have a UTF-8 form.
_USER = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """What a payload has to say; see `roomwire.auth.jwt.JwtOptions`, whose names these are.

    Attributes:
        issuers: accepted ``iss``; where empty, it is not checked.
        audiences: accepted ``aud``; where empty, a token must have none.
        required: claims that must be present and not null.
        user_claim: the claim that holds the user's id.
        leeway: seconds that the clocks may differ.
    """

    issuers: frozenset[str]
    audiences: frozenset[str]
    required: tuple[str, ...]
    user_claim: str
    leeway: float


def is_user(value: object) -> bool:
    """Whether `value` can be a user's id: 1 to 255 characters, all printable."""
    return isinstance(value, str) and _USER.fullmatch(value) is not None


def parse_object(text: bytes) -> dict[str, object]:
    """A JSON object without duplicate names (RFC 7519 section 4), ``NaN`` and infinities.

    Raises:
        TokenError: it is not one.
    """
    try:
        value = _DECODER.decode(text.decode())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise TokenError(Cause.MALFORMED)
    return value


def identify(claims: Mapping[str, object], rules: ClaimRules, now: float) -> Identity:
    """Who a verified payload speaks of.

    Args:
        claims: the payload.
        rules: what it has to say.
        now: seconds since 1970-01-01T00:00:00Z.

    Raises:
        TokenError: it does not keep the rules.
    """
    for name in rules.required:
        if claims.get(name) is None:
            raise TokenError(Cause.MISSING_CLAIM, name)
    expires_in = _check_times(claims, rules.leeway, now)
    _check_issuer(claims.get("iss"), rules.issuers)
    _check_audience(claims.get("aud"), rules.audiences)
    for name in ("sub", "jti"):
        if name in claims and not isinstance(claims[name], str):
            raise TokenError(Cause.BAD_CLAIM)
    user = claims[rules.user_claim]
    if not isinstance(user, str) or not is_user(user):
        raise TokenError(Cause.BAD_USER)
    return Identity(user, claims, expires_in)


def _check_times(claims: Mapping[str, object], leeway: float, now: float) -> float:
    expires_in = _date(claims["exp"]) + leeway - now
    if expires_in <= 0:
        raise TokenError(Cause.EXPIRED)
    for name in ("nbf", "iat"):
        # `iat` in the future is not in RFC 7519; PyJWT refuses it too, for it shows that a clock is wrong.
        if name in claims and _date(claims[name]) > now + leeway:
            raise TokenError(Cause.NOT_YET_VALID)
    return expires_in


def _check_issuer(value: object, issuers: frozenset[str]) -> None:
    if not issuers:
        return
    if value is None:
        raise TokenError(Cause.MISSING_CLAIM, "iss")
    if not isinstance(value, str) or value not in issuers:
        raise TokenError(Cause.WRONG_ISSUER)


def _check_audience(value: object, audiences: frozenset[str]) -> None:
    if not audiences:
        # RFC 7519 section 4.1.3: who does not identify itself with a value in it must reject the token.
        if value is not None:
            raise TokenError(Cause.AUDIENCE_NOT_CONFIGURED)
        return
    if value is None:
        raise TokenError(Cause.MISSING_CLAIM, "aud")
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in values) or audiences.isdisjoint(values):
        raise TokenError(Cause.WRONG_AUDIENCE)


def _date(value: object) -> float:
    # `bool` is an `int` to Python; a string is not a NumericDate (RFC 7519 section 2).
    if isinstance(value, bool) or not isinstance(value, _NUMBER) or not 0 <= value <= _LAST_DATE:
        raise TokenError(Cause.BAD_TIME)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("duplicate name")
    return members


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number too large")
    return value


def _no_constant(_: str) -> NoReturn:
    raise ValueError("not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
