"""JSON Web Tokens (RFC 7519), signed with a shared secret, a public key, or the keys behind a URL.

What may verify a token is settled by the configuration before the first token comes (RFC 8725
section 3.1): the algorithms, the keys for each of them, and that a shared secret is never used with
a public-key algorithm or the reverse. A token's header only selects among these.

PyJWT verifies the signatures; `roomwire.auth._claims` checks what the payload says.
"""

from __future__ import annotations

import binascii
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jwt
from jwt.algorithms import Algorithm, HMACAlgorithm

from roomwire.auth._claims import ClaimRules, identify, is_user, parse_object
from roomwire.auth._options import JwtOptions
from roomwire.auth.jwks import KeySet, key_algorithm, public_key
from roomwire.auth.tokens import MAX_TOKEN_SIZE, Cause, TokenError, find_token, unauthorized
from roomwire.core.errors import ConfigError, HandshakeRefused, Refusal
from roomwire.core.identity import Identity
from roomwire.core.request import RequestHead

__all__ = ["Inspection", "JwtAuthenticator", "JwtOptions", "Options", "inspect", "issue"]

# RFC 7515 section 3.1 and RFC 7519 section 3.1: three parts, none of them empty, no padding.
_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")

# The alphabet of RFC 4648 section 5, and that of section 4.
_FROM_URL, _TO_URL = bytes.maketrans(b"-_", b"+/"), bytes.maketrans(b"+/", b"-_")

# RFC 7519 section 5.1 and RFC 9068 section 2.1. A token made for another purpose, such as a logout
# token, must not pass for one of these (RFC 8725 section 3.12).
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})

Options = JwtOptions


_HMAC_HASHES = {"HS256": HMACAlgorithm.SHA256, "HS384": HMACAlgorithm.SHA384, "HS512": HMACAlgorithm.SHA512}


_HEADERS_KEPT = 64
"""Headers of tokens that are remembered. An issuer writes the same one, letter by letter, for years."""


class _Header(NamedTuple):
    algorithm: str
    kid: str | None


class _Compact(NamedTuple):
    """The parts of a token, still base64url, and what its signature is of (RFC 7515 section 3.1)."""

    header: bytes
    payload: bytes
    signature: bytes
    signed: bytes


class JwtAuthenticator:
    """Keeps `roomwire.auth.contract.Authenticator`.

    Args:
        options: see `JwtOptions`.
        clock: seconds since 1970-01-01T00:00:00Z.
        monotonic: monotonic seconds, for the age of fetched keys.

    Raises:
        ConfigError: the public key does not fit the algorithms, or ``cryptography`` is missing.
    """

    __slots__ = ("_algorithms", "_clock", "_headers", "_key_set", "_keys", "_rules", "_sources")

    Options = JwtOptions

    def __init__(
        self,
        options: JwtOptions,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._sources = frozenset(options.sources)
        self._algorithms = _verifiers(options)
        self._headers: dict[bytes, _Header] = {}
        self._rules = ClaimRules(
            issuers=frozenset(options.issuer),
            audiences=frozenset(options.audience),
            required=tuple(dict.fromkeys(["exp", options.user_claim, *options.required_claims])),
            user_claim=options.user_claim,
            leeway=options.leeway,
        )
        self._keys = _fixed_keys(options)
        self._key_set = _key_set(options, monotonic)

    async def start(self) -> None:
        """Fetch the keys, where they come from a URL.

        Raises:
            ConfigError: they cannot be had.
        """
        if self._key_set is not None:
            await self._key_set.start()

    async def aclose(self) -> None:
        """Fetch no more."""
        if self._key_set is not None:
            await self._key_set.aclose()

    async def authenticate(self, head: RequestHead) -> Identity:
        """Who the request's token speaks of.

        Raises:
            HandshakeRefused: 401, the same for every cause; or 503 where keys from a URL have become
                too old to be trusted, for which the client is not to blame.
        """
        try:
            return await self._identify(head)
        except TokenError as rejected:
            cause, text = rejected.cause, str(rejected)
        # Outside of the handler: the refusal has no context whose frames hold the token.
        raise _unavailable() if cause is Cause.NO_KEYS else unauthorized(text)

    async def _identify(self, head: RequestHead) -> Identity:
        token = _split(find_token(head, self._sources).encode())
        header = self._headers.get(token.header) or self._read_header(token)
        key = self._keys.get(header.algorithm)
        if key is None and self._key_set is not None:
            key = await self._key_set.find(header.kid, header.algorithm)
        return self._verify(token, header, key)

    def _read_header(self, token: _Compact) -> _Header:
        """What the header selects. Nothing but ``alg``, ``kid``, ``typ``, ``crit`` and ``b64`` is looked at."""
        header = parse_object(_decoded(token.header))
        # RFC 7515 section 4.1.11: what is critical must be understood, and we know no extension.
        if "crit" in header:
            raise TokenError(Cause.CRITICAL_HEADER)
        kind, algorithm, kid = header.get("typ", "jwt"), header.get("alg"), header.get("kid")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise TokenError(Cause.WRONG_TYPE)
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise TokenError(Cause.ALGORITHM)
        # RFC 7797 section 3: a payload that is not encoded has to be critical as well, so that we never see one.
        if (kid is not None and not isinstance(kid, str)) or header.get("b64", True) is not True:
            raise TokenError(Cause.MALFORMED)
        selected = _Header(algorithm, kid)
        # Headers are the clients' to choose until a signature is verified: what is remembered has a bound.
        if len(self._headers) >= _HEADERS_KEPT:
            self._headers.clear()
        self._headers[token.header] = selected
        return selected

    def _verify(self, token: _Compact, header: _Header, key: Any) -> Identity:
        """Keys were prepared and found strong enough when they were loaded."""
        if key is None:
            raise TokenError(Cause.UNKNOWN_KEY)
        payload, signature = _decoded(token.payload), _decoded(token.signature)
        try:
            genuine = self._algorithms[header.algorithm].verify(token.signed, key, signature)
        except (jwt.PyJWTError, ValueError, TypeError):
            genuine = False
        if not genuine:
            raise TokenError(Cause.BAD_SIGNATURE)
        return identify(parse_object(payload), self._rules, self._clock())


def _fixed_keys(options: JwtOptions) -> dict[str, Any]:
    """The key of each algorithm, where they do not come from a URL."""
    if options.secret is not None:
        return dict.fromkeys(options.algorithms, options.secret.get_secret_value().encode())
    if options.public_key is None:
        return {}
    try:
        return {name: public_key(name, options.public_key) for name in options.algorithms}
    except ValueError as error:
        raise ConfigError(f"auth.options.public_key: the PEM text {error}") from None


def _key_set(options: JwtOptions, clock: Callable[[], float]) -> KeySet | None:
    if options.jwks_url is None:
        return None
    return KeySet(
        options.jwks_url,
        options.algorithms,
        refresh=options.jwks_refresh,
        min_gap=options.jwks_min_gap,
        max_stale=options.jwks_max_stale,
        timeout=options.jwks_timeout,
        clock=clock,
    )


def _verifiers(options: JwtOptions) -> dict[str, Algorithm]:
    """PyJWT's implementations of the configured algorithms, and of no other."""
    return {
        name: HMACAlgorithm(_HMAC_HASHES[name]) if name in _HMAC_HASHES else key_algorithm(name)
        for name in options.algorithms
    }


def _split(token: bytes) -> _Compact:
    if len(token) > MAX_TOKEN_SIZE:
        raise TokenError(Cause.TOO_LARGE)
    match = _COMPACT.fullmatch(token)
    if match is None:
        raise TokenError(Cause.MALFORMED)
    header, payload, signature = match.groups()
    return _Compact(header, payload, signature, token[: match.end(2)])


def _decoded(part: bytes) -> bytes:
    """The bytes behind base64url without padding (RFC 7515 section 2), of which one value has one spelling."""
    try:
        value = binascii.a2b_base64(part.translate(_FROM_URL) + b"==")
    except binascii.Error:
        value = b""
    if binascii.b2a_base64(value, newline=False).rstrip(b"=").translate(_TO_URL) != part:
        raise TokenError(Cause.MALFORMED)
    return value


def _unavailable() -> HandshakeRefused:
    headers = (("Retry-After", "10"),)
    return HandshakeRefused(
        Refusal(503, "unavailable", "tokens cannot be verified now", headers=headers, cause=Cause.NO_KEYS.value)
    )


def issue(
    options: JwtOptions,
    user: str,
    *,
    ttl: float,
    claims: Mapping[str, object] | None = None,
    clock: Callable[[], float] = time.time,
) -> str:
    """A token that a server with these `options` accepts, for development and for tests.

    Args:
        options: with a `secret`; the first algorithm, issuer and audience are used.
        user: the user's id.
        ttl: seconds until it expires; rounded up to whole seconds of the clock.
        claims: further claims; they replace the ones that are made here, but for the user's.
        clock: seconds since 1970-01-01T00:00:00Z.

    Raises:
        ConfigError: there is no secret to sign with, or `user` cannot be a user's id.
    """
    if options.secret is None:
        raise ConfigError("auth.options.secret: tokens can be made with a shared secret only; ask the issuer for one")
    if not is_user(user):
        raise ConfigError("a user's id has 1 to 255 characters, none of them a control character")
    now = clock()
    payload: dict[str, Any] = {"iat": math.floor(now), "exp": math.ceil(now + ttl), "jti": secrets.token_hex(8)}
    if options.issuer:
        payload["iss"] = options.issuer[0]
    if options.audience:
        payload["aud"] = options.audience[0]
    payload |= {**(claims or {}), options.user_claim: user}
    return jwt.encode(payload, options.secret.get_secret_value(), algorithm=options.algorithms[0])


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a token says and whether it would be accepted.

    Attributes:
        header: the header, unverified; empty where it cannot be read.
        claims: the payload, unverified; empty where it cannot be read.
        identity: what the token would be accepted as, or ``None``.
        cause: why it would be refused, or ``""``.
    """

    header: Mapping[str, object] = field(default_factory=dict)
    claims: Mapping[str, object] = field(default_factory=dict)
    identity: Identity | None = None
    cause: str = ""


def inspect(options: JwtOptions, token: str, *, clock: Callable[[], float] = time.time) -> Inspection:
    """Look into a token. Blocks while the keys are fetched, where they come from a URL.

    Raises:
        ConfigError: the keys cannot be had.
    """
    authenticator = JwtAuthenticator(options, clock=clock)
    if authenticator._key_set is not None:
        authenticator._key_set.load()
    encoded = token.encode("utf-8", "replace")
    header, claims = _peek(encoded)
    try:
        compact = _split(encoded)
        selected = authenticator._read_header(compact)
        key = authenticator._keys.get(selected.algorithm)
        if authenticator._key_set is not None:
            key = authenticator._key_set.lookup(selected.kid, selected.algorithm)
        return Inspection(header, claims, authenticator._verify(compact, selected, key))
    except TokenError as rejected:
        return Inspection(header, claims, cause=str(rejected))


def _peek(token: bytes) -> tuple[Mapping[str, object], Mapping[str, object]]:
    parts = token.split(b".")
    if len(token) > MAX_TOKEN_SIZE or len(parts) != 3:
        return {}, {}
    return _readable(parts[0]), _readable(parts[1])


def _readable(part: bytes) -> Mapping[str, object]:
    try:
        return parse_object(_decoded(part))
    except TokenError:
        return {}
