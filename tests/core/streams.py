"""A reader of event streams, written down from the HTML Standard, section 9.2.6, line by line."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Event", "Reader", "read_all"]

_END = re.compile(r"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True)
class Event:
    """What a page is given.

    Attributes:
        event: the name.
        data: the lines of data.
        id: the last id, be it this event's or an earlier one's.
    """

    event: str
    data: str
    id: str


class Reader:
    """Reads a stream as it comes.

    Attributes:
        last_event_id: what a browser would send when it comes back.
        retry: milliseconds after which it would.
        comments: lines that were comments.
    """

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._id = ""
        self._text = ""
        self._data: list[str] = []
        self._event = ""

    def feed(self, text: str) -> list[Event]:
        """The events that are complete."""
        self._text += text
        events: list[Event] = []
        while (end := _END.search(self._text)) is not None:
            line, self._text = self._text[: end.start()], self._text[end.end() :]
            events += self._line(line)
        return events

    def _line(self, line: str) -> list[Event]:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not field:
            self.comments += 1
        elif field == "event":
            self._event = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)
        return []

    def _dispatch(self) -> list[Event]:
        self.last_event_id = self._id
        event = Event(self._event or "message", "\n".join(self._data), self._id)
        found = [event] if self._data else []
        self._data, self._event = [], ""
        return found


def read_all(text: str) -> list[Event]:
    """The events of a whole stream."""
    return Reader().feed(text)
