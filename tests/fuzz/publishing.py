"""What comes to ``POST /api/publish``: how a body is framed, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from roomwire.core.api import Fault, read_request
from roomwire.core.body import BodyReader
from roomwire.core.errors import LocalError
from roomwire.core.http import RequestParser
from roomwire.core.publication import compose, read_body
from tests.fuzz.mutation import mutator

__all__ = ["make_request", "make_upload", "open_request", "open_upload"]

Reader = Callable[[bytes], bool]

_EVENT = {"room": "chat:one", "event": "told", "data": {"a": [1.5, "é", None]}, "key": "k", "user": "ann"}
_REQUESTS: Sequence[bytes] = (
    json.dumps(_EVENT).encode(),
    json.dumps({**_EVENT, "exclude": "tab-000001", "history": False}, ensure_ascii=False).encode(),
    b'{"room":"r","event":"e","data_base64":"AP8="}',
    json.dumps([_EVENT, {"room": "r", "event": "e", "data": 10**30}]).encode(),
)
make_request = mutator(_REQUESTS, 100)

_HEAD = b"POST /api/publish HTTP/1.1\r\nHost: a\r\n"
_UPLOADS: Sequence[bytes] = (
    _HEAD + b"Content-Length: 5\r\n\r\nhello",
    _HEAD
    + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nTrailer: x\r\n\r\n",
    _HEAD + b"\r\n",
)
make_upload = mutator(_UPLOADS, 100)
_MOST = 40


@contextmanager
def open_request() -> Iterator[Reader]:
    """A request's body; whatever is taken is refused by its names, or can be read from a backplane."""

    def read(data: bytes) -> bool:
        found = read_request(data, 3)
        for item in found if isinstance(found, list) else [found]:
            if isinstance(item, Fault):
                continue
            names = {"user": item.user, "exclude": item.exclude, "exclude_user": item.user}
            try:
                publication, body = compose(item.room, item.event, item.data, max_size=10_000, **names)
            except LocalError:
                continue
            assert read_body(item.room, body, None).data == publication.data
        return True

    yield read


@contextmanager
def open_upload() -> Iterator[Reader]:
    """A request with a body, whole and byte by byte: the same comes out, within its bound."""

    def body_of(data: bytes, step: int) -> bytes | None:
        parser = RequestParser()
        head = parser.receive(data)
        if head is None:
            return None
        reader, rest = BodyReader(head, _MOST), parser.trailing
        body = reader.receive(rest[:step])
        for at in range(step, len(rest), step):
            if body is not None:
                break
            body = reader.receive(rest[at : at + step])
        return body

    def read(data: bytes) -> bool:
        body = body_of(data, len(data) + 1)
        assert body_of(data, 1) == body
        assert body is None or len(body) <= _MOST
        return body is not None

    yield read
