"""The keys behind a JWKS URL (RFC 7517), fetched when they are needed and kept while they are not.

    fresh    younger than `refresh` seconds           used
    stale    up to `max_stale`                        used, while a thread fetches them anew
    too old  beyond it: the issuer cannot be reached  no token verifies until a fetch succeeds

A token with an unknown key id asks for a fetch too, so that a rotated key works at once. No two
fetches run at one time and none begins within `min_gap` seconds of the last, whatever the tokens
say: made-up key ids cost the issuer nothing.

A key is chosen by key id and algorithm together, among those that the configured URL gave. What a
token says of keys (``jku``, ``jwk``, ``x5u``, ``x5c``) is not looked at, and no URL is made from it.
One authenticator trusts one issuer's set; sets are not shared.
"""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import anyio.to_thread
import jwt
from jwt.algorithms import Algorithm

from roomwire.auth.tokens import Cause, TokenError
from roomwire.core.errors import ConfigError

if TYPE_CHECKING:
    from jwt.algorithms import AllowedPublicKeys

__all__ = ["KeySet", "key_algorithm", "parse_keys", "public_key"]

MAX_DOCUMENT_SIZE = 262_144
"""Bytes. The largest sets in public use have some tens of keys with their certificates: about 50 KiB."""

_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

_logger = logging.getLogger("roomwire.security")

Keys = Mapping[tuple[str | None, str], "AllowedPublicKeys"]
"""By key id and algorithm. Under the key id ``None``: the only key that fits the algorithm."""


def key_algorithm(name: str) -> Algorithm:
    """PyJWT's implementation of an asymmetric algorithm.

    Raises:
        ConfigError: the package ``cryptography`` is not installed.
    """
    try:
        return jwt.PyJWS().get_algorithm_by_name(name)
    except NotImplementedError:
        raise ConfigError(
            f"auth.options.algorithms: {name} needs the package cryptography: pip install roomwire[jwks]"
        ) from None


def public_key(name: str, material: str | dict[str, Any]) -> AllowedPublicKeys:
    """Key material made ready for one algorithm, so that no verification parses it again.

    Args:
        name: an asymmetric algorithm.
        material: a public key as PEM text, or as the members of a JWK (RFC 7517).

    Raises:
        ConfigError: see `key_algorithm`.
        ValueError: it is no public key for this algorithm, or too weak; the text says which.
    """
    algorithm = key_algorithm(name)
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        # Of a JWK's key too, for it is `prepare_key` that compares the curve with the algorithm.
        key = algorithm.prepare_key(algorithm.from_jwk(material) if isinstance(material, dict) else material)
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        raise ValueError(f"is not a public key for {name}") from None
    if hasattr(key, "public_key"):
        raise ValueError("is a private key; a server that only verifies must not hold it")
    if weakness := algorithm.check_key_length(key):
        raise ValueError(f"is too weak: {weakness}")
    return key  # type: ignore[no-any-return]  # PyJWT types what `prepare_key` gives as Any


def parse_keys(document: bytes, algorithms: Iterable[str]) -> Keys:
    """The keys of a JWK Set that can verify one of `algorithms`; others are passed over (RFC 7517 section 5).

    Raises:
        ValueError: it is not a JWK Set, or has no such key.
    """
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError):
        parsed = None
    members = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(members, list):
        raise ValueError("the response is not a JWK Set")  # noqa: TRY004  a document is wrong, not an argument
    keys: dict[tuple[str | None, str], AllowedPublicKeys] = {}
    for name in algorithms:
        fitting = [(member.get("kid"), key) for member in members if (key := _usable(member, name)) is not None]
        for kid, key in fitting:
            if isinstance(kid, str):
                keys.setdefault((kid, name), key)
        if len(fitting) == 1:
            keys[None, name] = fitting[0][1]
    if not keys:
        raise ValueError(f"none of the {len(members)} keys can verify {', '.join(algorithms)}")
    return keys


def _usable(member: Any, name: str) -> AllowedPublicKeys | None:
    if not isinstance(member, dict) or member.get("kty") != _KEY_TYPES[name[:2]]:
        return None
    if member.get("use", "sig") != "sig" or member.get("alg", name) != name:
        return None
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        return public_key(name, member)
    except ValueError:
        return None


class _Fetched(NamedTuple):
    keys: Keys
    at: float


class KeySet:
    """The keys that one URL gives.

    Args:
        url: ``http`` or ``https``; redirects are not followed.
        algorithms: the asymmetric algorithms that tokens may use.
        refresh: seconds after which the keys are fetched anew.
        min_gap: seconds between two fetches.
        max_stale: seconds for which keys may be used without a successful fetch.
        timeout: seconds for a fetch, and for a request to wait for one.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        url: str,
        algorithms: Iterable[str],
        *,
        refresh: float = 300.0,
        min_gap: float = 10.0,
        max_stale: float = 86_400.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._algorithms = tuple(algorithms)
        for name in self._algorithms:
            key_algorithm(name)
        self._refresh = refresh
        self._min_gap = min_gap
        self._max_stale = max_stale
        self._timeout = timeout
        self._clock = clock
        self._fetched = _Fetched({}, float("-inf"))
        self._attempted = float("-inf")
        self._worker: threading.Thread | None = None
        self._waiting = anyio.Lock()
        self._closed = False

    def load(self) -> None:
        """Fetch the keys now. Blocks for up to twice the time-out.

        Raises:
            ConfigError: there is no answer, or none with a usable key. The keys of before stay.
        """
        self._attempted = self._clock()
        try:
            keys = parse_keys(_download(self._url, self._timeout), self._algorithms)
        except ValueError as error:
            raise ConfigError(
                f"auth.options.jwks_url: no keys from {self._url}: {error}. "
                "Open the URL from this machine; it must answer 200 with a JWK Set."
            ) from None
        self._fetched = _Fetched(keys, self._clock())

    async def start(self) -> None:
        """`load`, in a worker thread."""
        await anyio.to_thread.run_sync(self.load, abandon_on_cancel=True)

    async def aclose(self) -> None:
        """No fetch begins after it; one under way is waited for, no longer than its time-out."""
        self._closed = True
        await self.settle()

    async def find(self, kid: str | None, algorithm: str) -> AllowedPublicKeys | None:
        """The key for a token's ``kid`` and ``alg``; ``None`` where there is none, even after a fetch.

        Waits for a fetch only where there is no key to go on with.

        Raises:
            TokenError: the keys are too old and cannot be fetched.
        """
        age = self._clock() - self._fetched.at
        if age >= self._refresh:
            self._begin()
        if age >= self._max_stale:
            await self.settle()
            if self._clock() - self._fetched.at >= self._max_stale:
                raise TokenError(Cause.NO_KEYS)
        key = self.lookup(kid, algorithm)
        if key is None:
            self._begin()
            await self.settle()
            key = self.lookup(kid, algorithm)
        return key

    def lookup(self, kid: str | None, algorithm: str) -> AllowedPublicKeys | None:
        """The key among those at hand, without a fetch."""
        return self._fetched.keys.get((kid, algorithm))

    async def settle(self) -> None:
        """Wait for the fetch under way, if any, no longer than its time-out."""
        with anyio.move_on_after(self._timeout):
            # One thread waits for the worker, however many requests do: worker threads are few.
            async with self._waiting:
                worker = self._worker
                if worker is not None and worker.is_alive():
                    await anyio.to_thread.run_sync(worker.join, abandon_on_cancel=True)

    def _begin(self) -> None:
        """Begin a fetch, unless one is under way or was not long ago."""
        if self._closed or (self._worker is not None and self._worker.is_alive()):
            return
        if self._clock() - self._attempted < self._min_gap:
            return
        # Here too, since the thread may take a while to begin.
        self._attempted = self._clock()
        # A thread of its own, not a task: it outlives the request that found the keys stale, and its
        # end wants nothing from the event loop.
        self._worker = threading.Thread(target=self._reload, name="roomwire-jwks", daemon=True)
        self._worker.start()

    def _reload(self) -> None:
        try:
            self.load()
        except ConfigError as error:
            age = self._clock() - self._fetched.at
            _logger.warning(
                "the keys of %.0f seconds ago stay in use, for at most %.0f: %s", age, self._max_stale, error
            )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # A redirect could lead to an address that only this machine can reach, or away from TLS.
    def redirect_request(
        self, req: object, fp: object, code: object, msg: object, headers: object, newurl: object
    ) -> None:
        return None


def _download(url: str, timeout: float) -> bytes:
    """The body of a 200 response.

    Raises:
        ValueError: anything else; the text says what.
    """
    headers = {"Accept": "application/jwk-set+json, application/json", "User-Agent": "roomwire"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  the options admit http and https only
    deadline = time.monotonic() + timeout
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as response:
            if response.status != 200:
                raise ValueError(f"HTTP status {response.status}")
            return _read(response, deadline)
    except urllib.error.HTTPError as error:
        error.close()
        raise ValueError(f"HTTP status {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    # The socket's time-out is for each read; a server that drips would never meet it.
    body = bytearray()
    while chunk := response.read1(65_536):
        body += chunk
        if len(body) > MAX_DOCUMENT_SIZE:
            raise ValueError(f"the response is larger than {MAX_DOCUMENT_SIZE} bytes")
        if time.monotonic() > deadline:
            raise ValueError("the response takes too long")
    return bytes(body)
