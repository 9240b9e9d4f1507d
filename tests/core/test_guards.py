"""The guards on wsproto's hooks: sizes, fragments, compression bombs (RFC 7692 sections 6 and 7)."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest

from roomwire.core.closing import REASONS
from roomwire.core.deflate import Deflate, compress
from roomwire.core.guards import BoundedDeflate, SizeGuard
from roomwire.core.websocket import Closed, Ping, State
from tests.core.peers import BINARY, CONT, MAX_MESSAGE, PING, RSV1, TEXT, bytewise, machine, raw_frame

DEFLATE = Deflate("permessage-deflate")
TOO_BIG = Closed(1009, REASONS[1009], by_peer=False)
BAD_DATA = Closed(1007, REASONS[1007], by_peer=False)
PROTOCOL_ERROR = Closed(1002, REASONS[1002], by_peer=False)

# The worst of its kind is data that cannot be compressed: it grows.
NOISE = random.Random(1).randbytes(80_000)
ZEROS = bytes(80_000)


def fragments(count: int, payload: bytes = b"") -> bytes:
    """A binary message in `count` frames."""
    first = raw_frame(BINARY, payload, fin=count == 1)
    middle = raw_frame(CONT, payload, fin=False)
    return first + middle * (count - 2) + (raw_frame(CONT, payload) if count > 1 else b"")


class TestSizeGuardB1:
    @pytest.mark.parametrize("declared", [MAX_MESSAGE + 1, 1 << 32, 1 << 62, (1 << 63) - 1])
    def test_a_declared_length_over_the_limit_is_refused_by_the_header(self, declared: int) -> None:
        websocket = machine()
        header = raw_frame(BINARY, declared=declared)
        assert websocket.receive(header) == [TOO_BIG]
        assert not websocket.mid_message

    def test_the_length_alone_suffices_without_the_masking_key(self) -> None:
        assert machine().receive(raw_frame(BINARY, declared=1 << 62)[:10]) == [TOO_BIG]

    def test_the_limit_itself_passes_in_one_or_two_fragments_with_a_ping_between(self) -> None:
        payload = bytes(MAX_MESSAGE)
        assert machine().receive(raw_frame(BINARY, payload)) == [payload]
        half = MAX_MESSAGE // 2
        data = raw_frame(BINARY, payload[:half], fin=False) + raw_frame(PING, b"p") + raw_frame(CONT, payload[half:])
        assert machine().receive(data) == [Ping(b"p"), payload]

    def test_the_limit_holds_for_the_sum_of_the_fragments(self) -> None:
        data = raw_frame(BINARY, bytes(MAX_MESSAGE), fin=False) + raw_frame(CONT, b"x")
        assert machine().receive(data) == [TOO_BIG]

    def test_the_limit_counts_bytes_not_characters(self) -> None:
        websocket = machine(max_message_size=20)
        assert websocket.receive(raw_frame(TEXT, ("é" * 10).encode())) == ["é" * 10]
        assert websocket.receive(raw_frame(TEXT, ("é" * 10 + "a").encode())) == [TOO_BIG]

    def test_control_frames_do_not_count(self) -> None:
        websocket = machine(max_message_size=10, max_fragments=2)
        ping = raw_frame(PING, bytes(125)) * 5
        data = raw_frame(BINARY, b"12345", fin=False) + ping + raw_frame(CONT, b"67890")
        assert websocket.receive(data) == [Ping(bytes(125))] * 5 + [b"1234567890"]

    def test_counters_are_back_at_zero_after_messages_fed_byte_by_byte(self) -> None:
        websocket = machine(max_message_size=10, max_fragments=2)
        message = raw_frame(TEXT, b"12345", fin=False) + raw_frame(PING) + raw_frame(CONT, b"67890")
        for _ in range(3):
            assert bytewise(websocket, message) == [Ping(), "1234567890"]

    def test_counters_are_back_at_zero_while_the_machine_stays_busy(self) -> None:
        websocket = machine(max_message_size=10, max_fragments=2)
        message = raw_frame(TEXT, b"12345", fin=False) + raw_frame(CONT, b"67890")
        data = message * 3
        received = []
        for index in range(0, len(data), 7):
            received += websocket.receive(data[index : index + 7])
        assert received == ["1234567890"] * 3


class TestFragmentsB5:
    def test_1024_pass(self) -> None:
        assert machine().receive(fragments(1024)) == [b""]
        assert machine().receive(fragments(1024, b"x")) == [b"x" * 1024]

    @pytest.mark.parametrize("payload", [b"", b"x"])
    def test_1025_are_too_many_empty_ones_included(self, payload: bytes) -> None:
        assert machine().receive(fragments(1025, payload)) == [TOO_BIG]

    def test_a_limit_of_one_allows_whole_messages_only(self) -> None:
        websocket = machine(max_fragments=1)
        assert websocket.receive(raw_frame(TEXT, b"x")) == ["x"]
        assert websocket.receive(raw_frame(TEXT, b"x", fin=False)) == []
        assert websocket.receive(raw_frame(CONT, b"x")) == [TOO_BIG]

    def test_pieces_of_a_byte_take_no_more_memory_than_their_message(self) -> None:
        websocket = machine()
        data = raw_frame(BINARY, bytes(MAX_MESSAGE))[:-1]
        websocket.receive(data[:100])
        tracemalloc.start()
        try:
            for index in range(100, len(data), 2):
                websocket.receive(data[index : index + 2])
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < MAX_MESSAGE * 2


def deflated(message: bytes) -> bytes:
    return raw_frame(BINARY, compress(message), rsv=RSV1)


class TestBoundedDeflateB2:
    def test_a_bomb_of_64_mib_is_refused_at_a_small_peak(self) -> None:
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        block = bytes(1 << 20)
        bomb = b"".join(compressor.compress(block) for _ in range(64)) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
        data = raw_frame(BINARY, bomb, rsv=RSV1)
        websocket = machine(deflate=DEFLATE)
        tracemalloc.start()
        try:
            received = websocket.receive(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert received == [TOO_BIG]
        assert peak < 512 * 1024

    @pytest.mark.parametrize("source", [ZEROS, NOISE], ids=["compressible", "random"])
    @pytest.mark.parametrize("size", [0, 1, 65_535, 65_536])
    def test_up_to_the_limit_passes(self, source: bytes, size: int) -> None:
        data = deflated(source[:size])
        assert machine(deflate=DEFLATE).receive(data) == [source[:size]]
        half = len(data) // 2
        websocket = machine(deflate=DEFLATE)
        assert websocket.receive(data[:half]) + websocket.receive(data[half:]) == [source[:size]]

    @pytest.mark.parametrize("source", [ZEROS, NOISE], ids=["compressible", "random"])
    @pytest.mark.parametrize("size", [65_537, 65_538, 65_540, 70_000])
    def test_over_the_limit_fails(self, source: bytes, size: int) -> None:
        assert machine(deflate=DEFLATE).receive(deflated(source[:size])) == [TOO_BIG]

    def test_what_the_last_flush_gives_counts_too(self) -> None:
        # A stored block without its end: zlib holds these bytes until the tail completes them.
        websocket = machine(max_message_size=4, deflate=DEFLATE)
        payload = compress(b"12345")
        cut = [raw_frame(BINARY, payload[:1], fin=False, rsv=RSV1)]
        cut += [raw_frame(CONT, bytes([byte]), fin=False) for byte in payload[1:-1]]
        cut.append(raw_frame(CONT, payload[-1:]))
        assert websocket.receive(b"".join(cut)) == [TOO_BIG]

    def test_on_the_wire_a_compressed_message_is_bounded_as_well(self) -> None:
        header = raw_frame(BINARY, rsv=RSV1, declared=MAX_MESSAGE + MAX_MESSAGE // 8 + 65)
        assert machine(deflate=DEFLATE).receive(header) == [TOO_BIG]

    def test_data_that_does_not_inflate_is_1007(self) -> None:
        assert machine(deflate=DEFLATE).receive(raw_frame(BINARY, b"\xff" * 10, rsv=RSV1)) == [BAD_DATA]

    def test_data_whose_end_does_not_inflate_is_1007(self) -> None:
        # A stored block of 65,535 bytes that never come: the tail is taken for its first ones.
        stored = raw_frame(BINARY, b"\x00\x04\x00\xfa\xff", rsv=RSV1)
        assert machine(deflate=DEFLATE).receive(stored) == [BAD_DATA]

    def test_text_is_checked_after_inflation(self) -> None:
        data = raw_frame(TEXT, compress(b"\xff"), rsv=RSV1)
        assert machine(deflate=DEFLATE).receive(data) == [BAD_DATA]

    def test_the_window_is_the_largest_however_the_bytes_are_cut(self) -> None:
        far = NOISE[:1000] + NOISE[:1000]
        agreed = Deflate("permessage-deflate", 9, 9)
        assert machine(deflate=agreed).receive(deflated(far)) == [far]
        assert bytewise(machine(deflate=agreed), deflated(far)) == [far]


class TestControlFramesInCompressedMessagesB3:
    @pytest.mark.parametrize(("opcode", "message"), [(TEXT, "héllo" * 20), (BINARY, b"\xff" * 100)])
    def test_a_ping_between_fragments_changes_nothing(self, opcode: int, message: str | bytes) -> None:
        payload = compress(message.encode() if isinstance(message, str) else message)
        half = len(payload) // 2
        data = raw_frame(opcode, payload[:half], fin=False, rsv=RSV1)
        data += raw_frame(PING, b"between") + raw_frame(CONT, payload[half:])
        assert machine(deflate=DEFLATE).receive(data) == [Ping(b"between"), message]
        assert bytewise(machine(deflate=DEFLATE), data) == [Ping(b"between"), message]

    def test_plain_and_compressed_messages_mixed_with_pings(self) -> None:
        websocket = machine(deflate=DEFLATE)
        plain = raw_frame(TEXT, b"pl", fin=False) + raw_frame(PING) + raw_frame(CONT, b"ain")
        data = (plain + deflated(b"packed") + raw_frame(PING) + raw_frame(TEXT, b"short")) * 3
        assert bytewise(websocket, data) == [Ping(), "plain", b"packed", Ping(), "short"] * 3

    def test_many_fragments(self) -> None:
        payload = compress(NOISE[:500])
        data = raw_frame(BINARY, payload[:1], fin=False, rsv=RSV1)
        data += b"".join(raw_frame(CONT, bytes([byte]), fin=False) for byte in payload[1:])
        data += raw_frame(CONT)
        assert machine(deflate=DEFLATE).receive(data) == [NOISE[:500]]

    @pytest.mark.parametrize(
        "data",
        [
            raw_frame(PING, rsv=RSV1),
            raw_frame(BINARY, compress(b"x")[:2], fin=False, rsv=RSV1) + raw_frame(CONT, b"", rsv=RSV1),
            raw_frame(BINARY, compress(b"x")[:2], fin=False, rsv=RSV1) + raw_frame(BINARY, b"x", rsv=RSV1),
            raw_frame(BINARY, b"x", fin=False) + raw_frame(BINARY, compress(b"x"), rsv=RSV1),
        ],
        ids=["control", "continuation", "second message", "compressed in plain"],
    )
    def test_rsv1_elsewhere_than_on_a_first_frame_is_1002(self, data: bytes) -> None:
        assert machine(deflate=DEFLATE).receive(data) == [PROTOCOL_ERROR]

    def test_rsv1_without_an_agreement_is_1002(self) -> None:
        assert machine().receive(deflated(b"x")) == [PROTOCOL_ERROR]


class TestFinalBlocksB4:
    # RFC 7692 section 7.2.3.4: "Hello" in a final block, and the byte that its padding takes.
    HELLO = bytes.fromhex("f348cdc9c9070000")[:8]

    def test_messages_that_end_in_a_final_block(self) -> None:
        websocket = machine(deflate=DEFLATE)
        final = zlib.compressobj(9, zlib.DEFLATED, -15)
        ended = final.compress(b"abc") + final.flush()
        data = raw_frame(TEXT, self.HELLO, rsv=RSV1) + raw_frame(TEXT, ended, rsv=RSV1) + deflated(b"next")
        assert websocket.receive(data) == ["Hello", "abc", b"next"]
        assert bytewise(machine(deflate=DEFLATE), data) == ["Hello", "abc", b"next"]

    def test_bytes_behind_a_final_block_are_not_dropped_in_silence(self) -> None:
        final = zlib.compressobj(9, zlib.DEFLATED, -15)
        ended = final.compress(b"abc") + final.flush()
        assert machine(deflate=DEFLATE).receive(raw_frame(TEXT, ended + compress(b"def"), rsv=RSV1)) == [BAD_DATA]


class TestNoStateOutlivesItsMessageB19:
    def test_the_machine_is_as_small_as_before(self) -> None:
        websocket = machine(deflate=DEFLATE)
        assert websocket.receive(deflated(NOISE[:1000])) == [NOISE[:1000]]
        assert not websocket.mid_message
        assert websocket.state is State.OPEN


class TestTheHooks:
    def test_are_on_and_never_offered(self) -> None:
        for extension in (SizeGuard(1, 1), BoundedDeflate(1)):
            assert extension.enabled()
            assert extension.offer() is False
