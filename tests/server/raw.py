"""Bytes on a socket, as no client library would send them, and what comes back."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from roomwire.core.frames import Opcode, build_masked_frame

TIMEOUT = 30.0
"""Seconds that a read waits at the most; reached only where a test fails."""
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The answer to `KEY` (RFC 6455 section 1.3)."""


@dataclass(frozen=True)
class Response:
    """An HTTP response, read to the end of the link.

    Attributes:
        status: its status code.
        headers: names in lower case, in order.
        body: what followed the head.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that stands there once at the most."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} stands there several times: {values}"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        head, separator, body = data.partition(b"\r\n\r\n")
        assert separator, f"no whole response: {data!r}"
        status_line, *lines = head.decode("ascii").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [line.partition(": ") for line in lines]
        return cls(int(status), [(name.lower(), value) for name, _, value in pairs], body)


class RawLink:
    """A TCP (or TLS, or Unix) connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_frame(self, opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> None:
        """A frame as a client masks it."""
        self.send(frame(opcode, payload, fin=fin))

    def send_text(self, event: str, **fields: Any) -> None:
        """A message of the wire protocol."""
        self.send_frame(Opcode.TEXT, json.dumps({"event": event, **fields}).encode())

    def read_to_end(self) -> bytes:
        """Everything up to the peer's end."""
        while piece := self.sock.recv(65_536):
            self._buffer += piece
        return self._take(len(self._buffer))

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def response(self) -> Response:
        """The response of a connection that ends with it."""
        return Response.parse(self.read_to_end())

    def upgraded(self) -> Response:
        """The head of the 101; frames follow."""
        while b"\r\n\r\n" not in self._buffer:
            piece = self.sock.recv(65_536)
            assert piece, f"the link ended: {self._buffer!r}"
            self._buffer += piece
        response = Response.parse(self._take(self._buffer.index(b"\r\n\r\n") + 4))
        assert response.status == 101, response
        return response

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; fewer where the peer ends before."""
        while len(self._buffer) < size:
            piece = self.sock.recv(65_536)
            if not piece:
                break
            self._buffer += piece
        return self._take(size)

    def frame(self) -> tuple[Opcode, bytes] | None:
        """The next frame of the server; None where the link ended."""
        head = self.read(2)
        if not head:
            return None
        assert head[0] & 0x80, "the server fragments nothing"
        assert not head[1] & 0x80, "the server masks nothing"
        size = head[1]
        if size == 126:
            (size,) = struct.unpack("!H", self.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.read(8))
        payload = self.read(size)
        assert len(payload) == size, "the link ended within a frame"
        return Opcode(head[0] & 0x0F), payload

    def frames(self) -> Iterator[tuple[Opcode, bytes]]:
        """All frames up to the end of the link."""
        while (found := self.frame()) is not None:
            yield found

    def event(self, name: str) -> dict[str, Any]:
        """The next text message of that event."""
        while True:
            found = self.frame()
            assert found is not None, f"the link ended before {name}"
            opcode, payload = found
            if opcode is Opcode.TEXT:
                message: dict[str, Any] = json.loads(payload)
                if message["event"] == name:
                    return message

    def close_frame(self) -> tuple[int, str]:
        """The server's close frame, which must be the last one, and the end of TCP behind it."""
        frames = list(self.frames())
        assert frames, "no close frame came"
        opcode, payload = frames[-1]
        assert opcode is Opcode.CLOSE
        assert all(other is not Opcode.CLOSE for other, _ in frames[:-1])
        return struct.unpack("!H", payload[:2])[0] if payload else 1005, payload[2:].decode()

    def half_close(self) -> None:
        """Send nothing more, and still read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End with an RST, whatever is on its way."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def frame(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A masked frame."""
    data = build_masked_frame(opcode, payload, os.urandom(4))
    return data if fin else bytes([data[0] & 0x7F]) + data[1:]


def request(
    target: str = "/ws", *headers: str, method: str = "GET", without: tuple[str, ...] = (), version: str = "HTTP/1.1"
) -> bytes:
    """An upgrade request, with more header lines and `without` some of its own."""
    own = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }
    lines = [f"{method} {target} {version}"]
    lines += [f"{name}: {value}" for name, value in own.items() if name not in without]
    return ("\r\n".join([*lines, *headers]) + "\r\n\r\n").encode("latin-1")


def connect(port: int, data: bytes = b"") -> RawLink:
    """A TCP connection, after `data` was sent on it."""
    link = RawLink(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT))
    if data:
        link.send(data)
    return link


def exchange(port: int, data: bytes) -> Response:
    """Send `data` and read the response, to the end of the link."""
    with connect(port, data) as link:
        return link.response()
