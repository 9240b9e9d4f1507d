"""The request for an event stream, and what of a body from the backplane reaches a viewer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from roomwire.core.eventstream import read_stream_request
from roomwire.core.positions import Position, is_room_name
from roomwire.core.publication import Publication
from roomwire.core.request import RequestHead
from roomwire.protocols.sse import SseProtocol
from tests.core.streams import Reader as StreamReader
from tests.fuzz.mutation import mutator

__all__ = ["check_event", "make_stream", "open_stream"]

Reader = Callable[[bytes], bool]

_SSE = SseProtocol()
_REQUESTS: Sequence[bytes] = (
    b"room=chat%3Ageneral&state=1",
    b"room=a&client=tab-000001&last_event_id=ep:7&token=a.b.c",
    b"room=%C3%A9%40%2C&last_event_id=AZaz09:9999999999999999",
    b"room=a&last_event_id=\nep:7",
    b"room=a\nep:7\nep:8",
    b"last_event_id=later&room=a+b",
)
make_stream = mutator(_REQUESTS, 80)


@contextmanager
def open_stream() -> Iterator[Reader]:
    """The query, and ``Last-Event-ID`` headers, which are the lines behind it."""

    def read(data: bytes) -> bool:
        query, *ids = data.split(b"\n")
        headers = [(b"last-event-id", value) for value in ids]
        found = read_stream_request(RequestHead("GET", "/sse", query.decode("latin-1"), headers))
        assert is_room_name(found.room)
        assert found.since is None or Position.parse(str(found.since)) == found.since
        return True

    yield read


def check_event(publication: Publication) -> None:
    """Whatever the payload is, it is the data of one event, and neither an id nor another event."""
    message = _SSE.broadcast(publication)
    assert isinstance(message, str)
    reader = StreamReader()
    (event,) = reader.feed(message)
    assert (event.event, event.id, reader.retry) == (publication.event, publication.id, None)
