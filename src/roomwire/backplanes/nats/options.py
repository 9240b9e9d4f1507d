"""``[backplane.options]`` of the NATS backplane."""

from __future__ import annotations

import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from roomwire.core.errors import ConfigError

__all__ = ["NatsOptions"]

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NatsOptions(BaseModel):
    """Times are seconds."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    servers: Annotated[list[str], Field(min_length=1)] = ["nats://127.0.0.1:4222"]
    """Any of a cluster's servers; the others are told by them. One string may name several, with commas."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")] = "rw"
    """The first token of every subject, and of the names of streams and buckets: one for each application."""
    domain: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    """The JetStream domain, where it is not the server's own."""
    inbox_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")] = "_INBOX"
    """Below this subject come the answers, where the permissions of the account demand another one."""

    user: str | None = None
    """Who the node is to NATS; with `password`. Of `user`, `token`, `credentials` and `nkey_seed` one at most."""
    password: SecretStr | None = None
    """The user's password."""
    token: SecretStr | None = None
    """A token of the server's configuration."""
    credentials: Path | None = None
    """A ``.creds`` file: a user's JWT and its seed."""
    nkey_seed: Path | None = None
    """A file with the seed of an nkey."""

    tls: bool = False
    """Whether a server without TLS is refused. It is, too, with ``tls://`` and with any of the files."""
    tls_ca: Path | None = None
    """The authorities that are trusted, as a PEM file; those of the system by default."""
    tls_cert: Path | None = None
    """The node's own certificate as a PEM file, where the server asks for one."""
    tls_key: Path | None = None
    """Its private key as a PEM file."""
    tls_hostname: str | None = None
    """The name in the server's certificate, where it is not that of the URL."""

    replicas: Literal[1, 3, 5] = 1
    """Of each stream and bucket, when they are made."""
    storage: Literal["file", "memory"] = "file"
    """Where streams are kept; in memory they are empty after a restart of NATS."""
    partitions: Annotated[int, Field(ge=1, le=64)] = 8
    """Streams for each history policy. They share its rooms; all nodes must say the same."""

    start_timeout: Seconds = 10.0
    """For the first connection, until `start` gives up."""
    connect_timeout: Seconds = 2.0
    """For each step of a connection, before the next server is tried."""
    request_timeout: Seconds = 2.5
    """For one answer."""
    operation_timeout: Seconds = 5.0
    """For an operation, with what is tried again in it."""
    probe_interval: Seconds = 5.0
    """How often a silent link is asked for a sign of life."""
    probe_timeout: Seconds = 5.0
    """How long it may take, before the link is replaced."""
    reconnect_wait: Seconds = 1.0
    """At most so long, and at random, between two rounds through the servers."""
    max_pending: Annotated[int, Field(ge=65_536)] = 8_388_608
    """Bytes that may wait for a slow link; beyond it operations fail at once."""

    @field_validator("servers", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("servers")
    @classmethod
    def _check_servers(cls, value: list[str]) -> list[str]:
        for url in value:
            try:
                parts = urlsplit(url)
                good = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
            except ValueError:
                good = False
            if not good:
                raise ValueError(
                    "expected nats://HOST:PORT or tls://HOST:PORT"
                )  # without the URL: it may have a password
        return value

    @model_validator(mode="after")
    def _check_pairs(self) -> NatsOptions:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        ways = [self.user is not None, self.token is not None, bool(self.credentials), bool(self.nkey_seed)]
        if sum(ways) > 1:
            raise ValueError("give one of user, token, credentials and nkey_seed")
        return self

    @property
    def wants_tls(self) -> bool:
        """Whether a server without TLS is refused."""
        named = any(urlsplit(url).scheme == "tls" for url in self.servers)
        return self.tls or named or any((self.tls_ca, self.tls_cert, self.tls_hostname))

    def check_files(self) -> None:
        """The files that are named must be there, and what reads them.

        Raises:
            ConfigError: one is missing.
        """
        if (self.credentials or self.nkey_seed) and find_spec("nkeys") is None:
            name = "credentials" if self.credentials else "nkey_seed"
            raise ConfigError(f'backplane.options.{name}: it needs nkeys: pip install "nats-py[nkeys]"')
        for name in ("credentials", "nkey_seed", "tls_ca", "tls_cert", "tls_key"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ConfigError(f"backplane.options.{name}: there is no file {path}")

    def ssl_context(self) -> ssl.SSLContext:
        """For the links, with the files that are named.

        Raises:
            ConfigError: one cannot be loaded.
        """
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None and self.tls_key is not None:
                context.load_cert_chain(self.tls_cert, self.tls_key, lambda: b"")  # never ask at the terminal
        except OSError as error:  # ssl.SSLError is one
            reason = getattr(error, "reason", None) or error.strerror
            raise ConfigError(f"backplane.options: the files of tls_ca, tls_cert and tls_key: {reason}") from None
        return context
