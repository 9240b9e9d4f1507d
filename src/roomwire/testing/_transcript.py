"""What happened in a test: the frames of all clients in both directions, and the server's log, in the order of time."""

from __future__ import annotations

import logging
import re
import time
from collections import deque

from roomwire.logs import TextFormatter, redact_tokens

__all__ = ["Transcript"]

_MAX_ENTRIES = 1000
_MAX_LINE = 600
"""Characters of one frame that are kept; a log record is kept whole, since its traceback is what matters."""
_QUERY = re.compile(r"(?<=[?&]token=)[^&\s]+")
_LOGGER = "roomwire"
_SHORTEST = 8


class Transcript(logging.Handler):
    """A record of what clients and a server did; the threads of a test write it together.

    Attributes:
        entries: the lines, oldest first; beyond 1,000 the oldest are dropped.
        count: of all lines.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(_Line())
        self.entries: deque[str] = deque(maxlen=_MAX_ENTRIES)
        self.count = 0
        self._secrets: set[str] = set()
        self._errors: deque[tuple[float, BaseException]] = deque(maxlen=20)
        self._users = 0
        self._level = logging.NOTSET
        self.clear()

    def clear(self) -> None:
        """A new test begins."""
        self.entries.clear()
        self._errors.clear()
        self.count = 0
        self._began = time.time()

    def hide(self, token: str) -> None:
        """A token that no line may show, whatever it looks like; a word of a few letters is none."""
        if len(token) >= _SHORTEST:
            self._secrets.add(token)

    def note(self, who: str, what: str) -> None:
        """Add a line: of a client, ``->`` and what it sent, or ``<-`` and what came."""
        self._add(time.time(), f"{who:<10} {what}" if len(what) <= _MAX_LINE else f"{who:<10} {what[:_MAX_LINE]}...")

    def text(self) -> str:
        """The lines, with seconds since the test began."""
        left_out = self.count - len(self.entries)
        dropped = [f"({left_out} earlier lines are left out)"] if left_out else []
        return "\n".join([*dropped, *self.entries])

    def failure_since(self, moment: float) -> BaseException | None:
        """The last exception that the server logged since then, seconds since 1970."""
        return next((error for at, error in reversed(self._errors) if at >= moment), None)

    def _add(self, at: float, text: str) -> None:
        self.count += 1
        self.entries.append(self.redacted(f"{max(0.0, at - self._began):8.3f}  {text}"))

    def redacted(self, text: str) -> str:
        """The text without tokens."""
        for secret in self._secrets:
            text = text.replace(secret, "[token]")
        return redact_tokens(_QUERY.sub("[token]", text))

    # --- the server's log

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if record.exc_info and record.exc_info[1] is not None:
            self._errors.append((record.created, record.exc_info[1]))
        self._add(record.created, f"{'server':<10} {self.format(record)}")

    def listen(self) -> None:
        """Take the log in, from INFO on, until `ignore` was called as often."""
        self._users += 1
        if self._users == 1:
            logger = logging.getLogger(_LOGGER)
            self._level = logger.level
            if logger.getEffectiveLevel() > logging.INFO:
                logger.setLevel(logging.INFO)
            logger.addHandler(self)

    def ignore(self) -> None:
        """The counterpart of `listen`."""
        self._users -= 1
        if self._users == 0:
            logger = logging.getLogger(_LOGGER)
            logger.removeHandler(self)
            logger.setLevel(self._level)


class _Line(TextFormatter):
    """Without the date, which the transcript has already."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        return super().format(record).split(" ", 2)[2]
