"""From a loaded configuration to running workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from roomwire import plugins
from roomwire.cli._group import StartFailed
from roomwire.cli._workers.exchange import Exchange
from roomwire.cli._workers.supervisor import Supervisor
from roomwire.config import Settings
from roomwire.core.errors import ConfigError
from roomwire.serving import notify_service_manager

__all__ = ["serve_with_workers"]


def serve_with_workers(
    command: Sequence[str], settings: Settings, *, on_ready: Callable[[Sequence[str]], None]
) -> None:
    """Listen, and have workers serve until a signal.

    Args:
        command: the arguments of ``roomwire``, which each worker gets.
        settings: the configuration.
        on_ready: called with the addresses, once connections are accepted.

    Raises:
        ConfigError, PluginError: the certificate cannot be loaded.
        StartFailed: an address cannot be bound, or a worker never came to serve.
    """
    asyncio.run(_serve(command, settings, on_ready))


async def _serve(command: Sequence[str], settings: Settings, on_ready: Callable[[Sequence[str]], None]) -> None:
    from roomwire.transports.anyio.listeners import Listeners

    options = plugins.listen_options(settings.server)
    try:
        listeners = Listeners(options)
    except ConfigError as error:
        raise StartFailed(f"the server could not start: {error}") from error

    def ready() -> None:
        notify_service_manager("READY=1")
        on_ready(listeners.addresses)

    def stop() -> None:
        notify_service_manager("STOPPING=1")
        listeners.close()

    exchange = Exchange(listeners.sockets)
    try:
        supervisor = Supervisor(
            command,
            settings.server.workers,
            exchange,
            patience=settings.server.drain_timeout,
            on_ready=ready,
            on_stop=stop,
        )
        await supervisor.run()
    finally:
        listeners.close()
