"""From a loaded configuration to a serving process, and back to an exit code."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio
import click

from roomwire.app import App
from roomwire.cli._application import told
from roomwire.cli._group import StartFailed
from roomwire.config import Loaded
from roomwire.core.errors import ConfigError, RoomwireError
from roomwire.serving import build_node, serve

if TYPE_CHECKING:
    from roomwire.node.node import Page

__all__ = ["export_env_file", "refuse_hosted", "serve_until_done"]


def export_env_file(loaded: Loaded) -> None:
    """Give the application the variables of ``.env`` too; what the environment has already stays."""
    for name, value in loaded.env_file.items():
        os.environ.setdefault(name, value)


def refuse_hosted(loaded: Loaded) -> None:
    """Refuse a configuration for an ASGI host: we would listen nowhere.

    Raises:
        ConfigError: it is one.
    """
    if loaded.settings.server.transport == "asgi":
        app = f"{loaded.settings.app or 'chat:app'}.asgi"
        raise ConfigError(
            f'{loaded.where("server", "transport")}: "asgi" does not listen by itself, a host serves it, such as'
            f' `uvicorn {app}`; to serve here: ROOMWIRE_SERVER__TRANSPORT=anyio, or transport = "anyio"'
        )


def serve_until_done(
    app: App,
    loaded: Loaded,
    *,
    on_ready: Callable[[Sequence[str]], None],
    pages: Mapping[str, Page] | None = None,
    handover: int | None = None,
) -> None:
    """Serve until a signal, or until the node fails.

    Args:
        app: the application.
        loaded: its configuration.
        on_ready: called with the addresses, once connections are accepted.
        pages: further HTTP resources by path.
        handover: see `roomwire.serving.build_node`.

    Raises:
        ConfigError, PluginError: an adapter or its options are wrong.
        StartFailed: it never came to accept connections.
        click.ClickException: it failed later; the log says where.
    """
    # Before the loop runs, since what is wrong with the configuration is no failed start.
    build_node(app, loaded.settings, loaded=loaded, handover=handover)
    ready = False

    def note_ready(addresses: Sequence[str]) -> None:
        nonlocal ready
        ready = True
        # What is loaded by now stays for good: the collector need not go through it again, which is a
        # pause for every connection.
        gc.collect()
        gc.freeze()
        # And it looks at the youngest every 10,000 objects and not every 700: of what a message makes next to nothing
        # is garbage that only the collector finds.
        gc.set_threshold(10_000)
        on_ready(addresses)

    main = partial(serve, app, loaded.settings, loaded=loaded, on_ready=note_ready, pages=pages, handover=handover)
    try:
        anyio.run(main, backend_options={"use_uvloop": importlib.util.find_spec("uvloop") is not None})
    except Exception as error:
        cause = _innermost(error)
        text = str(cause) if isinstance(cause, RoomwireError) else told(cause)
        if ready:
            raise click.ClickException(f"the server failed: {text}") from error
        raise StartFailed(f"the server could not start: {text}") from error


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
