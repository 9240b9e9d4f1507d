"""The publish API: its keys, who can read them on the way, and its bounds."""

from __future__ import annotations

from collections.abc import Iterator

from roomwire.cli._advice.item import Advice, is_loopback
from roomwire.config import Settings

__all__ = ["advice"]

_SHORT = 16
"""Characters: 96 bits, where they are random ones of a base64 alphabet."""
_FEW = 10
_MAX_BODY = 16_777_216
_MAX_BATCH = 10_000
_ENVELOPE = 1024
"""Bytes of a request around the data of its event."""


def advice(settings: Settings) -> Iterator[Advice]:
    """What a reviewer would ask about ``[api]``."""
    if settings.api.keys:
        yield from _of_keys(settings)
        yield from _of_bounds(settings)


def _of_keys(settings: Settings) -> Iterator[Advice]:
    path = ("api", "keys")
    for number, key in enumerate(settings.api.keys, start=1):
        text = key.get_secret_value()
        if len(text) < _SHORT or len(set(text)) < _FEW:
            yield Advice(
                path,
                f"number {number} is short or of few characters: who guesses it may publish to every room",
                'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"',
            )
    server = settings.server
    own_port = server.uds is None and server.fd is None and not is_loopback(server.host)
    if own_port and server.ssl_certfile is None and not server.proxy_headers:
        yield Advice(
            path,
            f"they come to {server.host} without TLS: who reads one on the way may publish to every room",
            "[server] ssl_certfile = ..., ssl_keyfile = ...; or proxy_headers = true behind a proxy that ends TLS",
        )


def _of_bounds(settings: Settings) -> Iterator[Advice]:
    api, limits = settings.api, settings.limits
    if api.max_body < limits.max_event_size + _ENVELOPE:
        yield Advice(
            ("api", "max_body"),
            f"an event may have {limits.max_event_size} bytes (limits.max_event_size), and does not fit into a request",
            f"[api] max_body = {2 * limits.max_event_size}",
        )
    if api.max_body > _MAX_BODY:
        text = f"{api.max_body} bytes are a lot: each request holds as many while it is read"
        yield Advice(("api", "max_body"), text, "[api] max_body = 262144")
    if api.max_batch > _MAX_BATCH:
        text = f"{api.max_batch} are a lot: what is not published within limits.handshake_timeout is cut off"
        yield Advice(("api", "max_batch"), text, "[api] max_batch = 100")
