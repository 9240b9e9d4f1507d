"""Framing: one 180-byte text message, in and out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import wsproto
from pytest_benchmark.fixture import BenchmarkFixture
from websockets.frames import Frame
from websockets.frames import Opcode as FrameOpcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from wsproto.connection import ConnectionType
from wsproto.events import TextMessage

from roomwire.core.frames import Opcode, Role, build_masked_frame, text_frame
from roomwire.core.websocket import WebSocket

TEXT = "x" * 180
FRAME = build_masked_frame(Opcode.TEXT, TEXT.encode(), b"\x12\x34\x56\x78")


def roomwire_decode() -> Callable[[], object]:
    machine = WebSocket(Role.SERVER, max_message_size=65_536, max_fragments=1024)
    return lambda: machine.receive(FRAME)


def wsproto_decode() -> Callable[[], object]:
    connection = wsproto.Connection(ConnectionType.SERVER)

    def decode() -> object:
        connection.receive_data(FRAME)
        return list(connection.events())

    return decode


def websockets_decode() -> Callable[[], object]:
    protocol = ServerProtocol(state=State.OPEN)

    def decode() -> object:
        protocol.receive_data(FRAME)
        return protocol.events_received()

    return decode


def roomwire_encode() -> Callable[[], object]:
    return lambda: text_frame(TEXT)


def wsproto_encode() -> Callable[[], object]:
    connection = wsproto.Connection(ConnectionType.SERVER)
    return lambda: connection.send(TextMessage(data=TEXT))


def websockets_encode() -> Callable[[], object]:
    return lambda: Frame(FrameOpcode.TEXT, TEXT.encode()).serialize(mask=False)


@pytest.mark.benchmark(group="decode a 180-byte frame")
@pytest.mark.parametrize("make", [roomwire_decode, wsproto_decode, websockets_decode], ids=lambda make: make.__name__)
def test_decode(benchmark: BenchmarkFixture, make: Callable[[], Callable[[], object]]) -> None:
    assert benchmark(make())


@pytest.mark.benchmark(group="encode a 180-byte frame")
@pytest.mark.parametrize("make", [roomwire_encode, wsproto_encode, websockets_encode], ids=lambda make: make.__name__)
def test_encode(benchmark: BenchmarkFixture, make: Callable[[], Callable[[], object]]) -> None:
    assert benchmark(make())
