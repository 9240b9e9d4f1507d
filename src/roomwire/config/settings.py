"""The sections of the configuration, their keys and defaults, and the checks across keys."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from roomwire.config.problems import format_key
from roomwire.core.errors import DeclarationError
from roomwire.core.limits import Limits
from roomwire.core.patterns import Pattern, PatternTable
from roomwire.core.policy import RoomPolicy

__all__ = [
    "ApiSettings",
    "AuthSettings",
    "BackplaneSettings",
    "LoggingSettings",
    "MetricsSettings",
    "ServerSettings",
    "Settings",
    "joins_nothing",
]

# Clients stop sending a message again this long before the end of the window (docs/reference/protocol.md, section 7).
RESEND_MARGIN = 30.0

# A number is appended to it, and a name has 64 characters at most.
_LONGEST_OF_WORKERS = 57
_NODE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def _fresh_node_name() -> str:
    host = "".join(c for c in socket.gethostname() if c in _NODE_CHARACTERS)[:48]
    # A host may run several nodes, and a restarted one must not be taken for the one before.
    return f"{host or 'node'}-{secrets.token_hex(4)}"


def _socket_path(path: str) -> str:
    if not path.startswith("/") or not path.isascii() or set(path) & set("?# "):
        raise ValueError("expected a path that begins with / and has neither a query nor blanks, such as /ws")
    return path


def _stream_path(path: str) -> str:
    return _socket_path(path) if path else path


def _trusted_peer(peer: str) -> str:
    if peer != "*":
        try:
            ipaddress.ip_network(peer)
        except ValueError as error:
            raise ValueError(f"expected an IP address, a network such as 10.0.0.0/8, or '*': {error}") from None
    return peer


def _header_value(key: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", key.get_secret_value()):
        raise ValueError("expected printable ASCII without blanks, since a header holds it")
    return key


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


NonEmpty = Annotated[str, Field(min_length=1)]
NonEmptySecret = Annotated[SecretStr, Field(min_length=1)]
ApiKey = Annotated[SecretStr, AfterValidator(_header_value)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class ServerSettings(_Section):
    """The ``[server]`` section: where the node listens, and how it stops."""

    transport: NonEmpty = "anyio"
    """A transport's name, or "package.module:Class"."""
    host: NonEmpty = "127.0.0.1"
    """The address to bind; "0.0.0.0" or "::" for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 for any free one."""
    path: Annotated[NonEmpty, AfterValidator(_socket_path)] = "/ws"
    """The path of the WebSocket endpoint."""
    fallback: NonEmpty | None = None
    """An ASGI application for all other HTTP on the port, as "module:attribute"."""
    sse_path: Annotated[str, AfterValidator(_stream_path)] = "/sse"
    """The path of read-only event streams (Server-Sent Events); "" for none."""
    uds: NonEmpty | None = None
    """Listen on this Unix socket instead of host and port."""
    fd: Annotated[int, Field(ge=0)] | None = None
    """Listen on this open file descriptor, as a service manager hands it over."""
    backlog: Annotated[int, Field(gt=0)] = 2048
    """Connections that the kernel queues for us (uvicorn: 2048)."""
    workers: Annotated[int, Field(gt=0)] = 1
    """Processes that `roomwire run` starts on one address; the backplane joins them."""
    shell: Literal["auto", "callback", "portable"] = "auto"
    """How sockets are driven; "auto" takes the fastest that the event loop allows."""
    ssl_certfile: NonEmpty | None = None
    """The certificate chain as a PEM file."""
    ssl_keyfile: NonEmpty | None = None
    """Its private key as a PEM file."""
    ssl_keyfile_password: SecretStr | None = None
    """What the private key is encrypted with."""
    proxy_headers: bool = False
    """Take the client's address and scheme from X-Forwarded-For and X-Forwarded-Proto."""
    forwarded_allow_ips: list[Annotated[str, AfterValidator(_trusted_peer)]] = ["127.0.0.1", "::1"]
    """The proxies that are believed: addresses, networks, or "*" (uvicorn: 127.0.0.1)."""
    allowed_origins: list[NonEmpty] = []
    """Web pages that may connect besides the server's own: "https://app.example.com", or "*"."""
    compression: bool = False
    """permessage-deflate (RFC 7692). It costs memory and CPU for each connection."""
    io_uring: bool = True
    """Write an event to many sockets in one system call, where the kernel allows it (Linux 6.0)."""
    drain_timeout: Seconds = 25.0
    """Seconds that a drain may take; Kubernetes kills after 30."""
    reconnect_spread: Seconds = 5.0
    """Seconds over which clients are told to come back after a drain."""
    node: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = Field(default_factory=_fresh_node_name)
    """This node's name, unique in the cluster; made at the start by default. Workers append a number to it."""


class BackplaneSettings(_Section):
    """The ``[backplane]`` section: what joins the nodes."""

    type: NonEmpty = "memory"
    """A backplane's name, or "package.module:Class"."""
    options: dict[str, Any] = Field(default={}, repr=False)
    """The backplane's own options."""


class AuthSettings(_Section):
    """The ``[auth]`` section: who connects."""

    type: NonEmpty = "jwt"
    """An authenticator's name, or "package.module:Class"."""
    options: dict[str, Any] = Field(default={}, repr=False)
    """The authenticator's own options."""


class LoggingSettings(_Section):
    """The ``[logging]`` section, for ``roomwire run``, and under an ASGI host that does not see to logging itself."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)] = "info"
    """The least severe records that are written."""
    format: Literal["text", "json"] = "text"
    """One line for people, or one JSON object."""


class MetricsSettings(_Section):
    """The ``[metrics]`` section: ``/metrics``, for Prometheus."""

    enabled: bool = False
    """Answer ``/metrics``. It needs the extra: pip install "roomwire[metrics]"."""
    token: NonEmptySecret | None = None
    """What a scrape has to send as its bearer token; without one, whoever reaches the port may read."""
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """A port of its own, where ``/healthz`` and ``/readyz`` are answered too, in place of the node's own; 0 for any
    free one. With several workers the second one has the next port, and so on."""
    host: NonEmpty = "127.0.0.1"
    """The address of that port."""

    def of_worker(self, number: int) -> MetricsSettings:
        """What holds for one of several workers, counted from 1."""
        return self.model_copy(update={"port": self.port + number - 1}) if self.port else self


class ApiSettings(_Section):
    """The ``[api]`` section: ``POST /api/publish``, for services that are no nodes."""

    keys: list[ApiKey] = []
    """Who sends one of them may publish to every room; with none the API is off. Several, while one is replaced."""
    max_body: Annotated[int, Field(gt=0)] = 262_144
    """Bytes of a request's body."""
    max_batch: Annotated[int, Field(gt=0)] = 100
    """Events of one request."""


class Settings(_Section):
    """Everything that can be configured. `roomwire.config.load` reads it from its sources."""

    app: NonEmpty | None = None
    """The application, as "module:attribute"."""
    server: ServerSettings = Field(default_factory=ServerSettings)
    backplane: BackplaneSettings = BackplaneSettings()
    auth: AuthSettings = AuthSettings()
    limits: Limits = Limits()
    rooms: dict[str, RoomPolicy] = {}
    """Policies of rooms by pattern; what no pattern matches has the defaults."""
    logging: LoggingSettings = LoggingSettings()
    metrics: MetricsSettings = MetricsSettings()
    api: ApiSettings = ApiSettings()

    @model_validator(mode="after")
    def _check_across(self) -> Settings:
        problems = [*_server_conflicts(self.server), *_worker_conflicts(self), *_limit_conflicts(self.limits)]
        problems += [*_pattern_conflicts(self.rooms), *_metrics_conflicts(self), *_api_conflicts(self)]
        problems += _stream_conflicts(self)
        if problems:
            text = "; ".join(f"{format_key(path)}: {message}" for path, message in problems)
            raise PydanticCustomError("conflict", "{text}", {"text": text, "problems": problems})
        return self


Conflict = tuple[tuple[str, ...], str]


def _server_conflicts(server: ServerSettings) -> Iterator[Conflict]:
    if server.uds is not None and server.fd is not None:
        yield ("server", "uds"), "a node listens on one socket: leave out either uds or fd"
    if server.ssl_certfile is not None and server.ssl_keyfile is None:
        yield (
            ("server", "ssl_keyfile"),
            "required with ssl_certfile; where one file holds both, name it in both settings",
        )
    if server.ssl_keyfile is not None and server.ssl_certfile is None:
        yield ("server", "ssl_certfile"), "required with ssl_keyfile"
    if server.ssl_keyfile_password is not None and server.ssl_keyfile is None:
        yield ("server", "ssl_keyfile_password"), "there is no ssl_keyfile that it could open"


def joins_nothing(settings: Settings) -> str:
    """What is wrong where there are workers, and a backplane that joins no nodes."""
    return (
        f'the backplane "{settings.backplane.type}" joins no processes, found {settings.server.workers} workers:'
        f' set workers = 1, or change the line type = "{settings.backplane.type}" of [backplane] to a backplane'
        " that joins nodes"
    )


def _worker_conflicts(settings: Settings) -> Iterator[Conflict]:
    if settings.server.workers > 1 and settings.backplane.type == "memory":
        yield ("server", "workers"), joins_nothing(settings)
    if settings.server.workers > 1 and len(settings.server.node) > _LONGEST_OF_WORKERS:
        yield (
            ("server", "node"),
            f"at most {_LONGEST_OF_WORKERS} characters where there are workers, which append a number to it",
        )


def _limit_conflicts(limits: Limits) -> Iterator[Conflict]:
    if limits.heartbeat_timeout <= limits.heartbeat_interval:
        yield (
            ("limits", "heartbeat_timeout"),
            f"expected more seconds than heartbeat_interval ({limits.heartbeat_interval:g}),"
            f" found {limits.heartbeat_timeout:g}",
        )
    if limits.idempotency_window <= RESEND_MARGIN:
        yield (
            ("limits", "idempotency_window"),
            f"expected more than {RESEND_MARGIN:g} seconds, since clients stop sending a message again"
            f" {RESEND_MARGIN:g} seconds before its end, found {limits.idempotency_window:g}",
        )
    # A limit that another one makes unreachable would refuse clients that keep all the rules.
    for key, least, than in (
        ("frame_burst", limits.max_fragments, "max_fragments"),
        ("byte_burst", limits.max_message_size, "max_message_size"),
        ("outbox_bytes", limits.max_event_size, "max_event_size"),
        ("max_pending_handshakes", limits.max_pending_per_ip, "max_pending_per_ip"),
    ):
        if (value := getattr(limits, key)) < least:
            yield ("limits", key), f"expected at least {than} ({least}), found {value}"


def _api_conflicts(settings: Settings) -> Iterator[Conflict]:
    if settings.api.keys and settings.server.path == "/api/publish":
        yield ("server", "path"), "the publish API has this path ([api] keys): choose another one"


def _stream_conflicts(settings: Settings) -> Iterator[Conflict]:
    path = settings.server.sse_path
    taken = {
        settings.server.path: "the WebSocket endpoint has this path (server.path)",
        "/healthz": "health checks have this path",
        "/readyz": "health checks have this path",
        "/roomwire.js": "the browser's client has this path",
    }
    if settings.api.keys:
        taken["/api/publish"] = "the publish API has this path ([api] keys)"
    if settings.metrics.enabled and settings.metrics.port is None:
        taken["/metrics"] = "metrics have this path ([metrics] enabled)"
    if path in taken:
        yield ("server", "sse_path"), f'{taken[path]}: choose another one, or "" for no event streams'


def _metrics_conflicts(settings: Settings) -> Iterator[Conflict]:
    metrics, server = settings.metrics, settings.server
    if not metrics.enabled:
        return
    if server.workers > 1 and metrics.port is None:
        yield (
            ("metrics", "port"),
            f"required with several workers: each has metrics of its own, at {server.workers} ports from this one on;"
            " on the port that they share, each scrape would be answered by another one",
        )
    if metrics.port and metrics.port + server.workers - 1 > 65535:
        yield ("metrics", "port"), f"expected a port with {server.workers - 1} more above it, found {metrics.port}"
    ports = range(metrics.port, metrics.port + server.workers) if metrics.port else ()
    if server.uds is None and server.fd is None and server.port in ports:
        yield ("metrics", "port"), f"expected another port than server.port, found {metrics.port}"


def _pattern_conflicts(rooms: dict[str, RoomPolicy]) -> Iterator[Conflict]:
    table: PatternTable[None] = PatternTable()
    for text in rooms:
        try:
            table.add(Pattern(text), None)
        except DeclarationError as error:
            yield ("rooms", text), str(error)
        for key, message in rooms[text].conflicts():
            yield ("rooms", text, key), message
