"""Where a request carries its token, and the one answer to every token that is not good.

A token is looked for in a fixed order (protocol reference, section 1):

    header        ``Authorization: Bearer T``         (RFC 6750 section 2.1)
    subprotocol   ``bearer.T`` in Sec-WebSocket-Protocol, for browsers
    query         ``?token=T``                        (RFC 6750 section 2.3)

The first source *present* decides, be it malformed: a proxy that checks one source must not be
told something else by another. A source that is switched off is not looked at.

A token, or a part of one, never enters an exception, a `Refusal`, a repr or a log record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import Literal

from roomwire.core.errors import HandshakeRefused, Refusal, RemoteError
from roomwire.core.request import RequestHead

__all__ = ["MAX_TOKEN_SIZE", "SOURCES", "Cause", "Source", "TokenError", "find_token", "unauthorized"]

Source = Literal["header", "subprotocol", "query"]

SOURCES: tuple[Source, ...] = ("header", "subprotocol", "query")
"""Every source, in the order in which they are looked at."""

MAX_TOKEN_SIZE = 8192
"""Bytes. A token has to fit into a request line or a header line, which servers bound at 8 KiB."""

# RFC 6750's b68token, the only form that all three sources can carry.
_B68TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Cause(StrEnum):
    """Why a token was refused: for the log and for metrics, never for the peer."""

    NO_TOKEN = "no token"  # noqa: S105
    SEVERAL_TOKENS = "several tokens"
    TOO_LARGE = "too large"
    MALFORMED = "malformed"
    WRONG_TYPE = "wrong token type"
    CRITICAL_HEADER = "critical header"
    ALGORITHM = "algorithm not allowed"
    UNKNOWN_KEY = "unknown key"
    NO_KEYS = "no current keys"
    BAD_SIGNATURE = "bad signature"
    MISSING_CLAIM = "missing claim"
    BAD_TIME = "bad time claim"
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    WRONG_ISSUER = "wrong issuer"
    WRONG_AUDIENCE = "wrong audience"
    AUDIENCE_NOT_CONFIGURED = "audience not configured"
    BAD_CLAIM = "bad claim"
    BAD_USER = "bad user"


class TokenError(RemoteError):
    """A token does not verify. Authenticators turn it into `unauthorized`, outside of its handler.

    Its text is for the log: the cause, with the claim's name behind it.

    Args:
        cause: why.
        claim: the claim that is meant, by a name out of the configuration or of RFC 7519; never one of the token's.

    Attributes:
        cause: why.
    """

    def __init__(self, cause: Cause, claim: str = "") -> None:
        super().__init__(f"{cause.value}: {claim}" if claim else cause.value)
        self.cause = cause


def unauthorized(cause: str) -> HandshakeRefused:
    """The 401 for any request without a good token: the same for every `cause` (RFC 6750 section 3)."""
    return HandshakeRefused(
        Refusal(
            401,
            "unauthorized",
            "a valid token is required",
            headers=(("WWW-Authenticate", "Bearer"),),
            cause=str(cause),
        )
    )


def find_token(head: RequestHead, sources: Collection[Source] = SOURCES) -> str:
    """The token of a request, at most `MAX_TOKEN_SIZE` ASCII characters; unverified.

    Args:
        head: the request.
        sources: the sources that are switched on; their order has no meaning.

    Raises:
        HandshakeRefused: 401, where there is no token, or the source that decides is malformed
            or holds several.
    """
    try:
        return _find(head, sources)
    except TokenError as error:
        cause = error.cause
    # Outside of the handler: no frame of the refusal holds what was found, and it has no context.
    raise unauthorized(cause)


def _find(head: RequestHead, sources: Collection[Source]) -> str:
    for source, read in _READERS:
        if source in sources and (found := read(head)):
            return _only(found)
    raise TokenError(Cause.NO_TOKEN)


def _only(found: Sequence[str]) -> str:
    if len(found) > 1:
        raise TokenError(Cause.SEVERAL_TOKENS)
    token = found[0]
    if len(token) > MAX_TOKEN_SIZE:
        raise TokenError(Cause.TOO_LARGE)
    if not _B68TOKEN.fullmatch(token):
        raise TokenError(Cause.MALFORMED)
    return token


def _from_header(head: RequestHead) -> list[str]:
    return [_credentials(value.decode("latin-1")) for value in head.header_values(b"authorization")]


def _credentials(value: str) -> str:
    # An empty string is present and malformed: another scheme decides as well.
    scheme, _, token = value.partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else ""


def _from_subprotocol(head: RequestHead) -> list[str]:
    # Not `header_items`, which passes over what is not ASCII: here that is a token, a malformed one.
    values = head.header_values(b"sec-websocket-protocol")
    if b"bearer." not in b",".join(values):
        return []
    items = (item.strip() for value in values for item in value.split(b","))
    return [item.removeprefix(b"bearer.").decode("latin-1") for item in items if item.startswith(b"bearer.")]


def _from_query(head: RequestHead) -> Sequence[str]:
    return head.query_values("token")


_READERS: tuple[tuple[Source, Callable[[RequestHead], Sequence[str]]], ...] = (
    ("header", _from_header),
    ("subprotocol", _from_subprotocol),
    ("query", _from_query),
)
