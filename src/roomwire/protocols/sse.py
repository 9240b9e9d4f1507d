"""Server-sent events, the read-only wire protocol (docs/reference/protocol.md section 8).

The data of an event is the message of the native protocol, so a page reads both alike. Bytes, which no event stream
can carry, are base64. A stream is about one room: the position of an event, of a state, or of that room in a notice
is the `id` from which an EventSource resumes.

The codec keeps no state, so one object serves all sessions.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence

from roomwire.core import notices
from roomwire.core.commands import Command
from roomwire.core.envelope import encode
from roomwire.core.eventstream import ALIVE, write_event
from roomwire.core.notices import Notice
from roomwire.core.positions import Position
from roomwire.core.publication import Publication
from roomwire.protocols.contract import Codec, Liveness, Message
from roomwire.protocols.native import NativeProtocol

__all__ = ["LEAST_RETRY", "STAY_AWAY", "SseProtocol"]

LEAST_RETRY = 1.0
"""Seconds that an EventSource waits at the least (the native clients' first step): it has no back-off of its own, and
what it finds too early it asks for at the same rate for ever."""
STAY_AWAY = 86_400.0
"""Seconds, in place of "never", which no EventSource can be told but by a status: it comes back from every end."""

_NATIVE = NativeProtocol()


class SseProtocol:
    """The protocol and, since it keeps nothing for a session, its codec too."""

    name = "sse"
    liveness = Liveness(any_traffic=False, hears=False)

    def new_codec(self) -> Codec:
        """The codec; one serves all sessions."""
        return self

    def receive(self, message: Message) -> Sequence[Command]:
        """See `roomwire.protocols.contract.Codec.receive`: there is no way for a client to say anything."""
        return ()

    def send(self, notice: Notice) -> Sequence[Message]:
        """See `roomwire.protocols.contract.Codec.send`. Answers to commands have nobody to go to."""
        writer = _WRITERS.get(type(notice))
        return () if writer is None else (writer(notice),)

    def broadcast(self, publication: Publication) -> Message:
        """See `roomwire.protocols.contract.WireProtocol.broadcast`."""
        p = publication
        data = p.data
        fields = encode(p.event, room=p.room, id=p.id, user=p.user, data=_base64(data) if p.binary else data)
        return write_event(p.event, _text(fields, binary=p.binary), id=p.id)


def _base64(data: bytes) -> bytes:
    return b'"' + b64encode(data) + b'"'


def _text(message: bytes, *, binary: bool) -> str:
    """The object, which says it where its `data` is base64."""
    return message.decode() if not binary else message[:-1].decode() + ',"encoding":"base64"}'


def _native(notice: Notice) -> str:
    (message,) = _NATIVE.send(notice)
    assert isinstance(message, str)
    return message


def _only(positions: Mapping[str, Position]) -> str | None:
    """The position of the stream's room, where it is among them."""
    return next((str(position) for position in positions.values()), None)


def _write_welcome(n: notices.Welcome) -> str:
    # What is still to come, a replay or a state, brings its own ids: a client that is cut off before it must not
    # resume behind it. Until then it has the id that it came with, or none.
    standing = [s.position for s in n.rooms.values() if s.recovered is None and not s.awaits_state]
    id_ = next((str(position) for position in standing if position is not None), None)
    return write_event("session.welcome", _native(n), id=id_, retry=LEAST_RETRY + n.retry_after)


def _write_state(n: notices.RoomState) -> str:
    return write_event("room.state", _native(n), id=str(n.position))


def _write_beat(n: notices.Beat) -> str:
    # An id without data would do for an EventSource, but not for each client (docs/adr/0022).
    return write_event("heartbeat", _native(n), id=_only(n.positions)) if n.positions else ALIVE


def _write_closing(n: notices.ClosingSoon) -> str:
    closing = n.closing
    if not closing.reconnect:
        retry: float | None = STAY_AWAY
    else:
        retry = LEAST_RETRY + closing.retry_after if closing.retry_after else None
    return write_event("session.closing", _native(n), id=_only(n.positions), retry=retry)


def _write_sent(n: notices.Sent) -> str:
    fields = encode(n.event, room=n.room, data=_base64(n.data) if n.binary else n.data)
    return write_event(n.event, _text(fields, binary=n.binary))


def _under(event: str) -> Callable[[Notice], str]:
    return lambda notice: write_event(event, _native(notice))


_WRITERS: dict[type[Notice], Callable[..., str]] = {
    notices.Welcome: _write_welcome,
    notices.Sent: _write_sent,
    notices.RoomState: _write_state,
    notices.RemovedFromRoom: _under("room.removed"),
    notices.MembersState: _under("presence.state"),
    notices.MemberJoined: _under("presence.join"),
    notices.MemberLeft: _under("presence.leave"),
    notices.Beat: _write_beat,
    notices.ClosingSoon: _write_closing,
}
