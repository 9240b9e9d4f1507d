"""Tokens in the logs of a host. A browser's token stands in the query string, and hosts write that down.

uvicorn logs the query of every WebSocket on ``uvicorn.error``, whatever is said about access logs; with the level
``debug`` all headers too, by its `websockets` library. hypercorn and granian do so by the format of their access logs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Self

__all__ = ["HOST_LOGGERS", "TokensHidden", "hide_tokens"]

HOST_LOGGERS = ("uvicorn.error", "uvicorn.access", "hypercorn.error", "hypercorn.access", "_granian", "granian.access")

# The three sources of a token (docs/reference/protocol.md section 1): the query's `token`, whatever way it is
# written, the Authorization header, and the subprotocol `bearer.T`.
_PARAMETER = re.compile(r"(?i)((?:^|[?&;\s'\"])(?:t|%74)(?:o|%6f)(?:k|%6b)(?:e|%65)(?:n|%6e)=)[^&\s'\"]+")
_BEARER = re.compile(r"(?i)\b(bearer[ .])[\w.~+/=-]+")


def hide_tokens(text: str) -> str:
    """The text with each token replaced by ``[token]``."""
    return _BEARER.sub(r"\1[token]", _PARAMETER.sub(r"\1[token]", text))


class TokensHidden:
    """While entered, no record of a host's loggers shows a token.

    A filter of loggers, not of handlers: whatever handlers a configuration gives them, it stays. The arguments of a
    record keep their shape, since formatters of hosts take them apart.
    """

    def __enter__(self) -> Self:
        for name in HOST_LOGGERS:
            logging.getLogger(name).addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in HOST_LOGGERS:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True; the record is changed where it must be."""
        if isinstance(record.msg, str):
            record.msg = hide_tokens(record.msg)
        if isinstance(record.args, Mapping):
            record.args = _Hidden(record.args)
        elif record.args:
            record.args = tuple(map(_hidden, record.args))
        return True


class _Hidden(dict[str, Any]):
    """A record's named values; hypercorn's are made when they are asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({name: _hidden(value) for name, value in values.items()})
        self._values = values

    def __missing__(self, name: str) -> object:
        return _hidden(self._values[name])


def _hidden(value: object) -> object:
    return hide_tokens(value) if isinstance(value, str) else value
