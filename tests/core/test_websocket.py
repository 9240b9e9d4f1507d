"""The WebSocket machine, by sections of RFC 6455."""

from __future__ import annotations

import gc
import hashlib
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.closing import REASONS
from roomwire.core.deflate import COMPRESS_FROM, Deflate
from roomwire.core.errors import LocalError
from roomwire.core.frames import text_frame
from roomwire.core.websocket import Closed, Ping, Pong, Received, Role, State, WebSocket
from tests.core.peers import (
    BINARY,
    CLOSE,
    CONT,
    KEY,
    MAX_FRAGMENTS,
    MAX_MESSAGE,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    ConnectionPair,
    bytewise,
    in_pieces,
    machine,
    raw_frame,
)

ROLES = list(Role)


def frame_for(role: Role, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A frame as the peer of `role` sends it."""
    return raw_frame(opcode, payload, fin=fin, rsv=rsv, masked=role is Role.SERVER)


def fault(code: int) -> Closed:
    return Closed(code, REASONS[code], by_peer=False)


def close_frame(code: int, reason: str = "", *, masked: bool = False) -> bytes:
    return raw_frame(CLOSE, code.to_bytes(2, "big") + reason.encode(), masked=masked)


class TestMessages56:
    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize(
        "message",
        ["", "Hello", "héllo wörld ✓ 🎉", b"", b"\x00\xff", "a" * 125, b"b" * 126, "c" * 65_535, b"d" * 65_536],
    )
    def test_whole_messages_both_ways(self, role: Role, message: str | bytes) -> None:
        pair = ConnectionPair()
        assert pair.send(role, lambda end: end.encode(message), [message]) == b""

    @pytest.mark.parametrize("role", ROLES)
    def test_many_in_one_block(self, role: Role) -> None:
        pair = ConnectionPair()
        pair.send(role, lambda end: end.encode("a") + end.encode(b"b") + end.encode("c"), ["a", b"b", "c"])

    def test_a_shared_frame_is_what_a_server_encodes_b20(self) -> None:
        assert machine().encode("to all") == text_frame("to all")

    def test_text_with_a_lone_surrogate_is_the_callers_error(self) -> None:
        with pytest.raises(LocalError, match="surrogate"):
            machine().encode("\udfff")

    def test_a_client_needs_a_source_of_masking_keys(self) -> None:
        with pytest.raises(LocalError, match="mask_source"):
            WebSocket(Role.CLIENT, max_message_size=1, max_fragments=1)

    def test_a_client_asks_for_a_new_key_for_each_frame(self) -> None:
        keys = iter([b"1234", b"5678"])
        client = WebSocket(Role.CLIENT, max_message_size=9, max_fragments=9, mask_source=lambda size: next(keys)[:size])
        assert client.encode("a") + client.ping() == raw_frame(TEXT, b"a", key=b"1234") + raw_frame(PING, key=b"5678")

    def test_a_server_masks_nothing(self) -> None:
        server = WebSocket(Role.SERVER, max_message_size=9, max_fragments=9, mask_source=lambda size: KEY[:size])
        assert server.encode(b"x") == b"\x82\x01x"


class TestFragmentation54:
    @pytest.mark.parametrize("role", ROLES)
    def test_joined_with_control_frames_between(self, role: Role) -> None:
        data = frame_for(role, TEXT, "hé".encode()[:2], fin=False) + frame_for(role, PING, b"1")
        data += frame_for(role, CONT, "hé".encode()[2:], fin=False) + frame_for(role, PONG, b"2")
        data += frame_for(role, CONT) + frame_for(role, BINARY, b"next")
        expected: list[Received] = [Ping(b"1"), Pong(b"2"), "hé", b"next"]
        assert machine(role).receive(data) == expected
        assert bytewise(machine(role), data) == expected

    @pytest.mark.parametrize(
        "data",
        [
            raw_frame(CONT, b"x"),
            raw_frame(CONT, b"x", fin=False),
            raw_frame(TEXT, b"x", fin=False) + raw_frame(TEXT, b"y"),
            raw_frame(TEXT, b"x", fin=False) + raw_frame(BINARY, b"y"),
            raw_frame(TEXT, b"x", fin=False) + raw_frame(CONT, b"y") + raw_frame(CONT, b"z"),
        ],
    )
    def test_out_of_order_is_1002(self, data: bytes) -> None:
        assert machine().receive(data)[-1] == fault(1002)
        assert bytewise(machine(), data)[-1] == fault(1002)


class TestFrames52:
    @pytest.mark.parametrize(
        "data",
        [
            *(raw_frame(TEXT, b"x", rsv=rsv) for rsv in (RSV1, RSV2, RSV3)),
            *(raw_frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
            raw_frame(TEXT, b"x", masked=False),
            raw_frame(TEXT, b"x" * 125, width=2),
            raw_frame(TEXT, b"x" * 126, width=8),
            raw_frame(TEXT, declared=1 << 63, width=8),
        ],
    )
    def test_malformed_is_1002(self, data: bytes) -> None:
        for feed in (WebSocket.receive, bytewise):
            websocket = machine()
            assert feed(websocket, raw_frame(TEXT, b"before") + data) == ["before", fault(1002)]
            assert websocket.data_to_send() == close_frame(1002, REASONS[1002])

    def test_a_masked_frame_from_a_server_is_1002(self) -> None:
        client = machine(Role.CLIENT)
        assert client.receive(raw_frame(TEXT, b"x")) == [fault(1002)]
        assert client.data_to_send() == close_frame(1002, REASONS[1002], masked=True)


class TestUtf881:
    @pytest.mark.parametrize(
        "payload", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok \xce\xba\xe1\xbd", b"\xf0\x9f\x8e"]
    )
    def test_bad_text_is_1007(self, payload: bytes) -> None:
        assert machine().receive(raw_frame(TEXT, payload)) == [fault(1007)]
        assert bytewise(machine(), raw_frame(TEXT, payload)) == [fault(1007)]
        cut = raw_frame(TEXT, payload[:1], fin=False) + raw_frame(CONT, payload[1:])
        assert machine().receive(cut) == [fault(1007)]

    def test_it_fails_as_soon_as_it_is_bad(self) -> None:
        data = raw_frame(TEXT, b"good \xff, and much more that never comes")
        websocket = machine()
        assert websocket.receive(data[:12]) == [fault(1007)]
        assert websocket.receive(data[12:]) == []


class TestCloseFrames55:
    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (3000, "é"), (4999, "x" * 123)])
    def test_the_closing_handshake(self, role: Role, code: int, reason: str) -> None:
        pair = ConnectionPair()
        answer = pair.send(role, lambda end: end.close(code, reason), [Closed(code, reason, by_peer=True)])
        peer = Role.CLIENT if role is Role.SERVER else Role.SERVER
        assert all(end.state is State.CLOSING for end in pair.ends[role])
        assert all(end.state is State.CLOSED for end in pair.ends[peer])
        assert pair.deliver(peer, answer, [Closed(code, "", by_peer=False)]) == b""
        assert all(end.state is State.CLOSED for end in pair.ends[role])
        assert all(end.receive_eof() == [] for ends in pair.ends.values() for end in ends)

    def test_without_a_code_is_1005_and_echoed_without(self) -> None:
        websocket = machine()
        assert websocket.receive(raw_frame(CLOSE)) == [Closed(1005, "", by_peer=True)]
        assert websocket.data_to_send() == b"\x88\x00"

    def test_both_sides_close_at_once(self) -> None:
        server, client = machine(), machine(Role.CLIENT)
        from_server, from_client = server.close(1001, "a"), client.close(1000, "b")
        assert server.receive(from_client) == [Closed(1000, "b", by_peer=False)]
        assert client.receive(from_server) == [Closed(1001, "a", by_peer=False)]
        assert server.data_to_send() == client.data_to_send() == b""

    @pytest.mark.parametrize(
        ("payload", "code"),
        [
            (b"\x03", 1002),
            *((code.to_bytes(2, "big"), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)),
            (b"\x03\xe8\xff", 1007),
        ],
    )
    def test_a_bad_one_is_answered_as_an_error(self, payload: bytes, code: int) -> None:
        websocket = machine()
        assert websocket.receive(raw_frame(CLOSE, payload)) == [fault(code)]
        assert websocket.data_to_send() == close_frame(code, REASONS[code])

    def test_1014_from_a_peer_is_an_error_b12(self) -> None:
        # IANA has registered it; wsproto does not know it.
        assert machine().receive(raw_frame(CLOSE, (1014).to_bytes(2, "big"))) == [fault(1002)]

    @pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 99_999])
    def test_a_code_that_may_not_be_sent_is_the_callers_error_b11(self, code: int) -> None:
        websocket = machine()
        with pytest.raises(LocalError, match=str(code)):
            websocket.close(code)
        assert websocket.state is State.OPEN

    @pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4000, 4999])
    def test_codes_that_may_be_sent_b11(self, code: int) -> None:
        assert machine().close(code) == close_frame(code)

    @pytest.mark.parametrize(
        ("reason", "sent"), [("x" * 200, "x" * 123), ("é" * 100, "é" * 61), ("🎉" * 40, "🎉" * 30), ("\ud800", "?")]
    )
    def test_a_reason_is_cut_at_a_characters_boundary_b11(self, reason: str, sent: str) -> None:
        assert machine().close(1000, reason) == close_frame(1000, sent)

    def test_closing_twice_sends_once(self) -> None:
        websocket = machine()
        assert websocket.close(1000)
        assert websocket.close(1001) == b""
        assert websocket.receive(close_frame(1000, masked=True)) == [Closed(1000, "", by_peer=False)]
        assert websocket.close(1001) == b""

    def test_frames_behind_the_peers_close_are_dropped(self) -> None:
        websocket = machine()
        data = close_frame(1000, masked=True) + raw_frame(TEXT, b"late") + raw_frame(PING)
        assert websocket.receive(raw_frame(TEXT, b"before") + data) == ["before", Closed(1000, "", by_peer=True)]
        assert websocket.data_to_send() == close_frame(1000)
        assert websocket.receive(raw_frame(TEXT, b"later")) == []
        assert websocket.data_to_send() == b""

    def test_a_close_between_fragments(self) -> None:
        websocket = machine()
        data = raw_frame(TEXT, b"half", fin=False) + close_frame(1000, masked=True)
        assert websocket.receive(data) == [Closed(1000, "", by_peer=True)]
        assert not websocket.mid_message


class TestPings55:
    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize("payload", [b"", b"x", bytes(125)])
    def test_answered_with_their_payload(self, role: Role, payload: bytes) -> None:
        pair = ConnectionPair()
        peer = Role.CLIENT if role is Role.SERVER else Role.SERVER
        answer = pair.send(role, lambda end: end.ping(payload), [Ping(payload)])
        assert pair.deliver(peer, answer, [Pong(payload)]) == b""

    def test_of_a_block_only_the_latest_16_are_answered(self) -> None:
        websocket = machine()
        payloads = [b"%d" % number for number in range(20)]
        data = b"".join(raw_frame(PING, payload) for payload in payloads) + raw_frame(TEXT, b"x")
        assert websocket.receive(data) == [*map(Ping, payloads), "x"]
        assert websocket.data_to_send() == b"".join(raw_frame(PONG, p, masked=False) for p in payloads[4:])
        assert websocket.data_to_send() == b""

    def test_answered_before_the_close_that_follows_in_the_block(self) -> None:
        websocket = machine()
        websocket.receive(raw_frame(PING, b"1") + close_frame(1000, masked=True))
        assert websocket.data_to_send() == raw_frame(PONG, b"1", masked=False) + close_frame(1000)

    def test_answered_before_the_error_that_follows_in_the_block(self) -> None:
        websocket = machine()
        websocket.receive(raw_frame(PING, b"1") + raw_frame(0x3))
        assert websocket.data_to_send() == raw_frame(PONG, b"1", masked=False) + close_frame(1002, REASONS[1002])

    def test_of_two_blocks_before_a_write_both_answers_go_out(self) -> None:
        websocket = machine()
        websocket.receive(raw_frame(PING, b"1"))
        websocket.receive(raw_frame(PING, b"2"))
        assert websocket.data_to_send() == raw_frame(PONG, b"1", masked=False) + raw_frame(PONG, b"2", masked=False)

    @pytest.mark.parametrize(
        "data",
        [raw_frame(PING, b"x", fin=False), raw_frame(PING, bytes(126)), raw_frame(PONG, declared=1 << 20)],
        ids=["fragmented", "too long", "much too long"],
    )
    def test_malformed_control_frames_are_1002(self, data: bytes) -> None:
        assert machine().receive(data) == [fault(1002)]
        assert bytewise(machine(), data) == [fault(1002)]

    def test_a_payload_that_does_not_fit_is_the_callers_error(self) -> None:
        with pytest.raises(LocalError, match="125"):
            machine().ping(bytes(126))


class TestAfterOurCloseB9:
    def test_late_messages_and_pings_are_dropped_and_not_answered(self) -> None:
        websocket = machine()
        websocket.close(1001)
        late = raw_frame(TEXT, b"late") * 3 + raw_frame(PING) + raw_frame(BINARY, b"late") + raw_frame(PONG)
        assert websocket.receive(late) == []
        assert websocket.receive(raw_frame(TEXT, b"cut", fin=False)[:-1]) == []
        assert websocket.receive_eof() == [Closed(1006, "", by_peer=False)]
        assert websocket.data_to_send() == b""

    def test_late_messages_in_the_block_of_the_peers_close(self) -> None:
        websocket = machine()
        websocket.close(1001)
        data = raw_frame(TEXT, b"late") + raw_frame(PING) + close_frame(1001, masked=True) + raw_frame(TEXT, b"x")
        assert websocket.receive(data) == [Closed(1001, "", by_peer=False)]
        assert websocket.data_to_send() == b""

    def test_a_fault_ends_it_without_a_second_close(self) -> None:
        websocket = machine()
        websocket.close(1001)
        assert websocket.receive(raw_frame(PING) + raw_frame(0x3)) == [fault(1002)]
        assert websocket.data_to_send() == b""
        assert websocket.state is State.CLOSED

    def test_a_message_that_was_open_is_read_to_its_end_and_dropped(self) -> None:
        websocket = machine()
        assert websocket.receive(raw_frame(TEXT, b"a", fin=False)) == []
        websocket.close(1001)
        assert websocket.receive(raw_frame(CONT, b"b") + close_frame(1001, masked=True)) == [
            Closed(1001, "", by_peer=False)
        ]

    @pytest.mark.parametrize("closed", [False, True])
    def test_nothing_is_sent_behind_it(self, closed: bool) -> None:
        websocket = machine()
        websocket.close(1001)
        if closed:
            websocket.receive_eof()
        assert websocket.encode("x") == websocket.encode(b"x") == websocket.ping() == b""


class TestFailing717B7B8:
    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (raw_frame(0x3), 1002),
            (raw_frame(TEXT, b"\xff"), 1007),
            (raw_frame(BINARY, declared=MAX_MESSAGE + 1), 1009),
        ],
    )
    def test_after_it_nothing_is_parsed_or_kept(self, data: bytes, code: int) -> None:
        websocket = machine()
        assert websocket.receive(raw_frame(TEXT, b"x", fin=False) + raw_frame(CONT) + data) == ["x", fault(code)]
        # B8: the reason is a fixed text, none of wsproto's.
        assert websocket.data_to_send() == close_frame(code, REASONS[code])
        assert websocket.state is State.CLOSED
        assert not websocket.mid_message
        frames = websocket.frames_received
        block = bytes(65_536)
        tracemalloc.start()
        try:
            assert [websocket.receive(block) for _ in range(100)] == [[]] * 100
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 65_536
        assert websocket.frames_received == frames
        assert websocket.receive_eof() == []
        assert websocket.close(1000) == websocket.data_to_send() == b""


class TestTheLinkBreaksB10:
    @pytest.mark.parametrize("data", [b"", raw_frame(TEXT, b"x", fin=False), raw_frame(TEXT, b"xyz")[:3], b"\x81"])
    def test_is_1006_once(self, data: bytes) -> None:
        websocket = machine()
        assert websocket.receive(data) == []
        assert websocket.receive_eof() == [Closed(1006, "", by_peer=False)]
        assert websocket.receive_eof() == []
        assert websocket.state is State.CLOSED
        assert not websocket.mid_message
        assert websocket.receive(raw_frame(TEXT, b"late")) == []


class TestCountersB6B25:
    def test_every_frame_counts_on_both_lanes(self) -> None:
        websocket = machine()
        fast = raw_frame(TEXT, b"x") * 3
        slow = raw_frame(PING) + raw_frame(TEXT, b"a", fin=False) + raw_frame(CONT, fin=False) + raw_frame(CONT)
        websocket.receive(fast)
        assert websocket.frames_received == 3
        websocket.receive(fast + slow + fast)
        assert websocket.frames_received == 13
        bytewise(websocket, fast + slow + fast)
        assert websocket.frames_received == 23
        websocket.receive(close_frame(1000, masked=True))
        assert websocket.frames_received == 24

    def test_frames_after_our_close_count(self) -> None:
        websocket = machine()
        websocket.close(1000)
        websocket.receive(raw_frame(TEXT, b"x") * 3)
        assert websocket.frames_received == 3

    def test_mid_message_from_the_first_byte_of_a_frame_to_the_end_of_its_message(self) -> None:
        websocket = machine()
        data = raw_frame(TEXT, b"ab", fin=False) + raw_frame(PING) + raw_frame(CONT, b"c")
        for index in range(len(data)):
            assert websocket.mid_message == (index > 0)
            websocket.receive(data[index : index + 1])
        assert not websocket.mid_message
        websocket.receive(raw_frame(PING))
        assert not websocket.mid_message


class TestMemory:
    def test_an_idle_machine_is_small_before_and_after_the_slow_lane(self) -> None:
        data = raw_frame(TEXT, b"x", fin=False) + raw_frame(PING, b"y") + raw_frame(CONT, b"z" * 9)
        websockets: list[WebSocket] = []
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(100):
                websocket = WebSocket(Role.SERVER, max_message_size=MAX_MESSAGE, max_fragments=MAX_FRAGMENTS)
                bytewise(websocket, data)
                websocket.data_to_send()
                websockets.append(websocket)
            gc.collect()  # wsproto's objects refer to each other
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (after - before) / 100 < 400
        assert sys.getsizeof(websockets[0]) < 200
        assert not hasattr(websockets[0], "__dict__")


class TestCompressionB19:
    DEFLATE = Deflate("permessage-deflate", 9, 15)

    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize("message", ["a" * COMPRESS_FROM, b"b" * 5000, "é" * COMPRESS_FROM])
    def test_from_1_kib_on_messages_are_compressed(self, role: Role, message: str | bytes) -> None:
        pair = ConnectionPair(self.DEFLATE)
        pair.send(role, lambda end: end.encode(message), [message])
        frame = pair.ends[role][0].encode(message)
        assert frame[0] & RSV1
        assert len(frame) < 200

    @pytest.mark.parametrize("message", ["a" * (COMPRESS_FROM - 1), "short", bytes(range(256)) * 4])
    def test_what_is_short_or_does_not_shrink_is_not(self, message: str | bytes) -> None:
        pair = ConnectionPair(self.DEFLATE)
        pair.send(Role.SERVER, lambda end: end.encode(message), [message])
        if len(message) < COMPRESS_FROM:
            assert not pair.ends[Role.SERVER][0].encode(message)[0] & RSV1

    def test_noise_goes_out_as_it_is(self) -> None:
        noise = b"".join(hashlib.sha256(bytes([index])).digest() for index in range(64))
        assert machine(deflate=self.DEFLATE).encode(noise) == raw_frame(BINARY, noise, masked=False)

    def test_a_client_that_zlib_cannot_serve_does_not_compress(self) -> None:
        client = machine(Role.CLIENT, deflate=Deflate("permessage-deflate", 15, 8))
        assert client.encode("a" * 2000) == raw_frame(TEXT, b"a" * 2000)


class TestEverySplit:
    DATA = b"".join(
        [
            raw_frame(TEXT, b"one"),
            raw_frame(BINARY, bytes(130)),
            raw_frame(PING, b"p"),
            raw_frame(TEXT, "h\u00e9".encode()[:2], fin=False),
            raw_frame(CONT, "h\u00e9".encode()[2:]),
            raw_frame(TEXT, b""),
            raw_frame(TEXT, b"two"),
            close_frame(1000, "bye", masked=True),
        ]
    )
    SEEN: tuple[Received, ...] = ("one", bytes(130), Ping(b"p"), "hé", "", "two", Closed(1000, "bye", by_peer=True))

    def test_at_any_one_place(self) -> None:
        for cut in range(len(self.DATA) + 1):
            assert in_pieces(machine(), self.DATA, [cut]) == list(self.SEEN)

    def test_byte_by_byte(self) -> None:
        assert bytewise(machine(), self.DATA) == list(self.SEEN)

    @given(st.lists(st.integers(0, len(DATA))))
    def test_anywhere(self, cuts: list[int]) -> None:
        assert in_pieces(machine(), self.DATA, cuts) == list(self.SEEN)


class TestAnyBytes:
    @given(st.lists(st.binary(max_size=40)), st.sampled_from(ROLES), st.booleans())
    def test_nothing_is_raised_and_a_close_is_the_last(self, blocks: list[bytes], role: Role, deflate: bool) -> None:
        websocket = machine(role, max_message_size=100, deflate=Deflate("permessage-deflate") if deflate else None)
        received = [item for block in blocks for item in websocket.receive(block)]
        received += websocket.receive_eof()
        assert [index for index, item in enumerate(received) if isinstance(item, Closed)] == [len(received) - 1]
