"""JetStream's requests, as far as they are needed here. Each is one question to the server."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from roomwire.backplanes.nats.link import Link
from roomwire.backplanes.nats.subjects import Subjects
from roomwire.backplanes.nats.wire import Reply, epoch_of, header, parse_time
from roomwire.core.errors import Unavailable

__all__ = ["Ack", "Conflict", "JetStream", "Message", "NoStream", "StreamInfo"]

_WRONG_SEQUENCE = frozenset({10071, 10164})
_STREAM_NOT_FOUND = 10059
_NAME_IN_USE = frozenset({10058, 10065})
_NO_MESSAGE = 10037
_IN_PROCESS = 10158


class Conflict(Exception):
    """Another message was stored since the one that is named."""


class NoStream(Exception):
    """There is no stream that listens; nothing was stored."""


class Ack(NamedTuple):
    """A message was stored, now or by an earlier copy."""

    seq: int
    duplicate: bool


class Message(NamedTuple):
    """A stored message.

    Attributes:
        pending: how many follow on it, as far as the server that was asked knows.
    """

    subject: str
    seq: int
    headers: bytes
    data: bytes
    pending: int


class StreamInfo(NamedTuple):
    """Where a stream stands, by its leader.

    Attributes:
        epoch: when it was made.
        first_age: seconds since its first message was stored.
        now: the leader's clock, seconds since 1970.
    """

    epoch: str
    first: int
    last: int
    first_age: float
    now: float
    config: Mapping[str, Any]


class JetStream:
    """See the module's text.

    Args:
        link: the link.
        subjects: the names.
        clock: told the store's time with every look at a stream; see `Clock.sync`.
    """

    def __init__(self, link: Link, subjects: Subjects, clock: Callable[[float, float], None]) -> None:
        self.link = link
        self._api = subjects.api
        self._clock = clock

    async def info(self, stream: str) -> StreamInfo | None:
        """Where it stands; None where there is none.

        Raises:
            Unavailable: as `_request`.
        """
        return self._info(*await self._request(f"STREAM.INFO.{stream}"))

    async def create(self, config: Mapping[str, Any]) -> StreamInfo | None:
        """Make a stream; None where another of that name, or for its subjects, is there.

        Raises:
            Unavailable: as `_request`.
        """
        return self._info(*await self._request(f"STREAM.CREATE.{config['name']}", config))

    def _info(self, found: dict[str, Any], sent: float) -> StreamInfo | None:
        error = found.get("error")
        if error is not None:
            if error.get("err_code") in (_STREAM_NOT_FOUND, *_NAME_IN_USE):
                return None
            raise Unavailable(f"JetStream: {error.get('description')}", stored=False)
        now = parse_time(found["ts"])
        self._clock(now, sent)
        state = found["state"]
        age = now - parse_time(state["first_ts"]) if state["messages"] else 0.0
        # A stream without messages says 0 as its first as long as it never had one.
        first = state["first_seq"] if state["messages"] else state["last_seq"] + 1
        return StreamInfo(epoch_of(found["created"]), first, state["last_seq"], age, now, found["config"])

    async def _request(self, request: str, body: object = None) -> tuple[dict[str, Any], float]:
        """The answer, with the time at which it was asked for.

        Raises:
            Unavailable: there is none, or there is no JetStream.
        """
        sent = asyncio.get_running_loop().time()
        data = b"" if body is None else json.dumps(body).encode()
        reply = await self.link.ask(f"{self._api}.{request}", data)
        if reply.status == 503:
            raise Unavailable("JetStream does not answer: it is not enabled, or has no leader now", stored=False)
        found: dict[str, Any] = json.loads(reply.data)
        return found, sent

    async def count(self, stream: str, subject: str) -> int:
        """How many messages a subject has, by the leader.

        Raises:
            NoStream, Unavailable: nobody can tell.
        """
        found, _ = await self._request(f"STREAM.INFO.{stream}", {"subjects_filter": subject})
        if "error" in found:
            raise NoStream
        counts: dict[str, int] = found["state"].get("subjects") or {}
        return counts.get(subject, 0)

    async def put(self, subject: str, data: bytes, headers: Mapping[str, str], timeout: float = 0) -> Ack:
        """Store a message.

        Raises:
            NoStream, Conflict, Unavailable: it was not, or with ``stored=None`` nobody knows.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        reply = await self.link.ask(subject, data, f"NATS/1.0\r\n{lines}\r\n".encode(), timeout)
        if reply.status == 503:
            raise NoStream
        ack = json.loads(reply.data)
        error = ack.get("error")
        if error is None:
            return Ack(ack["seq"], ack.get("duplicate", False))
        if error.get("err_code") in _WRONG_SEQUENCE:
            raise Conflict
        # Another copy of it is on its way to the replicas.
        unknown = error.get("err_code") == _IN_PROCESS
        raise Unavailable(f"JetStream: {error.get('description')}", stored=None if unknown else False)

    async def batch(self, stream: str, body: Mapping[str, object]) -> tuple[list[Message], int]:
        """Messages by a batched direct get, with the last sequence of the server that was asked, where it tells.

        Any replica may answer, also one that lags.

        Raises:
            NoStream, Unavailable: they cannot be read.
        """
        replies = await self.link.ask_many(f"{self._api}.DIRECT.GET.{stream}", json.dumps(body).encode())
        end = replies.pop()
        if end.status == 503:
            raise NoStream
        if end.status not in (204, 404):
            raise Unavailable(f"JetStream refuses a batch: {end.headers[9:60].decode(errors='replace').strip()}")
        return [_message(reply) for reply in replies], int(header(end.headers, b"Nats-UpTo-Sequence") or 0)

    async def last(self, stream: str, subject: str, *, leader: bool) -> Message | None:
        """The last message of a subject; by the leader, or by whoever is quickest.

        Raises:
            NoStream, Unavailable: it cannot be read.
        """
        if leader:
            return await self.at_leader(stream, {"last_by_subj": subject})
        reply = await self.link.ask(f"{self._api}.DIRECT.GET.{stream}", json.dumps({"last_by_subj": subject}).encode())
        if reply.status == 503:
            raise NoStream
        return None if reply.status else _message(reply)

    async def at_leader(self, stream: str, body: Mapping[str, object]) -> Message | None:
        """One message, from the stream's leader.

        Raises:
            NoStream, Unavailable: it cannot be read.
        """
        found, _ = await self._request(f"STREAM.MSG.GET.{stream}", body)
        error = found.get("error")
        if error is None:
            message = found["message"]
            # As a direct get has it.
            headers = base64.b64decode(message.get("hdrs", "")) + f"\r\nNats-Time-Stamp: {message['time']}\r\n".encode()
            return Message(message["subject"], message["seq"], headers, base64.b64decode(message.get("data", "")), 0)
        if error.get("err_code") == _NO_MESSAGE:
            return None
        if error.get("err_code") == _STREAM_NOT_FOUND:
            raise NoStream
        raise Unavailable(f"JetStream: {error.get('description')}", stored=False)


def _message(reply: Reply) -> Message:
    headers = reply.headers
    return Message(
        header(headers, b"Nats-Subject").decode(),
        int(header(headers, b"Nats-Sequence")),
        headers,
        reply.data,
        int(header(headers, b"Nats-Num-Pending") or 0),
    )
