"""Log lines: for people or as JSON, with the structured fields, and never with a token.

Records of the loggers ``roomwire``, ``roomwire.access``, ``roomwire.security`` and
``roomwire.backplane`` carry their fields in ``extra={"roomwire": {...}}``: ``event``, ``connection``,
``user``, ``room``, ``node``, ``code``, ``duration`` (seconds) and so on. ``roomwire run`` installs a handler for
its own process, and under an ASGI host `written_by_default` does where nobody else has.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

__all__ = ["JsonFormatter", "RedactTokens", "TextFormatter", "redact_tokens", "stderr_handler", "written_by_default"]

# Three base64url segments, the first of which begins like a JSON object's: a JWT (RFC 7519 section 3.1).
# It starts at the border of a segment and never backtracks, so that a long text costs linear time.
_TOKEN = re.compile(r"(?<![\w-])((?:(?!eyJ)[\w-])*+)eyJ[\w-]*+\.[\w-]++\.[\w-]*+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLAIN = re.compile(r"[^\s\"=]+")

_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def redact_tokens(text: str) -> str:
    """The text with everything that looks like a JWT replaced by ``[token]``."""
    return _TOKEN.sub(r"\1[token]", text) if "eyJ" in text else text


class RedactTokens(logging.Filter):
    """For handlers with a formatter of their own: replaces tokens in a record before it is formatted."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True; the record is changed where it must be."""
        message = record.getMessage()
        redacted = redact_tokens(message)
        if redacted != message:
            record.msg, record.args = redacted, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact_tokens(record.exc_text)
        fields = getattr(record, "roomwire", None)
        if isinstance(fields, dict):
            record.roomwire = {
                name: redact_tokens(value) if isinstance(value, str) else value for name, value in fields.items()
            }
        return True


class TextFormatter(logging.Formatter):
    """One line for people; a traceback follows on lines of its own, indented.

    Args:
        colour: whether the level is coloured.
    """

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        level = f"{record.levelname:<8}"
        if self._colour:
            level = f"\x1b[{_COLOURS.get(record.levelname, '0')}m{level}\x1b[0m"
        message = record.getMessage()
        fields = _fields(record)
        # The journal's message is the event's name.
        if fields.get("event") == message:
            del fields["event"]
        text = " ".join([_one_line(message), *(f"{name}={_value(value)}" for name, value in fields.items())])
        line = f"{_time(record, ' ')} {level} {record.name}: {text}"
        trace = _traceback(self, record)
        return redact_tokens(line + "".join(f"\n    {part}" for part in trace.splitlines()))


class JsonFormatter(logging.Formatter):
    """One JSON object: ``time`` (RFC 3339), ``level``, ``logger``, ``message``, the fields, ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        document: dict[str, object] = {
            "time": _time(record, "T"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        # A field never takes the place of one of these.
        document |= {name: value for name, value in _fields(record).items() if name not in document}
        trace = _traceback(self, record)
        if trace:
            document["exception"] = trace
        return redact_tokens(json.dumps(document, ensure_ascii=False, default=str))


def stderr_handler(format: str) -> logging.Handler:
    """One line on stderr for each record, as ``"text"`` (coloured on a terminal without NO_COLOR) or ``"json"``."""
    handler = logging.StreamHandler(sys.stderr)
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter(colour=colour))
    return handler


@contextmanager
def written_by_default(level: str, format: str) -> Iterator[None]:
    """While this is open, the ``roomwire`` loggers write to stderr as under ``roomwire run``, if nobody sees to them.

    Where a record of ``roomwire`` reaches a handler already, be it a `logging.NullHandler`, nothing is touched. Other
    loggers, the root among them, are the host's and the application's; the level stays where one was set.

    Args:
        level: the least severe records that are written.
        format: ``"text"`` or ``"json"``.
    """
    logger, root = logging.getLogger("roomwire"), logging.getLogger()
    if logger.hasHandlers():
        yield
        return
    handler = stderr_handler(format)
    # A framework may set up logging later, such as in its own lifespan: no record is to be written twice.
    handler.addFilter(lambda _: not (logger.propagate and root.handlers))
    before = logger.level
    logger.addHandler(handler)
    if before == logging.NOTSET:
        logger.setLevel(level.upper())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        if before == logging.NOTSET:
            logger.setLevel(logging.NOTSET)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "roomwire", None)
    return dict(fields) if isinstance(fields, dict) else {}


def _time(record: logging.LogRecord, separator: str) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(separator, timespec="milliseconds").replace("+00:00", "Z")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_text:
        parts.append(record.exc_text)
    elif record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _one_line(text: str) -> str:
    """Control characters as escapes: nobody can forge a second record by a name of their choice."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _value(value: object) -> str:
    if value is None:
        return "-"
    text = _one_line(str(value).lower() if isinstance(value, bool) else str(value))
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
