"""What comes out of a backplane: bodies of events, control messages, remembered replies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pydantic_core import from_json

from roomwire.core.idempotency import read_reply, write_reply
from roomwire.core.notices import Failed, Reply
from roomwire.core.orders import Add, Disconnect, Evict, Remove, write_order
from roomwire.core.positions import Position
from roomwire.core.publication import Publication, read_body, write_body
from roomwire.protocols.native import NativeProtocol
from tests.fuzz.mutation import mutator
from tests.fuzz.streaming import check_event
from tests.server.chat import make_app
from tests.server.live import make_node

__all__ = ["make_body", "make_control", "make_reply", "open_body", "open_control", "open_reply"]

Reader = Callable[[bytes], bool]

_NATIVE = NativeProtocol()
_AT = Position("epoch", 7)

_BODIES: Sequence[bytes] = (
    write_body("told", b'{"a":1}'),
    write_body("told", '"é"'.encode(), user="ann", exclude="tab-000001"),
    write_body("told", b"1", user="ann", exclude="tab-000001", exclude_user="bob"),
    write_body("drawn", b"\xff\xfe\0", binary=True, user="😀"),
    write_body("x" * 128, b"null", user="u" * 255),
)
make_body = mutator(_BODIES, 100)


@contextmanager
def open_body() -> Iterator[Reader]:
    """The body of an event; whatever is taken can be written to every client."""

    def read(data: bytes) -> bool:
        found = read_body("chat:one", data, _AT)
        message = _NATIVE.broadcast(found)
        assert isinstance(message, bytes) is found.binary
        block = message if isinstance(message, bytes) else message.encode()
        assert found.data in block
        check_event(found)
        again = write_body(
            found.event,
            found.data,
            binary=found.binary,
            user=found.user,
            exclude=found.exclude,
            exclude_user=found.exclude_user,
        )
        assert _fields(read_body("chat:one", again, _AT)) == _fields(found)
        return True

    yield read


def _fields(publication: Publication) -> list[object]:
    return [getattr(publication, name) for name in Publication.__slots__]


_ORDERS: Sequence[bytes] = tuple(
    write_order(order)
    for order in (
        Disconnect(user="ann", code=4502, reason="bye", client="tab-000001"),
        Disconnect(user="ann", code=1006),
        Evict(connection="0123456789abcdef", moved=True),
        Add(user="ann", room="chat:one"),
        Remove(user="ann", room="chat:one", reason="why"),
    )
)
make_control = mutator(_ORDERS, 100)


@contextmanager
def open_control() -> Iterator[Reader]:
    """A control message to a node; what cannot be read is counted, and carries nothing out."""
    node = make_node(make_app())
    logger = logging.getLogger("roomwire.backplane")
    logger.disabled, before = True, logger.disabled

    def read(data: bytes) -> bool:
        dropped = node.control.dropped
        node.control.told(data)
        return node.control.dropped == dropped

    try:
        yield read
    finally:
        logger.disabled = before


_REPLIES: Sequence[bytes] = (
    write_reply(Reply("r", b'{"id":"ep:7"}')),
    write_reply(Reply("r", b"null")),
    write_reply(Failed("r", "app.late", "the game is over", {"since": 3})),
    write_reply(Failed("r", "invalid", "é", None)),
)
make_reply = mutator(_REPLIES, 100)


@contextmanager
def open_reply() -> Iterator[Reader]:
    """The reply of a message that was handled before; whatever is taken can be told to its sender."""
    codec = _NATIVE.new_codec()

    def read(data: bytes) -> bool:
        (message,) = codec.send(read_reply(data, "r"))
        assert isinstance(message, str)
        sent = from_json(message)
        assert (sent["id"], sent["event"]) in (("r", "ack"), ("r", "error"))
        return True

    yield read
