"""What the tests of the bytes share: raw frames, good and bad, and two machines that talk to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from roomwire.core.deflate import Deflate
from roomwire.core.websocket import Received, Role, WebSocket

KEY = b"\x37\xfa\x21\x3d"
MAX_MESSAGE = 65_536
MAX_FRAGMENTS = 1024

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
RSV1, RSV2, RSV3 = 0x40, 0x20, 0x10


def raw_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    key: bytes = KEY,
    declared: int | None = None,
    width: int | None = None,
) -> bytes:
    """Any frame, correct or not, made without the code under test.

    Args:
        opcode: any four bits.
        payload: unmasked.
        fin: the FIN bit.
        rsv: RSV bits in place.
        masked: whether the payload is masked with `key`.
        key: four bytes.
        declared: the length that the header says, where that is not the payload's.
        width: bytes of the length, 0, 2 or 8, where that is not the least.
    """
    length = len(payload) if declared is None else declared
    if width is None:
        width = 0 if length < 126 else 2 if length < 65_536 else 8
    short = {0: length, 2: 126, 8: 127}[width]
    head = bytes([(0x80 if fin else 0) | rsv | opcode, (0x80 if masked else 0) | short])
    head += length.to_bytes(width, "big") if width else b""
    if masked:
        payload = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
        head += key
    return head + payload


def machine(
    role: Role = Role.SERVER,
    *,
    max_message_size: int = MAX_MESSAGE,
    max_fragments: int = MAX_FRAGMENTS,
    deflate: Deflate | None = None,
) -> WebSocket:
    """A machine whose masking key is always `KEY`."""
    return WebSocket(
        role,
        max_message_size=max_message_size,
        max_fragments=max_fragments,
        deflate=deflate,
        mask_source=lambda size: KEY[:size],
    )


def bytewise(websocket: WebSocket, data: bytes) -> list[Received]:
    """Feed one byte at a time."""
    return [item for index in range(len(data)) for item in websocket.receive(data[index : index + 1])]


def in_pieces(websocket: WebSocket, data: bytes, cuts: Sequence[int]) -> list[Received]:
    """Feed what lies between the offsets `cuts`."""
    edges = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    return [item for a, b in pairwise(edges) for item in websocket.receive(data[a:b])]


class ConnectionPair:
    """A client and a server; every send says what its peer must see.

    Each end is two machines, one fed whole blocks and one byte by byte, that must always agree.
    """

    def __init__(self, deflate: Deflate | None = None) -> None:
        self.ends = {role: (machine(role, deflate=deflate), machine(role, deflate=deflate)) for role in Role}

    def send(self, role: Role, act: Callable[[WebSocket], bytes], expect: Sequence[Received]) -> bytes:
        """`role` does something, and its peer must see `expect`; returns the peer's answer, not yet delivered."""
        whole, bitwise = (act(end) for end in self.ends[role])
        assert whole == bitwise
        return self.deliver(role, whole, expect)

    def deliver(self, role: Role, data: bytes, expect: Sequence[Received]) -> bytes:
        """Bytes of `role` reach its peer, which must see `expect`; returns the peer's answer."""
        other = Role.CLIENT if role is Role.SERVER else Role.SERVER
        whole, by_byte = self.ends[other]
        assert whole.receive(data) == list(expect)
        assert bytewise(by_byte, data) == list(expect)
        answer = whole.data_to_send()
        assert by_byte.data_to_send() == answer
        assert whole.state is by_byte.state
        assert whole.frames_received == by_byte.frames_received
        return answer
