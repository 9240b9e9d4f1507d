"""From a loaded configuration to a serving process, and back to an exit code."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio

from roomwire import plugins
from roomwire.app import App
from roomwire.cli._group import StartFailed
from roomwire.cli._logging import set_up_logging
from roomwire.config import Loaded
from roomwire.core.errors import DeclarationError, PluginError, RoomwireError
from roomwire.serving import serve

if TYPE_CHECKING:
    from roomwire.node.node import Page

__all__ = ["export_env_file", "serve_until_done"]


def export_env_file(loaded: Loaded) -> None:
    """Give the application the variables of ``.env`` too; what the environment has already stays."""
    for name, value in loaded.env_file.items():
        os.environ.setdefault(name, value)


def serve_until_done(
    app: App,
    loaded: Loaded,
    *,
    on_ready: Callable[[Sequence[str]], None],
    pages: Mapping[str, Page] | None = None,
) -> None:
    """Serve until a signal, or until the node fails.

    Raises:
        ConfigError, PluginError: an adapter or its options are wrong.
        StartFailed: it never came to accept connections.
    """
    settings = loaded.settings
    set_up_logging(settings.logging)
    # Before the loop runs: what is wrong with the configuration is no failed start.
    plugins.make_backplane(settings, loaded)
    plugins.make_authenticator(settings, loaded)
    plugins.make_transport(settings)
    ready = False

    def note_ready(addresses: Sequence[str]) -> None:
        nonlocal ready
        ready = True
        on_ready(addresses)

    main = partial(serve, app, settings, loaded=loaded, on_ready=note_ready, pages=pages)
    try:
        anyio.run(main, backend_options={"use_uvloop": importlib.util.find_spec("uvloop") is not None})
    except* (RoomwireError, OSError) as group:
        if ready:
            raise
        error = _first(group)
        if isinstance(error, PluginError | DeclarationError):
            raise error from group
        raise StartFailed(f"the server could not start: {error}") from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
