"""The options of the Redis backplane, and the servers that its URL names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

__all__ = ["Endpoints", "RedisOptions", "read_url"]

Kind = Literal["single", "unix", "sentinel", "cluster"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS: dict[Kind, int] = {"single": 6379, "unix": 0, "sentinel": 26379, "cluster": 6379}
_PREFIX = re.compile(r"[A-Za-z0-9._/:-]{0,64}")

NonEmpty = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)]


class Endpoints(NamedTuple):
    """What a URL says.

    Attributes:
        kind: one server, one behind a Unix socket, the master that Sentinels name, or a cluster.
        tls: whether every link is encrypted.
        addresses: of the server, of the Sentinels, or of some servers of the cluster.
        path: of the Unix socket.
        service: the name by which Sentinels know the master.
        db: the number of the database.
        username, password: from the URL.
    """

    kind: Kind
    tls: bool = False
    addresses: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None


def read_url(url: str) -> Endpoints:
    """Read a URL; see `RedisOptions.url`.

    Raises:
        ValueError: it has another form. The message never holds a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(f"expected a URL that begins with {', '.join(f'{name}://' for name in _SCHEMES)}")
    kind, tls = _SCHEMES[scheme]
    parts = urlsplit("x://" + rest)  # the scheme of its own may have rules of its own
    if parts.query or parts.fragment:
        raise ValueError("a URL has neither ? nor #: what would stand there are options of their own")
    userinfo, _, hosts = parts.netloc.rpartition("@")
    name, colon, password = userinfo.partition(":")
    secrets = (unquote(name) or None, unquote(password) if colon else None)
    if kind == "unix":
        if not parts.path.startswith("/") or hosts:
            raise ValueError("expected unix:// and an absolute path, such as unix:///run/redis.sock")
        return Endpoints(kind, path=unquote(parts.path), username=secrets[0], password=secrets[1])
    addresses = tuple(_address(host, _PORTS[kind]) for host in hosts.split(","))
    if kind == "single" and len(addresses) > 1:
        raise ValueError("one server has one address; several are written as redis+sentinel:// or redis+cluster://")
    steps = [step for step in parts.path.split("/") if step]
    service = ""
    if kind == "sentinel":
        if not steps:
            raise ValueError("expected the name of the master behind the addresses: redis+sentinel://HOST:PORT/NAME")
        service = unquote(steps.pop(0))
    if len(steps) > 1 or (steps and (kind == "cluster" or not re.fullmatch(r"[0-9]{1,4}", steps[0]))):
        where = "a cluster has no numbered databases" if kind == "cluster" else "the last part is a database's number"
        raise ValueError(f"the path has too much in it: {where}")
    return Endpoints(kind, tls, addresses, "", service, int(steps[0]) if steps else 0, *secrets)


def _address(text: str, port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", text)
    if match is None or not 0 < int(match[2] or port) < 65536:
        raise ValueError("expected HOST or HOST:PORT after the two slashes, with [..] around an IPv6 address")
    return match[1].strip("[]"), int(match[2] or port)


class RedisOptions(BaseModel):
    """``[backplane.options]`` of ``backplane.type = "redis"``.

    Attributes:
        url: ``redis://HOST:PORT/DB``, ``rediss://`` for TLS, ``unix:///PATH``,
            ``redis+sentinel://HOST:PORT,HOST:PORT/MASTER`` or ``redis+cluster://HOST:PORT,HOST:PORT``; with
            ``rediss+`` these two use TLS. A user and a password may stand in it.
        username: the user of Redis' access list; before the one in the URL.
        password: its password; before the one in the URL.
        sentinel_username, sentinel_password: where the Sentinels want some.
        ssl_cafile: the authorities that are trusted, as a PEM file; those of the system by default.
        ssl_certfile, ssl_keyfile: the node's own certificate and key as PEM files.
        key_prefix: in front of every key and channel. Two clusters on one Redis need two of them.
        connect_timeout: seconds for a connection to be made.
        command_timeout: seconds for a command to be answered.
        probe_after: seconds of silence on the listening link after which it is tried.
        probe_timeout: seconds that the answer may take; then the link is replaced.
        max_connections: to each server: one listens, one writes, the others read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    username: NonEmpty | None = None
    password: SecretStr | None = None
    sentinel_username: NonEmpty | None = None
    sentinel_password: SecretStr | None = None
    ssl_cafile: NonEmpty | None = None
    ssl_certfile: NonEmpty | None = None
    ssl_keyfile: NonEmpty | None = None
    key_prefix: str = "roomwire:"
    connect_timeout: Seconds = 2.0
    command_timeout: Seconds = 5.0
    probe_after: Seconds = 5.0
    probe_timeout: Seconds = 5.0
    max_connections: Annotated[int, Field(ge=2, le=64)] = 3

    @field_validator("url")
    @classmethod
    def _readable(cls, url: SecretStr) -> SecretStr:
        read_url(url.get_secret_value())
        return url

    @field_validator("ssl_cafile", "ssl_certfile", "ssl_keyfile")
    @classmethod
    def _exists(cls, path: str | None) -> str | None:
        if path is not None and not Path(path).is_file():
            raise ValueError(f"there is no file {path}")
        return path

    @field_validator("key_prefix")
    @classmethod
    def _plain(cls, prefix: str) -> str:
        if not _PREFIX.fullmatch(prefix):
            # A brace would move all keys of a cluster to one server, or a script's keys to several.
            raise ValueError("expected at most 64 letters, digits and . _ / : -")
        return prefix

    @model_validator(mode="after")
    def _fits(self) -> RedisOptions:
        found = self.endpoints
        files = [name for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile") if getattr(self, name) is not None]
        if files and not found.tls:
            raise ValueError(f"{files[0]} needs TLS: begin url with rediss://, or remove {files[0]}")
        if self.ssl_certfile is None and self.ssl_keyfile is not None:
            raise ValueError("ssl_keyfile needs ssl_certfile: name the certificate that the key belongs to")
        asked = [name for name in ("sentinel_username", "sentinel_password") if getattr(self, name) is not None]
        if asked and found.kind != "sentinel":
            raise ValueError(f"{asked[0]} needs Sentinels: begin url with redis+sentinel://, or remove {asked[0]}")
        return self

    @property
    def endpoints(self) -> Endpoints:
        """What `url` says."""
        return read_url(self.url.get_secret_value())

    @property
    def credentials(self) -> tuple[str | None, str | None]:
        """User and password, the options' own before those of the URL."""
        found = self.endpoints
        password = found.password if self.password is None else self.password.get_secret_value()
        return self.username or found.username, password
