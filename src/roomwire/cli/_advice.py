"""What works and is yet unsafe or unwise in a configuration, each with the line that changes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from roomwire.config import Loaded, format_key, is_secret_name

__all__ = ["Advice", "advice"]

_ANYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  what is warned of
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

# nginx, AWS and most other proxies close what is silent for 60 seconds.
_PROXY_IDLE = 60.0

_HUGE = {
    "max_message_size": (1_048_576, "every connection may make the server hold as much"),
    "max_state_size": (16_777_216, "every join may make the server send as much"),
    "outbox_bytes": (16_777_216, "every slow reader may make the server hold as much"),
    "connections_per_user": (1000, "one user may take them all"),
    "rooms": (10_000, "every join costs the backplane work"),
    "messages_per_second": (10_000, "one client may keep a core busy"),
    "replay_bytes": (67_108_864, "clients that come back at once make the server hold as much for each of them"),
    "max_fragments": (65_536, "empty fragments cost the server more than their sender"),
}


class Advice(NamedTuple):
    """One warning.

    Attributes:
        key: the setting.
        text: what may happen.
        change: the line that changes it.
    """

    key: str
    text: str
    change: str


def advice(loaded: Loaded) -> list[Advice]:
    """Everything that a reviewer would ask about."""
    return [*_of_access(loaded), *_of_network(loaded), *_of_limits(loaded), *_of_secrets(loaded)]


def _of_access(loaded: Loaded) -> Iterator[Advice]:
    settings = loaded.settings
    server, auth = settings.server, settings.auth
    if auth.type == "anonymous":
        yield Advice(
            "auth.type", "anybody may connect, and nobody can be told from anybody else", '[auth] type = "jwt"'
        )
    if "*" in server.allowed_origins:
        yield Advice(
            "server.allowed_origins",
            "any web page may connect on behalf of the user who looks at it",
            '[server] allowed_origins = ["https://your.page"]',
        )
    sources = auth.options.get("sources", ["header", "subprotocol", "query"])
    in_query = auth.type == "jwt" and isinstance(sources, list) and "query" in sources
    if in_query and server.proxy_headers:
        yield Advice(
            "auth.options.sources",
            "tokens may stand in the query string, and proxies write that into their access logs",
            'switch that off at the proxy, or set [auth.options] sources = ["header", "subprotocol"]',
        )


def _of_network(loaded: Loaded) -> Iterator[Advice]:
    server = loaded.settings.server
    plain = server.ssl_certfile is None and not server.proxy_headers and server.uds is None and server.fd is None
    if plain and server.host not in _LOOPBACK:
        where = "every interface" if server.host in _ANYWHERE else server.host
        yield Advice(
            "server.host",
            f"{where} is served without TLS: tokens and messages can be read on the way",
            "[server] ssl_certfile = ..., ssl_keyfile = ...; or proxy_headers = true behind a proxy that ends TLS",
        )
    if server.proxy_headers and "*" in server.forwarded_allow_ips:
        yield Advice(
            "server.forwarded_allow_ips",
            "every client may say that it comes from anywhere, which undoes the limits per address",
            '[server] forwarded_allow_ips = ["ADDRESS OF THE PROXY"]',
        )
    if server.compression:
        yield Advice(
            "server.compression",
            "it costs memory and CPU for each connection, and lets sizes tell of secrets in the same message",
            "[server] compression = false",
        )


def _of_limits(loaded: Loaded) -> Iterator[Advice]:
    limits = loaded.settings.limits
    if limits.heartbeat_interval >= _PROXY_IDLE:
        yield Advice(
            "limits.heartbeat_interval",
            f"proxies close connections that are silent for {_PROXY_IDLE:g} seconds",
            "[limits] heartbeat_interval = 30",
        )
    if limits.heartbeat_timeout < 2 * limits.heartbeat_interval:
        yield Advice(
            "limits.heartbeat_timeout",
            "a single lost heartbeat ends a connection",
            f"[limits] heartbeat_timeout = {3 * limits.heartbeat_interval:g}",
        )
    for name, (most, text) in _HUGE.items():
        value = getattr(limits, name)
        if value > most:
            yield Advice(f"limits.{name}", f"{value} is a lot: {text}", f"[limits] {name} = {most}, or less")


def _of_secrets(loaded: Loaded) -> Iterator[Advice]:
    file = loaded.source.name if loaded.source is not None else None
    for path, origin in loaded.origins.items():
        if is_secret_name(path) and not origin.reference and origin.source == file:
            name = f"ROOMWIRE_{path[0]}_{path[-1]}".upper()
            yield Advice(
                format_key(path),
                f"the secret stands in {origin.source}, where version control keeps it for ever",
                f'[{format_key(path[:-1])}] {path[-1]} = "env:{name}", and the value in .env',
            )
