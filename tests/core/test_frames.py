"""Building frames and the fast lane (RFC 6455 sections 5.2 and 5.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.errors import LocalError
from roomwire.core.frames import (
    PING,
    Opcode,
    Received,
    Role,
    binary_frame,
    build_frame,
    build_masked_frame,
    frame_size,
    take_simple_frames,
    text_frame,
    unmask,
)
from tests.core.peers import (
    BINARY,
    CLOSE,
    CONT,
    KEY,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    raw_frame,
)
from tests.core.peers import PING as PING_OPCODE

LENGTHS = (0, 1, 125, 126, 127, 65_535, 65_536, 70_000)


def take(data: bytes, limit: int = 100_000, role: Role = Role.SERVER, start: int = 0) -> tuple[list[Received], int]:
    received: list[Received] = []
    return received, take_simple_frames(data, start, limit, received, role)


class TestBuilding52:
    @pytest.mark.parametrize("length", LENGTHS)
    def test_lengths_take_the_fewest_bytes(self, length: int) -> None:
        payload = b"\xff" * length
        assert build_frame(Opcode.BINARY, payload) == raw_frame(BINARY, payload, masked=False)
        assert binary_frame(payload) == raw_frame(BINARY, payload, masked=False)
        assert build_masked_frame(Opcode.BINARY, payload, KEY) == raw_frame(BINARY, payload)

    def test_examples_of_section_5_7(self) -> None:
        assert text_frame("Hello") == bytes.fromhex("810548656c6c6f")
        assert build_masked_frame(Opcode.TEXT, b"Hello", KEY) == bytes.fromhex("818537fa213d7f9f4d5158")
        assert build_frame(Opcode.TEXT, b"Hel", fin=False) == bytes.fromhex("010348656c")
        assert build_frame(Opcode.CONTINUATION, b"lo") == bytes.fromhex("80026c6f")
        assert build_frame(Opcode.PING, b"Hello") == bytes.fromhex("890548656c6c6f")

    def test_reserved_bit_of_compression(self) -> None:
        assert build_frame(Opcode.TEXT, b"x", rsv1=True) == b"\xc1\x01x"
        assert build_masked_frame(Opcode.TEXT, b"x", b"\0\0\0\0", rsv1=True) == b"\xc1\x81\0\0\0\0x"

    def test_text_from_str_and_bytes_is_the_same(self) -> None:
        assert text_frame("été") == text_frame("été".encode()) == raw_frame(TEXT, "été".encode(), masked=False)

    def test_text_with_a_lone_surrogate_is_the_callers_error(self) -> None:
        with pytest.raises(LocalError, match="surrogate"):
            text_frame("\ud800")

    def test_empty_ping(self) -> None:
        assert PING == b"\x89\x00"


class TestMasking53:
    @given(st.binary(max_size=2000), st.binary(min_size=4, max_size=4))
    def test_is_the_exclusive_or_of_the_repeated_key(self, payload: bytes, key: bytes) -> None:
        assert unmask(payload, key) == bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))

    @pytest.mark.parametrize("length", [599, 600, 601, 602, 603, 65_536])
    def test_long_payloads(self, length: int) -> None:
        payload = bytes(index % 251 for index in range(length))
        assert unmask(payload, KEY) == bytes(byte ^ KEY[index % 4] for index, byte in enumerate(payload))


class TestFastLane:
    @pytest.mark.parametrize("role", list(Role))
    @pytest.mark.parametrize("length", LENGTHS)
    def test_takes_whole_data_frames(self, role: Role, length: int) -> None:
        masked = role is Role.SERVER
        data = raw_frame(TEXT, b"a" * length, masked=masked) + raw_frame(BINARY, b"\xff" * length, masked=masked)
        assert take(data, role=role) == (["a" * length, b"\xff" * length], len(data))

    def test_starts_anywhere_and_stops_before_what_is_cut(self) -> None:
        first, second = raw_frame(TEXT, b"one"), raw_frame(TEXT, b"two")
        data = b"junk" + first + second
        for missing in range(1, len(second) + 1):
            assert take(data[:-missing], start=4) == (["one"], 4 + len(first))

    @pytest.mark.parametrize("length", LENGTHS)
    @pytest.mark.parametrize("role", list(Role))
    def test_takes_no_frame_that_is_cut_anywhere_in_its_header(self, role: Role, length: int) -> None:
        data = raw_frame(TEXT, b"a" * length, masked=role is Role.SERVER)
        for size in range(min(len(data), 16)):
            assert take(data[:size], role=role) == ([], 0)

    @pytest.mark.parametrize(
        "data",
        [
            raw_frame(TEXT, b"x", fin=False),
            raw_frame(CONT, b"x"),
            raw_frame(CLOSE, b"\x03\xe8"),
            raw_frame(PING_OPCODE, b"x"),
            raw_frame(0x3, b"x"),
            raw_frame(TEXT, b"x", rsv=RSV1),
            raw_frame(TEXT, b"x", rsv=RSV2),
            raw_frame(BINARY, b"x", rsv=RSV3),
            raw_frame(TEXT, b"x" * 8, masked=False),
            raw_frame(TEXT, b"x" * 125, width=2),
            raw_frame(TEXT, b"x" * 126, width=8),
            raw_frame(TEXT, b"x" * 65_535, width=8),
            raw_frame(TEXT, b"x", declared=1 << 62),
            raw_frame(TEXT, b"x" * 20, declared=1 << 63, width=8),
            raw_frame(TEXT, b"\xff"),
            raw_frame(TEXT, b"\xed\xa0\x80"),
            raw_frame(TEXT, "é".encode()[:1]),
        ],
    )
    def test_leaves_all_else_where_it_is(self, data: bytes) -> None:
        good = raw_frame(BINARY, b"good")
        assert take(good + data + good) == ([b"good"], len(good))

    def test_a_client_takes_no_masked_frame(self) -> None:
        assert take(raw_frame(TEXT, b"x"), role=Role.CLIENT) == ([], 0)

    def test_the_limit_counts_payload_bytes(self) -> None:
        text = "é" * 10
        assert take(raw_frame(TEXT, text.encode()), limit=20)[0] == [text]
        assert take(raw_frame(TEXT, text.encode()), limit=19) == ([], 0)


class TestFrameSize:
    @pytest.mark.parametrize("masked", [True, False])
    @pytest.mark.parametrize("length", LENGTHS)
    def test_is_known_with_the_header_and_not_before(self, masked: bool, length: int) -> None:
        data = raw_frame(BINARY, bytes(length), masked=masked)
        header = len(data) - length
        for size in range(header):
            assert frame_size(data[:size]) == 0
        for size in range(header, min(len(data), 20) + 1):
            assert frame_size(data[:size]) == len(data)
