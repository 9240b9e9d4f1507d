"""Adapters by name: the built-in ones, those of installed distributions, and ``"package.module:Class"``.

A distribution offers an adapter by an entry point in the group ``roomwire.backplanes``,
``roomwire.transports``, ``roomwire.authenticators`` or ``roomwire.protocols``. The names of the
built-in adapters cannot be taken over.

Nothing is imported before it is chosen. Then the class is checked against its contract, and its
options against the pydantic model that it names ``Options``; every error names the key of the
configuration, the adapter, and what is missing.
"""

from __future__ import annotations

import importlib
import inspect
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from roomwire.auth.contract import Authenticator
from roomwire.backplanes.contract import Backplane
from roomwire.config import (
    Loaded,
    ServerSettings,
    Settings,
    config_error,
    explain,
    format_key,
    is_secret_name,
    nearest,
)
from roomwire.config.problems import Path
from roomwire.core.errors import ConfigError, PluginError, RoomwireError
from roomwire.protocols.contract import WireProtocol
from roomwire.transports.contract import ListenOptions, Transport

__all__ = [
    "AUTHENTICATORS",
    "BACKPLANES",
    "GROUPS",
    "PROTOCOLS",
    "TRANSPORTS",
    "Group",
    "Plugin",
    "find",
    "listen_options",
    "load_class",
    "load_options",
    "make_authenticator",
    "make_backplane",
    "make_protocols",
    "make_streams",
    "make_transport",
    "plugins_of",
    "secret_options",
]


@dataclass(frozen=True, slots=True)
class Group:
    """A kind of adapter.

    Attributes:
        name: the entry-point group, such as ``"roomwire.backplanes"``.
        noun: one of them, for people.
        key: the setting that names the adapter; empty where none does.
        contract: the `Protocol` that an adapter keeps.
        builtin: the adapters of this distribution, name to ``"module:Class"``.
    """

    name: str
    noun: str
    key: Path
    contract: type
    builtin: Mapping[str, str]


BACKPLANES = Group(
    "roomwire.backplanes",
    "backplane",
    ("backplane", "type"),
    Backplane,
    {
        "memory": "roomwire.backplanes.memory:MemoryBackplane",
        "redis": "roomwire.backplanes.redis:RedisBackplane",
        "nats": "roomwire.backplanes.nats:NatsBackplane",
    },
)
TRANSPORTS = Group(
    "roomwire.transports",
    "transport",
    ("server", "transport"),
    Transport,
    {
        "anyio": "roomwire.transports.anyio:AnyioTransport",
        "asgi": "roomwire.transports.asgi:AsgiTransport",
    },
)
AUTHENTICATORS = Group(
    "roomwire.authenticators",
    "authenticator",
    ("auth", "type"),
    Authenticator,
    {
        "anonymous": "roomwire.auth.none:AnonymousAuthenticator",
        "jwt": "roomwire.auth.jwt:JwtAuthenticator",
    },
)
PROTOCOLS = Group(
    "roomwire.protocols",
    "wire protocol",
    (),
    WireProtocol,
    {"native": "roomwire.protocols.native:NativeProtocol"},
)
GROUPS = (TRANSPORTS, BACKPLANES, AUTHENTICATORS, PROTOCOLS)

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
# Packages that come with an extra of ours, by the name that is imported.
_EXTRAS = {"cryptography": "jwks"}


@dataclass(frozen=True, slots=True)
class Plugin:
    """An adapter that can be chosen, not yet imported.

    Attributes:
        group: its kind.
        name: what the configuration calls it.
        target: ``"module:Class"``.
        distribution: who brings it, such as ``"acme-backplane 1.2"``; ``"built-in"`` for our own;
            empty for one that is named by its class.
    """

    group: Group = field(repr=False)
    name: str
    target: str
    distribution: str


def plugins_of(group: Group) -> list[Plugin]:
    """Every adapter that can be chosen by name: ours, then those of installed distributions."""
    found = {name: Plugin(group, name, target, "built-in") for name, target in group.builtin.items()}
    for entry in sorted(entry_points(group=group.name), key=lambda entry: entry.name):
        found.setdefault(entry.name, Plugin(group, entry.name, entry.value, _distribution(entry)))
    return list(found.values())


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown"


def find(group: Group, name: str) -> Plugin:
    """The adapter that a setting names.

    Raises:
        PluginError: there is none of that name.
    """
    plugins = {plugin.name: plugin for plugin in plugins_of(group)}
    if name in plugins:
        return plugins[name]
    if ":" in name:
        if not _TARGET.fullmatch(name):
            raise _error(group, name, 'expected "package.module:Class"')
        return Plugin(group, name, name, "")
    raise _error(group, name, f"there is no {group.noun} of that name{nearest(name, plugins)}")


def load_class(plugin: Plugin) -> Any:
    """Import the adapter's class and check it against the contract.

    Raises:
        PluginError: it cannot be imported, or lacks a method.
    """
    module_name, _, attribute = plugin.target.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise _error(plugin.group, plugin.name, _missing_module(module_name, error)) from error
    except Exception as error:
        problem = f"importing {module_name} failed: {type(error).__name__}: {error}"
        raise _error(plugin.group, plugin.name, problem) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")]
            hint = nearest(part, names) if len(names) > 12 else nearest(part, names).partition("; known")[0]
            raise _error(plugin.group, plugin.name, f"the module {module_name} has no {part}{hint}")
        found = getattr(found, part)
    if not isinstance(found, type):
        raise _error(plugin.group, plugin.name, f"{plugin.target} is no class")
    faults = list(_contract_faults(found, plugin.group.contract))
    if faults:
        contract = plugin.group.contract
        named = f"{contract.__module__}.{contract.__name__}"
        raise _error(plugin.group, plugin.name, f"{plugin.target} does not keep {named}: {'; '.join(faults)}")
    return found


def _missing_module(wanted: str, error: ModuleNotFoundError) -> str:
    missing = error.name or str(error)
    if wanted == missing or wanted.startswith(missing + "."):
        return f"there is no module {missing}"
    package = missing.partition(".")[0]
    if package in _EXTRAS:
        return f'it needs {package}: pip install "roomwire[{_EXTRAS[package]}]"'
    return f"it needs the package {package}, which is not installed"


def _contract_faults(found: type, contract: type) -> Iterator[str]:
    for name, member in vars(contract).items():
        if name.startswith("_"):
            continue
        own = inspect.getattr_static(found, name, None)
        if own is None:
            if name not in getattr(found, "__annotations__", {}):
                what = "the method" if inspect.isfunction(member) else "the attribute"
                yield f"{what} {name} is missing"
        elif inspect.isfunction(member):
            yield from _method_faults(name, getattr(found, name), member)
        elif inspect.isfunction(own):
            yield f"{name} is a method, and has to be an attribute or a property"


def _method_faults(name: str, own: Any, member: Any) -> Iterator[str]:
    if not callable(own):
        yield f"{name} is no method"
    elif inspect.iscoroutinefunction(member) and not inspect.iscoroutinefunction(own):
        yield f"{name} must be an async method"
    elif inspect.iscoroutinefunction(own) and not inspect.iscoroutinefunction(member):
        yield f"{name} must not be async"
    else:
        yield from _parameter_faults(name, inspect.signature(own), inspect.signature(member))


def _parameter_faults(name: str, own: inspect.Signature, member: inspect.Signature) -> Iterator[str]:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = set(member.parameters) - {"self"}
    given = {key: p for key, p in own.parameters.items() if p.kind not in variable and key != "self"}
    if len(given) == len(own.parameters) - ("self" in own.parameters) and (missing := wanted - set(given)):
        yield f"{name} lacks the parameter {', '.join(sorted(missing))}"
    if extra := {key for key, p in given.items() if p.default is p.empty} - wanted:
        yield f"{name} wants a parameter that nobody gives it: {', '.join(sorted(extra))}"


def _error(group: Group, name: str, problem: str) -> PluginError:
    where = f'{format_key(group.key)} = "{name}"' if group.key else f'{group.noun} "{name}"'
    return PluginError(f"{where}: {problem}")


# --- options


def load_options(plugin: Plugin, found: Any, options: Mapping[str, object], loaded: Loaded | None = None) -> Any:
    """The adapter's options, validated by its own model; None where it has no model and no options are given.

    Args:
        plugin: the adapter.
        found: its class.
        options: as the configuration has them.
        loaded: names the sources of the options in errors.

    Raises:
        ConfigError: with every option that is wrong. Never with a secret's value.
    """
    prefix = (plugin.group.key[0], "options")
    model = getattr(found, "Options", None)
    if model is None:
        if options:
            raise ConfigError(f'{format_key(prefix)}: the {plugin.group.noun} "{plugin.name}" takes no options')
        return None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise _error(plugin.group, plugin.name, f"{plugin.target}.Options is no pydantic model")

    def where(path: Path) -> str:
        full = (*prefix, *path)
        return format_key(full) if loaded is None else loaded.where(*full)

    def known(path: Path) -> list[str]:
        return list(model.model_fields) if not path else []

    secrets = secret_options(found)

    def hidden(path: Path) -> str | None:
        full = (*prefix, *path)
        if loaded is not None and (instead := loaded.hidden(*full)) is not None:
            return instead
        secret = (path and path[0] in secrets) or is_secret_name(full)
        return "a value that is not shown" if secret else None

    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        absence = "" if loaded is None else loaded.absence
        raise config_error(explain(error, where=where, known=known, hidden=hidden, absence=absence)) from None


def secret_options(found: Any) -> frozenset[str]:
    """The options of an adapter's class whose values are never shown."""
    model = getattr(found, "Options", None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return frozenset()
    return frozenset(name for name, field in model.model_fields.items() if "Secret" in str(field.annotation))


# --- instances


def _make(group: Group, name: str, options: Mapping[str, object], loaded: Loaded | None) -> Any:
    plugin = find(group, name)
    found = load_class(plugin)
    validated = load_options(plugin, found, options, loaded)
    return _construct(plugin, found, *(() if validated is None else (validated,)))


def _construct(plugin: Plugin, found: Any, *arguments: object) -> Any:
    try:
        inspect.signature(found).bind(*arguments)
    except TypeError as error:
        call = f"{found.__name__}({'options' if arguments else ''})"
        problem = f"it is made by {call}, which its __init__ does not take: {error}"
        raise _error(plugin.group, plugin.name, problem) from None
    try:
        return found(*arguments)
    except RoomwireError:
        raise
    except Exception as error:
        problem = f"{plugin.target} could not be made: {type(error).__name__}: {error}"
        raise _error(plugin.group, plugin.name, problem) from error


def make_backplane(settings: Settings, loaded: Loaded | None = None) -> Backplane:
    """The configured backplane, not started.

    Raises:
        PluginError: there is none of that name, or it does not keep the contract.
        ConfigError: its options are wrong.
    """
    made: Backplane = _make(BACKPLANES, settings.backplane.type, settings.backplane.options, loaded)
    return made


def make_authenticator(settings: Settings, loaded: Loaded | None = None) -> Authenticator:
    """The configured authenticator, not started. Raises as `make_backplane` does."""
    made: Authenticator = _make(AUTHENTICATORS, settings.auth.type, settings.auth.options, loaded)
    return made


def make_transport(settings: Settings, *, handover: int | None = None) -> Transport:
    """The configured transport, not listening. Raises as `make_backplane` does.

    Args:
        settings: the configuration.
        handover: see `roomwire.transports.contract.ListenOptions`; not every transport can do that.
    """
    plugin = find(TRANSPORTS, settings.server.transport)
    options = replace(listen_options(settings.server), handover=handover)
    made: Transport = _construct(plugin, load_class(plugin), options)
    if handover is not None and not made.capabilities.takes_over:
        problem = "it takes no connections over from another process, as workers do: set server.workers = 1"
        raise _error(plugin.group, plugin.name, problem)
    return made


def make_protocols() -> list[WireProtocol]:
    """The wire protocols of a node, the native one first.

    Raises:
        PluginError: one cannot be loaded, or does not keep the contract.
    """
    made: list[WireProtocol] = [_construct(plugin, load_class(plugin)) for plugin in plugins_of(PROTOCOLS)]
    return made


def make_streams(server: ServerSettings) -> dict[str, WireProtocol]:
    """The wire protocols of read-only event streams, by path.

    They are not among the subprotocols: the path says which one is spoken.
    """
    plugin = Plugin(PROTOCOLS, "sse", "roomwire.protocols.sse:SseProtocol", "built-in")
    return {server.sse_path: _construct(plugin, load_class(plugin))} if server.sse_path else {}


def listen_options(server: ServerSettings) -> ListenOptions:
    """The ``[server]`` section as a transport gets it, with the certificate loaded.

    Raises:
        ConfigError: the certificate or its key cannot be loaded.
    """
    return ListenOptions(
        host=server.host,
        port=server.port,
        uds=server.uds,
        fd=server.fd,
        backlog=server.backlog,
        ssl=_ssl_context(server),
        shell=server.shell,
        compression=server.compression,
        io_uring=server.io_uring,
        proxy_headers=server.proxy_headers,
        forwarded_allow_ips=tuple(server.forwarded_allow_ips),
    )


def _ssl_context(server: ServerSettings) -> ssl.SSLContext | None:
    if server.ssl_certfile is None or server.ssl_keyfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    secret = server.ssl_keyfile_password
    # A function, since OpenSSL would ask at the terminal for a password that is None.
    password = (lambda: secret.get_secret_value()) if secret is not None else (lambda: "")
    for key, path in (("ssl_certfile", server.ssl_certfile), ("ssl_keyfile", server.ssl_keyfile)):
        if not FilePath(path).is_file():
            raise ConfigError(f"server.{key}: there is no file {path}")
    try:
        context.load_cert_chain(server.ssl_certfile, server.ssl_keyfile, password)
    except OSError as error:  # ssl.SSLError is one; its text never holds the password
        reason = getattr(error, "reason", None) or error.strerror
        raise ConfigError(
            f"server.ssl_certfile, server.ssl_keyfile: {server.ssl_certfile} and {server.ssl_keyfile}"
            f" cannot be loaded: {reason}"
        ) from None
    return context
