"""Where the node listens, who stands before it and how it stops; the backplane; logging and metrics."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator
from pathlib import Path

from roomwire.cli._advice.item import Advice, is_loopback, url_of
from roomwire.config import Loaded, ServerSettings, Settings, is_secret_name

__all__ = ["advice"]

_ANYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  what is warned of
_WITHOUT_TLS = frozenset({"redis", "valkey", "nats", "ws", "http"})
_HOSTS_OWN = (
    "host",
    "port",
    "uds",
    "fd",
    "workers",
    "backlog",
    "shell",
    "ssl_certfile",
    "ssl_keyfile",
    "compression",
    "proxy_headers",
    "forwarded_allow_ips",
)
# What kills a process that drains for too long: Kubernetes after 30 s, systemd after 90 s, by default.
_GRACE = 30.0
_SHORT = 16
"""Characters of a token that can be guessed."""


def advice(loaded: Loaded) -> Iterator[Advice]:
    """What a reviewer would ask about the surroundings."""
    server = loaded.settings.server
    if server.transport == "asgi":
        yield from _of_host(loaded)
    else:
        yield from _of_address(server)
        yield from _of_unused_address(loaded)
        yield from _of_files(server)
        yield from _of_proxies(loaded)
        yield from _of_compression(server)
    yield from _of_end(server)
    yield from _of_backplane(loaded.settings)
    yield from _of_logging(loaded.settings)
    yield from _of_metrics(loaded.settings)


def _of_host(loaded: Loaded) -> Iterator[Advice]:
    """What an ASGI host decides, and somebody may think that we do."""
    for name in _HOSTS_OWN:
        if loaded.origin("server", name).source != "default":
            text = 'with transport = "asgi" nothing reads it: that is for the host to be told'
            yield Advice(("server", name), text, f"[server] leave out {name}")


def _is_public(server: ServerSettings) -> bool:
    """Whether other machines reach the node's own port."""
    return server.uds is None and server.fd is None and not is_loopback(server.host)


def _where(server: ServerSettings) -> str:
    return "every interface" if server.host in _ANYWHERE else server.host


def _of_address(server: ServerSettings) -> Iterator[Advice]:
    if _is_public(server) and server.ssl_certfile is None and not server.proxy_headers:
        yield Advice(
            ("server", "host"),
            f"{_where(server)} is served without TLS: tokens and messages can be read on the way",
            "[server] ssl_certfile = ..., ssl_keyfile = ...; or proxy_headers = true behind a proxy that ends TLS",
        )
    if server.backlog < 128:
        yield Advice(
            ("server", "backlog"),
            f"with {server.backlog} places in the kernel's queue, clients that come back together are turned away",
            "[server] backlog = 2048",
        )


def _of_unused_address(loaded: Loaded) -> Iterator[Advice]:
    """A host beside another kind of socket: one of the two is a mistake. A flag may override a file."""
    server = loaded.settings.server
    other = "uds" if server.uds is not None else "fd" if server.fd is not None else None
    for name in ("host", "port"):
        if other is not None and loaded.origin("server", name).source == loaded.origin("server", other).source:
            text = f"nothing listens there, since {other} is set"
            yield Advice(("server", name), text, f"[server] leave out {name}, or {other}")


def _of_files(server: ServerSettings) -> Iterator[Advice]:
    if server.uds is not None and _mode(Path(server.uds).parent) & stat.S_IWOTH:
        yield Advice(
            ("server", "uds"),
            f"anybody on this machine may write to {Path(server.uds).parent}, and listen there in our place",
            '[server] uds = "/run/NAME/roomwire.sock"',
        )
    if server.ssl_keyfile is not None and _mode(Path(server.ssl_keyfile)) & stat.S_IROTH:
        text = "anybody on this machine may read the private key"
        yield Advice(("server", "ssl_keyfile"), text, f"chmod o-rwx {server.ssl_keyfile}")


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _of_proxies(loaded: Loaded) -> Iterator[Advice]:
    server, limits = loaded.settings.server, loaded.settings.limits
    path = ("server", "forwarded_allow_ips")
    believed = server.forwarded_allow_ips
    if not server.proxy_headers:
        if loaded.origin(*path).source != "default":
            text = "no proxy is believed, since proxy_headers is off: every client has the proxy's address"
            yield Advice(path, text, "[server] proxy_headers = true")
        return
    if any(map(_is_everybody, believed)):
        yield Advice(
            path,
            "every client may say that it comes from anywhere, which undoes the limits per address",
            '[server] forwarded_allow_ips = ["ADDRESS OF THE PROXY"]',
        )
    elif _is_public(server) and all(map(is_loopback, believed)):
        yield Advice(
            path,
            f"only proxies on this machine are believed, and {_where(server)} is served: past the proxy, without TLS",
            '[server] host = "127.0.0.1", or forwarded_allow_ips = ["ADDRESS OF THE PROXY"]',
        )
    if limits.max_pending_per_ip >= limits.max_pending_handshakes:
        yield Advice(
            ("limits", "max_pending_per_ip"),
            "one address may take all places at the door, and nobody else can connect",
            f"[limits] max_pending_per_ip = {max(1, limits.max_pending_handshakes // 5)}",
        )


def _is_everybody(entry: str) -> bool:
    return entry == "*" or ipaddress.ip_network(entry).prefixlen == 0


def _of_compression(server: ServerSettings) -> Iterator[Advice]:
    if server.compression:
        yield Advice(
            ("server", "compression"),
            "it costs memory and CPU for each connection, and lets sizes tell of secrets in the same message",
            "[server] compression = false",
        )


def _of_end(server: ServerSettings) -> Iterator[Advice]:
    path = ("server", "drain_timeout")
    if server.drain_timeout >= _GRACE:
        yield Advice(
            path,
            f"Kubernetes kills after {_GRACE:g} seconds and systemd after 90, in the middle of the drain,"
            " unless they are told otherwise",
            "[server] drain_timeout = 25",
        )
    if server.drain_timeout < 1:
        text = "handlers are cut off at every restart"
        yield Advice(path, f"{server.drain_timeout:g} seconds are little: {text}", "[server] drain_timeout = 25")
    path = ("server", "reconnect_spread")
    if server.reconnect_spread < 1:
        text = "after a restart all clients come back at once"
        yield Advice(path, f"{server.reconnect_spread:g} seconds are little: {text}", "[server] reconnect_spread = 5")
    if server.reconnect_spread > 60:
        text = "after a restart some clients stay away as long"
        yield Advice(path, f"{server.reconnect_spread:g} seconds are a lot: {text}", "[server] reconnect_spread = 5")


def _of_backplane(settings: Settings) -> Iterator[Advice]:
    options = settings.backplane.options
    ends_tls = any(options.get(name) for name in ("tls", "ssl"))
    named = any(is_secret_name(("backplane", "options", name)) for name in options)
    for name, given in options.items():
        for value in given if isinstance(given, list) else [given]:
            parts = url_of(value)
            if parts is None or is_loopback(parts.hostname or ""):
                continue
            path = ("backplane", "options", name)
            if parts.scheme in _WITHOUT_TLS and not ends_tls:
                text = f"the way to {parts.hostname} is without TLS: events can be read and forged on it"
                secure = "tls" if parts.scheme == "nats" else parts.scheme + "s"
                yield Advice(path, text, f'[backplane.options] {name} = "{secure}://..."')
            if not (parts.username or parts.password or named):
                text = f"{parts.hostname} asks for no password: who reaches it may write to every room"
                yield Advice(path, text, f'[backplane.options] {name} = "env:NAME", a URL with a user and a password')


def _of_logging(settings: Settings) -> Iterator[Advice]:
    path = ("logging", "level")
    if settings.logging.level == "debug":
        text = "a record for nearly everything that a client does: who sends much fills the disk"
        yield Advice(path, text, '[logging] level = "info"')
    if settings.logging.level == "critical":
        text = "faults of handlers are logged as errors, and nobody sees them"
        yield Advice(path, text, '[logging] level = "info"')


def _of_metrics(settings: Settings) -> Iterator[Advice]:
    metrics, server = settings.metrics, settings.server
    path, token = ("metrics", "token"), 'token = "env:METRICS_TOKEN"'
    if not metrics.enabled:
        if metrics.port is not None or metrics.token is not None:
            yield Advice(("metrics", "enabled"), "off, so that nobody gets metrics", "[metrics] enabled = true")
    elif metrics.token is not None:
        if len(metrics.token.get_secret_value()) < _SHORT:
            yield Advice(path, f"of less than {_SHORT} characters, so that it can be guessed", f"[metrics] {token}")
    elif metrics.port is None:
        # A proxy that passes everything on makes public what listens on this machine alone.
        behind = server.proxy_headers or server.uds is not None or server.fd is not None
        if behind or server.transport == "asgi" or not is_loopback(server.host):
            text = "every client can read /metrics: how many connect, what they do and what fails"
            yield Advice(path, text, f"[metrics] port = 9400, for a port of its own; or {token}")
    elif not is_loopback(metrics.host):
        text = f"whoever reaches {metrics.host} port {metrics.port} can read /metrics"
        yield Advice(path, text, f'[metrics] {token}, or host = "127.0.0.1"')
