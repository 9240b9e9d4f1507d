"""A blocking client of event streams: HTTP by the standard library's client, events by the HTML Standard."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self
from urllib.parse import urlencode

from tests.core.streams import Event, Reader
from tests.server.live import TIMEOUT, LiveServer, make_token

__all__ = ["Stream", "Viewers", "ask"]


class Stream:
    """A response: one that goes on, or a whole one.

    Attributes:
        status, headers: its own; names in lower case.
        reader: what has come of it.
        last_event_id: what a browser would come back with, if it were cut off behind the last event that was taken.
    """

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._response = connection.getresponse()
        self._events: list[Event] = []
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}
        self.reader = Reader()
        self.last_event_id = ""

    def _read(self) -> bool:
        """Read on; False where the response is over."""
        data = self._response.read1(65_536)
        self._events += self.reader.feed(data.decode())
        return bool(data)

    def next(self) -> Event:
        """The next event."""
        while not self._events:
            assert self._read(), "the stream has ended"
        event = self._events.pop(0)
        self.last_event_id = event.id
        return event

    def until(self, event: str) -> dict[str, Any]:
        """The next message of that name; what comes before it is dropped."""
        while True:
            found = self.next()
            message: dict[str, Any] = json.loads(found.data)
            assert message["event"] == found.event
            if found.event == event:
                return message

    def take(self, event: str, count: int) -> list[str]:
        """The ids of the next messages of that name."""
        return [self.until(event)["id"] for _ in range(count)]

    def comment(self) -> None:
        """Read up to the next comment."""
        before = self.reader.comments
        while self.reader.comments == before:
            assert self._read(), "the stream has ended"

    def rest(self) -> list[Event]:
        """What comes up to the end, which must be a correct one."""
        while self._read():
            pass
        assert self._response.isclosed()
        events, self._events = self._events, []
        return events

    def body(self) -> bytes:
        """What is left of a whole response."""
        return self._response.read()

    def json(self) -> dict[str, Any]:
        """A refusal."""
        found: dict[str, Any] = json.loads(self.body())
        return found

    def close(self) -> None:
        """The viewer goes away."""
        self._response.close()
        self._connection.close()


def ask(
    port: int,
    query: str = "room=chat:general",
    *,
    method: str = "GET",
    path: str = "/sse",
    headers: Mapping[str, str] | None = None,
) -> Stream:
    """Any request, and its answer, which is to be closed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request(method, f"{path}?{query}", headers={"Accept-Encoding": "gzip", **(headers or {})})
        return Stream(connection)
    except BaseException:
        connection.close()
        raise


class Viewers:
    """Opens streams, and closes them at the end of the block."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self._stack = ExitStack()

    def ask(
        self,
        query: str = "room=chat:general",
        user: str = "ann",
        *,
        method: str = "GET",
        path: str = "/sse",
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Stream:
        """Any request, and its answer; with a token of `user` unless another one is given, or an empty one."""
        token = make_token(user) if token is None else token
        given = {"Authorization": f"Bearer {token}"} if token else {}
        stream = ask(self.server.port, query, method=method, path=path, headers={**given, **(headers or {})})
        self._stack.callback(stream.close)
        return stream

    def view(
        self, room: str = "chat:general", user: str = "ann", *, since: str = "", ttl: float = 86_400.0, **query: str
    ) -> Stream:
        """A stream that was admitted."""
        headers = {"Last-Event-ID": since} if since else {}
        stream = self.ask(urlencode({"room": room, **query}), token=make_token(user, ttl=ttl), headers=headers)
        assert stream.status == 200, stream.json()
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
