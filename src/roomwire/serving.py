"""From an application and its settings to a serving node: what ``roomwire run`` does, for programs too."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files

import anyio
import anyio.abc

from roomwire import plugins
from roomwire.app import App
from roomwire.auth.origin import OriginPolicy
from roomwire.config import Loaded, Settings
from roomwire.config.settings import joins_nothing
from roomwire.core.errors import ConfigError
from roomwire.importing import load_fallback
from roomwire.node.node import Node, Page
from roomwire.transports.contract import HttpResponse, Transport

__all__ = ["build_node", "notify_service_manager", "only_cause", "serve"]

logger = logging.getLogger("roomwire")


def build_node(
    app: App,
    settings: Settings,
    *,
    loaded: Loaded | None = None,
    pages: Mapping[str, Page] | None = None,
    handover: int | None = None,
    transport: Transport | None = None,
) -> Node:
    """A node with the configured adapters, not yet serving.

    Args:
        app: the application.
        settings: the configuration.
        loaded: where its values came from, for errors.
        pages: further HTTP resources by path.
        handover: a descriptor by which connections come, see `roomwire.transports.contract.ListenOptions`.
        transport: in place of the configured one.

    Raises:
        ConfigError, PluginError: an adapter or its options are wrong.
    """
    server = settings.server
    backplane = plugins.make_backplane(settings, loaded)
    if server.workers > 1 and not backplane.capabilities.multi_node:
        where = "server.workers" if loaded is None else loaded.where("server", "workers")
        raise ConfigError(f"{where}: {joins_nothing(settings)}")
    node = Node(
        app,
        backplane=backplane,
        authenticator=plugins.make_authenticator(settings, loaded),
        origin=OriginPolicy(server.allowed_origins),
        transport=transport or plugins.make_transport(settings, handover=handover),
        protocols=plugins.make_protocols(),
        name=server.node,
        limits=settings.limits,
        rooms=settings.rooms,
        path=server.path,
        streams=plugins.make_streams(server),
        pages={"/roomwire.js": _browser_client, **(pages or {})},
        drain_timeout=server.drain_timeout,
        reconnect_spread=server.reconnect_spread,
    )
    # Under an ASGI host it is not used: the host's own application is there.
    if server.fallback is not None and server.transport != "asgi":
        _add_fallback(node, settings, loaded)
    if settings.api.keys:
        from roomwire.node.api import PublishApi

        node.api = PublishApi(node, settings.api)
    if settings.metrics.enabled:
        from roomwire.metrics import attach

        attach(node, settings.metrics, one_of_many=server.workers > 1)
    return node


def _add_fallback(node: Node, settings: Settings, loaded: Loaded | None) -> None:
    from roomwire.node.fallback import Fallback

    if not node.transport.capabilities.serves_fallback:
        where = "server.fallback" if loaded is None else loaded.where("server", "fallback")
        raise ConfigError(
            f'{where}: the transport "{settings.server.transport}" answers nothing but the node\'s own requests, so'
            ' nothing would reach it: leave this key out, or set server.transport = "anyio"'
        )
    node.fallback = Fallback(node, load_fallback(settings, loaded), str(settings.server.fallback))
    node.beside.append(node.fallback.lifespan)


async def serve(
    app: App,
    settings: Settings,
    *,
    loaded: Loaded | None = None,
    on_ready: Callable[[Sequence[str]], None] = lambda addresses: None,
    pages: Mapping[str, Page] | None = None,
    handover: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, as one process. The first one drains, the second one ends at once.

    Before the node serves there is nothing to drain, and the first one ends at once.
    Where connections are handed over only SIGINT ends at once: further SIGTERMs are the first one again.

    Args:
        app: the application.
        settings: the configuration. The further processes of `server.workers` are the command line's to start.
        loaded: where its values came from, for errors.
        on_ready: called with the addresses, once connections are accepted.
        pages: further HTTP resources by path.
        handover: see `build_node`.

    Raises:
        ConfigError, PluginError: an adapter, its options or an address are wrong.
        Unavailable: the backplane cannot be reached.
    """
    node = build_node(app, settings, loaded=loaded, pages=pages, handover=handover)

    def ready(addresses: Sequence[str]) -> None:
        notify_service_manager("READY=1")
        on_ready(addresses)

    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(_drain_on_signal, node, tasks.cancel_scope, handover is not None)
            await node.serve(ready=ready)
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        cause = only_cause(group)
        raise cause from cause.__cause__


async def _drain_on_signal(
    node: Node, scope: anyio.CancelScope, worker: bool, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            task_status.started()
            async for number in signals:
                if node.draining:
                    # A service manager asks every process of the service to end, and the parent asks its workers.
                    if worker and number == signal.SIGTERM:
                        continue
                    scope.cancel()
                    return
                notify_service_manager("STOPPING=1")
                if not node.serving:
                    # Something of the start may wait for ever, such as the startup of a lifespan.
                    logger.info("ended while it started", extra={"roomwire": {"event": "drain", "connections": 0}})
                    scope.cancel()
                    return
                tasks.start_soon(node.drain.run)


def only_cause(error: BaseException) -> BaseException:
    """What task groups wrapped, where it is one exception."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _browser_client() -> HttpResponse:
    source = files("roomwire.client").joinpath("js", "roomwire.js").read_bytes()
    return HttpResponse(200, source, "text/javascript; charset=utf-8", (("Cache-Control", "no-cache"),))


def notify_service_manager(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing where it did not start us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            return  # nobody listens, and nothing depends on it
