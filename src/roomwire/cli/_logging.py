"""Logging for a process that is ours."""

from __future__ import annotations

import logging
from functools import partial

from roomwire.config import LoggingSettings
from roomwire.logs import stderr_handler

__all__ = ["set_up_logging"]


def set_up_logging(settings: LoggingSettings, *, worker: int | None = None) -> None:
    """Everything that is logged in this process goes to stderr, one line for each record.

    Args:
        settings: the ``[logging]`` section.
        worker: the number of this process, a field of every record, where there are several.
    """
    handler = stderr_handler(settings.format)
    if worker is not None:
        handler.addFilter(partial(_mark, worker))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    # Its debug level tells of every selector; who wants that can set it.
    logging.getLogger("asyncio").setLevel(max(root.level, logging.INFO))


def _mark(worker: int, record: logging.LogRecord) -> bool:
    record.roomwire = {**getattr(record, "roomwire", {}), "worker": worker}
    return True
