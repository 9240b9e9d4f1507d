"""The options of `roomwire.auth.jwt`, and the rules that make a dangerous combination impossible."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import jwt
from jwt.algorithms import HMACAlgorithm
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from roomwire.auth.tokens import SOURCES, Source

__all__ = ["JwtOptions"]

AlgorithmName = Literal[
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512",
    "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512",
    "EdDSA",
]  # fmt: skip

NonEmpty = Annotated[str, Field(min_length=1)]
Strings = Annotated[list[NonEmpty], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# RFC 7518 section 3.2: a key of the size of the hash output or larger MUST be used.
_HMAC_KEY_SIZES = {"HS256": 32, "HS384": 48, "HS512": 64}


class JwtOptions(BaseModel):
    """The ``[auth.options]`` of ``auth.type = "jwt"``.

    Attributes:
        algorithms: the signature algorithms that are accepted.
        secret: the shared secret of HS256 and its kin, at least as long as the hash: 32, 48 or 64 bytes.
        public_key: a public key as PEM text.
        jwks_url: where the issuer publishes its keys (RFC 7517). Exactly one of these three.
        issuer: accepted ``iss``, one or several. Required with `jwks_url`: one set of keys may serve
            many customers of an issuer, and only ``iss`` tells them apart.
        audience: accepted ``aud``, one or several. Where none is configured, a token that has an
            ``aud`` was made for somebody else and is refused.
        leeway: seconds that the issuer's clock and ours may differ; a token is good for so much longer.
        user_claim: the claim that holds the user's id.
        sources: where a token may stand in a request; the order has no meaning.
        required_claims: further claims that must be present. ``exp`` always must be.
        jwks_refresh: seconds after which the keys are fetched anew (PyJWT: 300).
        jwks_min_gap: seconds between two fetches, whatever key ids tokens name. A rotated key may be
            refused for so long.
        jwks_max_stale: seconds for which the keys are used while the URL cannot be reached.
        jwks_timeout: seconds for one fetch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    algorithms: Annotated[list[AlgorithmName], Field(min_length=1)]
    secret: SecretStr | None = None
    public_key: NonEmpty | None = None
    jwks_url: NonEmpty | None = None
    issuer: Strings = []
    audience: Strings = []
    leeway: Annotated[float, Field(ge=0, le=30)] = 0.0
    user_claim: NonEmpty = "sub"
    sources: Annotated[list[Source], Field(min_length=1)] = list(SOURCES)
    required_claims: list[NonEmpty] = []
    jwks_refresh: Seconds = 300.0
    jwks_min_gap: Seconds = 10.0
    jwks_max_stale: Seconds = 86_400.0
    jwks_timeout: Annotated[float, Field(gt=0, le=60)] = 5.0

    @field_validator("secret")
    @classmethod
    def _strong(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is None:
            return None
        size = len(secret.get_secret_value().encode())
        for name in info.data.get("algorithms", []):
            if size < (needed := _HMAC_KEY_SIZES.get(name, 0)):
                raise ValueError(
                    f"the secret has {size} bytes, {name} needs at least {needed} (RFC 7518 section 3.2). "
                    'Make one with: python -c "import secrets; print(secrets.token_urlsafe(64))"'
                )
        try:
            HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret.get_secret_value())
        except jwt.InvalidKeyError:
            raise ValueError(
                "this is a PEM or JWK key, not a shared secret: put a public key into public_key"
            ) from None
        return secret

    @field_validator("jwks_url")
    @classmethod
    def _fetchable(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            _ = parts.port  # raises ValueError for one that is no number
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or not url.isascii():
                raise ValueError("expected an http or https URL without user name")
        return url

    @model_validator(mode="after")
    def _one_kind_of_key(self) -> JwtOptions:
        given = [name for name in ("secret", "public_key", "jwks_url") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"expected exactly one of secret, public_key and jwks_url, found {found}")
        shared = [name for name in self.algorithms if name in _HMAC_KEY_SIZES]
        if self.secret is None and shared:
            raise ValueError(f"{shared[0]} works with a secret alone; with {given[0]} leave it out of algorithms")
        if self.secret is not None and len(shared) < len(self.algorithms):
            raise ValueError("a secret works with HS256, HS384 and HS512 alone; leave the others out of algorithms")
        if self.jwks_url is not None and not self.issuer:
            raise ValueError("jwks_url needs issuer: others may have tokens signed with the same keys")
        return self
