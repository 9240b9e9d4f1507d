"""Requests as bytes, and their responses."""

from __future__ import annotations

from tests.fallback.apps import Played
from tests.server.live import LiveServer
from tests.server.raw import RawLink, Response

__all__ = ["CLOSE", "ask", "chunks", "read_cut", "read_response", "release", "wait_for"]

CLOSE = "Connection: close"


def ask(path: str = "/", *lines: str, method: str = "GET", version: str = "1.1", body: bytes = b"") -> bytes:
    return ("\r\n".join([f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *lines]) + "\r\n\r\n").encode() + body


def read_response(link: RawLink) -> Response:
    """One response with a length, of a connection that goes on."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = link.read(1)
        assert piece, f"the link ended: {head!r}"
        head += piece
    response = Response.parse(head)
    return Response(response.status, response.headers, link.read(int(response.header("content-length") or 0)))


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def wait_for(server: LiveServer, played: Played, gate: str) -> None:
    async def wait() -> None:
        await played.gate(gate).wait()

    server.call(wait)


def release(server: LiveServer, played: Played, gate: str = "release") -> None:
    server.call(lambda: played.gate(gate).set())


def read_cut(link: RawLink) -> bytes:
    data = b""
    try:
        while piece := link.sock.recv(65_536):
            data += piece
    except ConnectionResetError:
        pass
    return data
