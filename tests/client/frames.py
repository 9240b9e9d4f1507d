"""A TCP proxy that knows where frames begin and end: it cuts links in the middle of one, and passes one on twice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketListener

__all__ = ["FrameProxy", "frame_proxy"]

_MASKED = 0x80
_LENGTHS = {126: 2, 127: 8}  # bytes of the extended length (RFC 6455 section 5.2)


@dataclass(frozen=True)
class Cut:
    """A frame that is not to arrive whole."""

    by_client: bool
    text: bytes


class FrameProxy:
    """Forwards to one port, frame by frame once the handshake is through.

    Attributes:
        target: the port that new links lead to; None: there is no way through, and they hang.
        twice: frames of the server whose payload contains this are passed on twice.
        said: the text messages of the server.
    """

    def __init__(self, listener: SocketListener, target: int | None) -> None:
        self._target = target
        self._open = anyio.Event()
        self.twice: bytes | None = None
        self.said: list[Any] = []
        self.port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"ws://127.0.0.1:{self.port}/ws"
        self._listener = listener
        self._links: set[anyio.CancelScope] = set()
        self._cut: Cut | None = None

    @property
    def target(self) -> int | None:
        return self._target

    @target.setter
    def target(self, port: int | None) -> None:
        self._target = port
        self._open.set()
        self._open = anyio.Event()

    def cut(self) -> None:
        """Cut every link, without a word to either side."""
        for scope in self._links:
            scope.cancel()

    def cut_in(self, text: bytes, *, by_client: bool) -> None:
        """Pass on half of the next frame whose payload contains `text`, and cut its link there."""
        self._cut = Cut(by_client, text)

    async def run(self) -> None:
        await self._listener.serve(self._forward)

    async def _forward(self, near: ByteStream) -> None:
        streams = [near]
        scope = anyio.CancelScope()
        self._links.add(scope)
        try:
            with scope:
                while self.target is None:
                    await self._open.wait()
                streams.append(await anyio.connect_tcp("127.0.0.1", self.target))
                async with anyio.create_task_group() as group:
                    group.start_soon(self._copy, streams[0], streams[1], True, scope)
                    group.start_soon(self._copy, streams[1], streams[0], False, scope)
        finally:
            self._links.discard(scope)
            with anyio.CancelScope(shield=True):
                for stream in streams:
                    await anyio.aclose_forcefully(stream)

    async def _copy(self, source: ByteStream, sink: ByteStream, by_client: bool, scope: anyio.CancelScope) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            buffer = bytearray()
            while b"\r\n\r\n" not in buffer:
                buffer += await source.receive()
            end = buffer.index(b"\r\n\r\n") + 4
            await sink.send(bytes(buffer[:end]))
            upgraded = by_client or buffer.startswith(b"HTTP/1.1 101")
            del buffer[:end]
            while True:
                if not upgraded:
                    await sink.send(bytes(buffer))
                    buffer.clear()
                for frame, payload in frames_of(buffer):
                    await self._pass_on(frame, payload, sink, by_client, scope)
                buffer += await source.receive()
        scope.cancel()

    async def _pass_on(
        self, frame: bytes, payload: bytes, sink: ByteStream, by_client: bool, scope: anyio.CancelScope
    ) -> None:
        cut = self._cut
        if cut is not None and cut.by_client == by_client and cut.text in payload:
            self._cut = None
            await sink.send(frame[: len(frame) // 2])
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        await sink.send(frame)
        if by_client:
            return
        if payload.startswith(b"{"):
            self.said.append(json.loads(payload))
        if self.twice is not None and self.twice in payload:
            await sink.send(frame)


def frames_of(buffer: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Take the whole frames out of the buffer: each, and its unmasked payload."""
    while len(buffer) >= 2:
        short = buffer[1] & 0x7F
        start = 2 + _LENGTHS.get(short, 0)
        length = int.from_bytes(buffer[2:start], "big") if start > 2 else short
        mask = bytes(buffer[start : start + 4]) if buffer[1] & _MASKED else b""
        start += len(mask)
        if len(buffer) < start + length or (buffer[1] & _MASKED and len(mask) < 4):
            return
        payload = bytes(buffer[start : start + length])
        if mask:
            payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        frame = bytes(buffer[: start + length])
        del buffer[: start + length]
        yield frame, payload


@asynccontextmanager
async def frame_proxy(target: int | None) -> AsyncIterator[FrameProxy]:
    (listener,) = (await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)).listeners
    assert isinstance(listener, SocketListener)
    proxy = FrameProxy(listener, target)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(proxy.run)
        yield proxy
        group.cancel_scope.cancel()
