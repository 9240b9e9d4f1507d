"""The machine with its fast lane against wsproto alone behind the same guards, and against `websockets`.

For any sequence of frames, good and bad, cut anywhere: the same messages, the same close code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.frames import Opcode as PeerOpcode
from websockets.protocol import OPEN, Protocol, Side
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.events import Ping as WsprotoPing
from wsproto.events import Pong as WsprotoPong
from wsproto.extensions import Extension

from roomwire.core.deflate import Deflate, compress
from roomwire.core.guards import BoundedDeflate, SizeGuard
from roomwire.core.websocket import Closed, Ping, Pong, Received, Role, State
from tests.core.peers import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    RSV1,
    RSV2,
    TEXT,
    in_pieces,
    machine,
    raw_frame,
)

MAX_MESSAGE = 300
MAX_FRAGMENTS = 4
DEFLATE = Deflate("permessage-deflate")


class Reference:
    """wsproto.Connection with the same guards, and nothing else."""

    def __init__(self, role: Role, deflate: bool) -> None:
        extensions: list[Extension] = [SizeGuard(MAX_MESSAGE, MAX_FRAGMENTS)]
        if deflate:
            extensions.append(BoundedDeflate(MAX_MESSAGE))
        side = ConnectionType.CLIENT if role is Role.CLIENT else ConnectionType.SERVER
        self.connection = Connection(side, extensions)
        self.parts: list[Any] = []
        self.received: list[Received] = []
        self.ended = False

    def receive(self, data: bytes) -> None:
        if self.ended:
            return
        self.connection.receive_data(data)
        for event in self.connection.events():
            if isinstance(event, TextMessage | BytesMessage):
                self.parts.append(event.data)
                if event.message_finished:
                    self.received.append(self.parts[0][:0].join(self.parts))
                    self.parts = []
            elif isinstance(event, WsprotoPing):
                self.received.append(Ping(bytes(event.payload)))
            elif isinstance(event, WsprotoPong):
                self.received.append(Pong(bytes(event.payload)))
            elif isinstance(event, CloseConnection):
                self.received.append(Closed(event.code, "", self.connection.state is not ConnectionState.OPEN))
                self.ended = True


def without_reason(received: list[Received]) -> list[Received]:
    """Reasons differ on purpose: ours are fixed texts."""
    return [Closed(item.code, "", item.by_peer) if isinstance(item, Closed) else item for item in received]


@dataclass
class Traffic:
    """What a peer sends, and where it is cut."""

    data: bytes
    cuts: list[int]


short_text = st.text(max_size=30).map(str.encode)
long_text = st.integers(100, 320).map(lambda size: b"t" * size)
texts = short_text | long_text
blobs = st.binary(max_size=30) | st.sampled_from([125, 126, 299, 300, 301]).map(bytes)
close_payloads = st.sampled_from(
    [b"", b"\x03", b"\x03\xe8", b"\x03\xe8bye", b"\x03\xe8\xff", b"\x03\xed", b"\x0f\xa1", b"\x03\xf6"]
)


def frames(masked: bool) -> st.SearchStrategy[bytes]:
    """One frame, or one message in fragments; most are good."""

    def frame(opcode: int, payload: bytes, **kwargs: Any) -> bytes:
        return raw_frame(opcode, payload, masked=kwargs.pop("masked", masked), **kwargs)

    def fragmented(opcode: int, parts: list[bytes], ping: bool, rsv: int = 0) -> bytes:
        last = len(parts) - 1
        return b"".join(
            frame(CONT if index else opcode, part, fin=index == last, rsv=0 if index else rsv)
            + (frame(PING, b"between") if ping and index < last else b"")
            for index, part in enumerate(parts)
        )

    def packed(payload: bytes, size: int, ping: bool) -> bytes:
        squeezed = compress(payload)
        parts = [squeezed[at : at + size] for at in range(0, len(squeezed), size)]
        return fragmented(BINARY, parts, ping, RSV1)

    good = st.one_of(
        texts.map(lambda payload: frame(TEXT, payload)),
        blobs.map(lambda payload: frame(BINARY, payload)),
        st.builds(fragmented, st.sampled_from([TEXT, BINARY]), st.lists(texts, min_size=2, max_size=5), st.booleans()),
        st.builds(lambda op, payload: frame(op, payload), st.sampled_from([PING, PONG]), st.binary(max_size=125)),
    )
    bad = st.one_of(
        st.binary(max_size=20).map(lambda payload: frame(TEXT, payload)),
        st.builds(lambda rsv, payload: frame(TEXT, payload, rsv=rsv), st.sampled_from([RSV1, RSV2]), texts),
        st.builds(packed, blobs | st.just(bytes(5000)), st.integers(8, 400), st.booleans()),
        st.builds(lambda op, payload: frame(op, payload), st.integers(0, 15), st.binary(max_size=130)),
        st.builds(lambda op, payload: frame(op, payload, fin=False), st.integers(0, 15), st.binary(max_size=9)),
        blobs.map(lambda payload: frame(BINARY, payload, width=8)),
        short_text.map(lambda payload: frame(TEXT, payload, masked=not masked)),
        st.sampled_from([301, 70_000, 1 << 40, 1 << 63]).map(lambda n: frame(BINARY, b"", declared=n, width=8)),
        close_payloads.map(lambda payload: frame(CLOSE, payload)),
        st.binary(max_size=30),
    )
    return good | good | good | bad


@st.composite
def traffic(draw: st.DrawFn, masked: bool) -> Traffic:
    data = b"".join(draw(st.lists(frames(masked), max_size=8)))
    if data and draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
    return Traffic(data, draw(st.lists(st.integers(0, len(data)), max_size=8)))


def assert_equal(sent: Traffic, role: Role, deflate: bool) -> None:
    reference = Reference(role, deflate)
    reference.receive(sent.data)
    agreed = DEFLATE if deflate else None
    for cuts in ([], sent.cuts, list(range(len(sent.data)))):
        websocket = machine(role, max_message_size=MAX_MESSAGE, max_fragments=MAX_FRAGMENTS, deflate=agreed)
        assert without_reason(in_pieces(websocket, sent.data, cuts)) == reference.received
        assert (websocket.state is State.CLOSED) == reference.ended


class TestAgainstWsprotoAlone:
    @given(traffic(masked=True), st.booleans())
    def test_as_a_server(self, sent: Traffic, deflate: bool) -> None:
        assert_equal(sent, Role.SERVER, deflate)

    @given(traffic(masked=False), st.booleans())
    def test_as_a_client(self, sent: Traffic, deflate: bool) -> None:
        assert_equal(sent, Role.CLIENT, deflate)

    def test_the_reference_sees_both_good_and_bad(self) -> None:
        """Lest the two agree on nothing at all."""
        reference = Reference(Role.SERVER, deflate=True)
        reference.receive(
            raw_frame(TEXT, b"a") + raw_frame(BINARY, compress(b"b"), rsv=RSV1) + raw_frame(TEXT, b"\xff")
        )
        assert reference.received == ["a", b"b", Closed(1007, "", by_peer=False)]


messages = st.lists(st.text(max_size=200) | st.binary(max_size=200) | st.integers(1000, 5000).map(lambda n: "m" * n))


def peer_of(role: Role, deflate: bool) -> Protocol:
    protocol = Protocol(Side.CLIENT if role is Role.SERVER else Side.SERVER, state=OPEN, max_size=None)
    if deflate:
        protocol.extensions = [PerMessageDeflate(True, True, 15, 15)]
    return protocol


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("deflate", [False, True])
class TestAgainstWebsockets:
    @given(messages, st.lists(st.integers(0, 2000), max_size=5))
    def test_what_it_sends_is_read(self, role: Role, deflate: bool, sent: list[str | bytes], cuts: list[int]) -> None:
        peer = peer_of(role, deflate)
        for message in sent:
            if isinstance(message, str):
                peer.send_text(message.encode())
            else:
                peer.send_binary(message)
        peer.send_ping(b"p")
        peer.send_close(1000, "bye")
        websocket = machine(role, deflate=DEFLATE if deflate else None)
        received = in_pieces(websocket, b"".join(peer.data_to_send()), cuts)
        assert received == [*sent, Ping(b"p"), Closed(1000, "bye", by_peer=True)]
        peer.receive_data(websocket.data_to_send())
        events = [event for event in peer.events_received() if isinstance(event, Frame)]
        assert [event.opcode for event in events] == [PeerOpcode.PONG, PeerOpcode.CLOSE]
        assert peer.close_rcvd is not None
        assert peer.close_rcvd.code == 1000

    @given(messages)
    def test_what_we_send_is_read(self, role: Role, deflate: bool, sent: list[str | bytes]) -> None:
        peer = peer_of(role, deflate)
        websocket = machine(role, deflate=DEFLATE if deflate else None)
        for message in sent:
            peer.receive_data(websocket.encode(message))
        peer.receive_data(websocket.ping(b"p") + websocket.close(4001, "é"))
        *data, ping, _ = [event for event in peer.events_received() if isinstance(event, Frame)]
        assert [
            bytes(frame.data).decode() if frame.opcode is PeerOpcode.TEXT else bytes(frame.data) for frame in data
        ] == sent
        assert (ping.opcode, ping.data) == (PeerOpcode.PING, b"p")
        assert peer.close_rcvd is not None
        assert (peer.close_rcvd.code, peer.close_rcvd.reason) == (4001, "é")
        assert websocket.receive(b"".join(peer.data_to_send())) == [Closed(4001, "é", by_peer=False)]
