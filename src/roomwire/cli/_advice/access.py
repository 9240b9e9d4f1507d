"""Who may connect: authentication, origins, secrets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from roomwire.cli._advice.item import Advice, is_loopback, url_of
from roomwire.config import Loaded, Settings, format_key, is_secret_name

if TYPE_CHECKING:
    from roomwire.auth.jwt import JwtOptions

__all__ = ["advice"]

_DAY = 86_400.0
# OpenID Connect Core 1.0, section 5.7: other claims "MUST NOT be used as unique identifiers".
_CLAIMS_THAT_MOVE_ON = frozenset({"email", "phone_number", "name", "nickname", "preferred_username"})
_OPTIONS = ("auth", "options")


def advice(loaded: Loaded) -> Iterator[Advice]:
    """What a reviewer would ask about access."""
    settings = loaded.settings
    if settings.auth.type == "anonymous":
        text = "anybody may connect, and nobody can be told from anybody else"
        yield Advice(("auth", "type"), text, '[auth] type = "jwt"')
    if settings.auth.type == "jwt":
        from roomwire.auth.jwt import JwtOptions

        options = JwtOptions.model_validate(settings.auth.options)
        yield from _of_sources(settings, options)
        yield from _of_tokens(options)
        if options.jwks_url is not None:
            yield from _of_key_set(settings, options, options.jwks_url)
    yield from _of_origins(settings)
    yield from _of_secrets(loaded)


def _of_sources(settings: Settings, options: JwtOptions) -> Iterator[Advice]:
    server = settings.server
    if "query" in options.sources and (server.proxy_headers or server.uds is not None):
        yield Advice(
            (*_OPTIONS, "sources"),
            "tokens may stand in the query string, and proxies write that into their access logs",
            'switch that off at the proxy, or set [auth.options] sources = ["header", "subprotocol"]',
        )
    if server.sse_path and not {"header", "query"} & set(options.sources):
        yield Advice(
            ("server", "sse_path"),
            "nobody gets an event stream: no request for one can have its token in a subprotocol",
            '[server] sse_path = "", or [auth.options] sources = ["header", "subprotocol"]',
        )


def _of_tokens(options: JwtOptions) -> Iterator[Advice]:
    if options.secret is not None and len(set(options.secret.get_secret_value())) < 10:
        yield Advice(
            (*_OPTIONS, "secret"),
            "it has few different characters, and who guesses it can be anybody",
            'make one with: python -c "import secrets; print(secrets.token_urlsafe(64))"',
        )
    if options.secret is None and not options.audience:
        yield Advice(
            (*_OPTIONS, "audience"),
            "a token without an audience is accepted, whichever service its issuer made it for",
            '[auth.options] audience = "NAME OF THIS SERVICE"',
        )
    if options.user_claim in _CLAIMS_THAT_MOVE_ON:
        yield Advice(
            (*_OPTIONS, "user_claim"),
            f"{options.user_claim} can be changed, or be given to another person, who then is this user here",
            '[auth.options] user_claim = "sub"',
        )


def _of_key_set(settings: Settings, options: JwtOptions, url: str) -> Iterator[Advice]:
    parts = url_of(url)
    if parts is not None and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield Advice(
            (*_OPTIONS, "jwks_url"),
            "keys that come without TLS can be replaced on the way, and with them every token be forged",
            f'[auth.options] jwks_url = "https{url.removeprefix("http")}"',
        )
    for name, least, most, text, value in (
        ("jwks_refresh", 0.0, _DAY, "a key that the issuer has withdrawn is good for as long", 300),
        ("jwks_max_stale", 0.0, 7 * _DAY, "so long can who keeps us from the issuer keep a withdrawn key good", 86_400),
        ("jwks_min_gap", 1.0, _DAY, "anybody can make us ask the issuer as often, with made-up key ids", 10),
    ):
        seconds = getattr(options, name)
        if not least <= seconds <= most:
            yield Advice((*_OPTIONS, name), f"{seconds:g} seconds: {text}", f"[auth.options] {name} = {value}")
    if options.jwks_timeout >= settings.limits.handshake_timeout:
        yield Advice(
            (*_OPTIONS, "jwks_timeout"),
            "the handshake that waits for the keys is over before",
            f"[auth.options] jwks_timeout = {settings.limits.handshake_timeout / 2:g}",
        )


def _of_origins(settings: Settings) -> Iterator[Advice]:
    origins = settings.server.allowed_origins
    path = ("server", "allowed_origins")
    if "*" in origins:
        text = "any web page may connect on behalf of the user who looks at it"
        yield Advice(path, text, '[server] allowed_origins = ["https://your.page"]')
    for origin in origins:
        parts = url_of(origin.lower())
        if parts is not None and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            text = f"{origin} comes without TLS: who can change the page on the way can act for its user"
            yield Advice(path, text, f'[server] allowed_origins = ["https{origin[4:]}"]')


def _of_secrets(loaded: Loaded) -> Iterator[Advice]:
    file = loaded.source.name if loaded.source is not None else None
    for path, origin in loaded.origins.items():
        if origin.reference or origin.source != file:
            continue
        if is_secret_name(path) or _has_password(loaded, path):
            name = f"ROOMWIRE_{path[0]}_{path[-1]}".upper()
            yield Advice(
                path,
                f"the secret stands in {origin.source}, where version control keeps it for ever",
                f'[{format_key(path[:-1])}] {path[-1]} = "env:{name}", and the value in .env',
            )


def _has_password(loaded: Loaded, path: tuple[str, ...]) -> bool:
    """Whether an adapter's option is a URL with a password in it."""
    if len(path) != 3 or path[1] != "options":
        return False
    options = {"auth": loaded.settings.auth.options, "backplane": loaded.settings.backplane.options}[path[0]]
    values = options.get(path[2])
    found = (url_of(value) for value in (values if isinstance(values, list) else [values]))
    return any(parts is not None and parts.password for parts in found)
