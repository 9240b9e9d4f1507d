"""Event streams (docs/reference/protocol.md section 8): the request for one, and the bytes of ``text/event-stream``.

The format is the HTML Standard's, section 9.2 "Server-sent events". A field's value ends with its line, and a line
ends with CR, LF or both, so neither may stand in a value. Names and ids have neither by their own rules. In JSON
both stand between two tokens alone, where a blank means the same: it takes their place.

Many readers are written with a library's idea of a line. For Python's ``str.splitlines`` a line ends with U+0085,
U+2028 and U+2029, too, which may stand in JSON's strings as they are. The escapes that mean the same take their place.
"""

from __future__ import annotations

from dataclasses import dataclass

from roomwire.core.errors import HandshakeRefused, InvalidCursor, Refusal
from roomwire.core.positions import Position, is_room_name
from roomwire.core.request import RequestHead

__all__ = ["ALIVE", "MAX_HEARD", "StreamRequest", "read_stream_request", "write_event", "write_retry"]

ALIVE = ":\n\n"
"""A comment: it says that the server is there, and is no event."""
MAX_HEARD = 4096
"""Bytes that may come behind the request of a stream, over its whole life; they are not looked at."""
_ENDS_OF_LINES = str.maketrans({"\n": " ", "\r": " ", "\u0085": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a request for a stream asks for.

    Attributes:
        room: the room.
        since: where the client stands; None where it has no position.
        wants_state: whether a state is to come, where it has none.
    """

    room: str
    since: Position | None
    wants_state: bool


def read_stream_request(head: RequestHead) -> StreamRequest:
    """Read the query and ``Last-Event-ID``.

    The header decides where it is sent: an EventSource that comes back sends it with the URL of its first request.

    Raises:
        HandshakeRefused: 400.
    """
    rooms = head.query_values("room")
    if len(rooms) != 1:
        raise _bad_request("room is required, once: /sse?room=ROOM")
    if not is_room_name(rooms[0]):
        raise _bad_request("room is 1 to 128 bytes of UTF-8 without control characters")
    where, ids = "Last-Event-ID", [value.decode("latin-1") for value in head.header_values(b"last-event-id") if value]
    if not ids:
        where, ids = "last_event_id", [value for value in head.query_values("last_event_id") if value]
    if len(ids) > 1:
        raise _bad_request(f"{where} stands there twice")
    try:
        since = Position.parse(ids[0]) if ids else None
    except InvalidCursor as error:
        raise _bad_request(f"{where}: {error}") from None
    return StreamRequest(rooms[0], since, head.query_values("state") == ["1"])


def _bad_request(detail: str) -> HandshakeRefused:
    return HandshakeRefused(Refusal(400, "bad_request", detail))


def write_event(event: str, data: str, *, id: str | None = None, retry: float | None = None) -> str:
    """An event.

    Args:
        event: its name, trusted to be one.
        data: its data, trusted to be JSON. What is no JSON may be read wrongly, but it is the data of one event still.
        id: its position, after which a client resumes; None where it moves none.
        retry: seconds after which a client whose stream ends comes back; None to leave that as it is.
    """
    if "\n" in data or "\r" in data or (not data.isascii() and _has_rare_ends(data)):
        data = data.translate(_ENDS_OF_LINES)
    head = "" if retry is None else _retry(retry)
    if id is not None:
        head += f"id: {id}\n"
    return f"{head}event: {event}\ndata: {data}\n\n"


def _has_rare_ends(data: str) -> bool:
    return "\u0085" in data or "\u2028" in data or "\u2029" in data


def write_retry(seconds: float) -> str:
    """Nothing but after how many seconds a client comes back."""
    return _retry(seconds) + "\n"


def _retry(seconds: float) -> str:
    return f"retry: {round(seconds * 1000)}\n"
