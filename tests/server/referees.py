"""Clients that nobody here wrote, behind one blocking interface."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio.from_thread
import websocket
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.servers import NODE

__all__ = ["REFEREES", "Referee", "Refused"]

TIMEOUT = 60.0
"""Seconds that a receive waits at the most; reached only where a test fails."""
JS = Path(__file__).parents[1] / "js"


@dataclass
class Refused(Exception):
    """The server answered with another status than 101.

    Attributes:
        status: the status.
        headers: names in lower case; empty where the library does not show them.
        body: the response's, empty where the library does not show it.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


class Referee(ABC):
    """One library. Open once, then send and receive; what it holds ends with its `stack`."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack

    @abstractmethod
    def connect(self, url: str, *, protocols: Sequence[str], headers: Mapping[str, str]) -> str | None:
        """Open a WebSocket; returns the subprotocol that was selected.

        Raises:
            Refused: the server did.
        """

    @abstractmethod
    def send(self, text: str) -> None:
        """Send a text message."""

    @abstractmethod
    def receive(self) -> str:
        """The next message."""

    @abstractmethod
    def closed(self) -> tuple[int, str]:
        """Read to the end; the close code and reason."""

    @abstractmethod
    def close(self) -> None:
        """An orderly close with 1000; returns when the link has ended."""

    def event(self, name: str) -> dict[str, Any]:
        """The next message of that event."""
        while True:
            message: dict[str, Any] = json.loads(self.receive())
            if message["event"] == name:
                return message


class WebsocketsReferee(Referee):
    """`websockets`, on asyncio."""

    def connect(self, url: str, *, protocols: Sequence[str], headers: Mapping[str, str]) -> str | None:
        self._portal = self.stack.enter_context(anyio.from_thread.start_blocking_portal())

        async def connect() -> websockets.asyncio.client.ClientConnection:
            return await websockets.asyncio.client.connect(
                url,
                subprotocols=[Subprotocol(name) for name in protocols] or None,
                additional_headers=headers,
                proxy=None,
                compression=None,
            )

        try:
            self._connection = self._portal.call(connect)
        except InvalidStatus as error:
            response = error.response
            shown = {name.lower(): value for name, value in response.headers.raw_items()}
            raise Refused(response.status_code, shown, bytes(response.body or b"").decode()) from None
        self.stack.callback(lambda: self._portal.call(self._connection.close))
        return self._connection.subprotocol

    def send(self, text: str) -> None:
        self._portal.call(self._connection.send, text)

    def receive(self) -> str:
        message = self._portal.call(self._connection.recv)
        assert isinstance(message, str)
        return message

    def closed(self) -> tuple[int, str]:
        try:
            while True:
                self._portal.call(self._connection.recv)
        except ConnectionClosed:
            received = self._connection.protocol.close_rcvd
        assert received is not None
        return received.code, received.reason

    def close(self) -> None:
        self._portal.call(self._connection.close)


class AiohttpReferee(Referee):
    """aiohttp's client."""

    def connect(self, url: str, *, protocols: Sequence[str], headers: Mapping[str, str]) -> str | None:
        self._portal = self.stack.enter_context(anyio.from_thread.start_blocking_portal())

        async def open_session() -> aiohttp.ClientSession:
            return aiohttp.ClientSession()

        self._session = self._portal.call(open_session)
        self.stack.callback(lambda: self._portal.call(self._session.close))

        async def connect() -> aiohttp.ClientWebSocketResponse:
            return await self._session.ws_connect(url, protocols=protocols, headers=headers)

        try:
            self._socket = self._portal.call(connect)
        except aiohttp.WSServerHandshakeError as error:
            shown = {name.lower(): value for name, value in (error.headers or {}).items()}
            raise Refused(error.status, shown) from None
        return self._socket.protocol

    def send(self, text: str) -> None:
        self._portal.call(self._socket.send_str, text)

    def receive(self) -> str:
        return self._portal.call(self._socket.receive_str)

    def closed(self) -> tuple[int, str]:
        async def read() -> aiohttp.WSMessage:
            return await self._socket.receive(TIMEOUT)

        while True:
            message = self._portal.call(read)
            if message.type is aiohttp.WSMsgType.CLOSE:
                return message.data, message.extra or ""
            assert message.type is aiohttp.WSMsgType.TEXT, message

    def close(self) -> None:
        self._portal.call(self._socket.close)


class WebsocketClientReferee(Referee):
    """The package `websocket-client`."""

    def connect(self, url: str, *, protocols: Sequence[str], headers: Mapping[str, str]) -> str | None:
        try:
            self._socket = websocket.create_connection(
                url, timeout=TIMEOUT, subprotocols=list(protocols) or None, header=dict(headers)
            )
        except websocket.WebSocketBadStatusException as error:
            body = error.resp_body
            raise Refused(error.status_code, error.resp_headers or {}, body.decode() if body else "") from None
        self.stack.callback(self._socket.shutdown)
        selected: str | None = self._socket.getsubprotocol()
        return selected

    def send(self, text: str) -> None:
        self._socket.send(text)

    def receive(self) -> str:
        message = self._socket.recv()
        assert isinstance(message, str)
        return message

    def closed(self) -> tuple[int, str]:
        while True:
            opcode, payload = self._socket.recv_data(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    def close(self) -> None:
        self._socket.close(timeout=TIMEOUT)


class NpmWsReferee(Referee):
    """npm's ws, in a node process."""

    def connect(self, url: str, *, protocols: Sequence[str], headers: Mapping[str, str]) -> str | None:
        process = subprocess.Popen(
            [NODE.require(), str(JS / "referee.js")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._process = process
        self._happened: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        reader = threading.Thread(target=self._read)
        reader.start()
        self.stack.callback(self._end, reader)
        self._order("connect", url=url, protocols=list(protocols), headers=dict(headers))
        answer = self._next()
        if "refused" in answer:
            refused = answer["refused"]
            raise Refused(refused["status"], refused["headers"], refused["body"])
        selected: str = answer["opened"]
        return selected or None

    def _end(self, reader: threading.Thread) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(TIMEOUT)
        reader.join(TIMEOUT)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._happened.put(json.loads(line))

    def _order(self, command: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": command, **fields}) + "\n")
        self._process.stdin.flush()

    def _next(self) -> dict[str, Any]:
        return self._happened.get(timeout=TIMEOUT)

    def send(self, text: str) -> None:
        self._order("send", text=text)

    def receive(self) -> str:
        happened = self._next()
        assert "message" in happened, happened
        message: str = happened["message"]
        return message

    def closed(self) -> tuple[int, str]:
        while "closed" not in (happened := self._next()):
            assert "message" in happened, happened
        code, reason = happened["closed"]
        return code, reason

    def close(self) -> None:
        self._order("close", code=1000)
        self.closed()


REFEREES: dict[str, type[Referee]] = {
    "websockets": WebsocketsReferee,
    "aiohttp": AiohttpReferee,
    "websocket-client": WebsocketClientReferee,
    "ws": NpmWsReferee,
}


@contextmanager
def referee(name: str) -> Iterator[Referee]:
    """One client of that library; all that it holds ends with the block."""
    with ExitStack() as stack:
        yield REFEREES[name](stack)
