"""Negotiating permessage-deflate (RFC 7692 sections 5 and 7.1) and compressing what goes out (section 7.2.1)."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.deflate import OFFER, Deflate, accept_deflate, compress, negotiate_deflate

BOTH = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


class TestOffersB15:
    @pytest.mark.parametrize(
        ("offer", "bits"),
        [
            ("permessage-deflate", 15),
            ("permessage-deflate; client_max_window_bits", 15),
            ("permessage-deflate; client_max_window_bits=8", 15),
            ("permessage-deflate; client_max_window_bits=10; server_max_window_bits=9", 9),
            ("permessage-deflate;server_max_window_bits = 12", 12),
            ('permessage-deflate; server_max_window_bits="11"', 11),
            ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", 15),
            (OFFER, 15),
            ("x-unknown; a=b, permessage-deflate", 15),
            (", ,permessage-deflate, ,", 15),
            ("  permessage-deflate\t", 15),
            # The first is not acceptable, the second is.
            ("permessage-deflate; server_max_window_bits=8, permessage-deflate", 15),
            ("permessage-deflate; unknown, permessage-deflate; server_max_window_bits=13", 13),
            # Both are: the first is taken, and the second leaves no trace in it.
            ("permessage-deflate; server_max_window_bits=9, permessage-deflate", 9),
            ("permessage-deflate, permessage-deflate; server_max_window_bits=9", 15),
        ],
    )
    def test_the_first_acceptable_one_is_taken(self, offer: str, bits: int) -> None:
        response = BOTH if bits == 15 else f"{BOTH}; server_max_window_bits={bits}"
        assert negotiate_deflate([offer]) == Deflate(response, bits)
        assert negotiate_deflate([offer.encode()]) == Deflate(response, bits)

    @pytest.mark.parametrize(
        "offer",
        [
            "",
            " , ",
            "x-webkit-deflate-frame",
            "permessage-deflate2",
            "permessage-deflated; server_max_window_bits=10",
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=x",
            "permessage-deflate; client_max_window_bits=x",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits=10; client_max_window_bits=10",
            "permessage-deflate;",
            "permessage-deflate; =",
            "permessage-deflate; a=",
            'permessage-deflate; server_max_window_bits="10',
            "permessage-deflate server_max_window_bits",
            "perm\xe9ssage-deflate",
            '"permessage-deflate"',
            # One malformed element makes the header unreadable.
            "permessage-deflate; @, permessage-deflate",
        ],
    )
    def test_what_cannot_be_accepted_is_declined(self, offer: str) -> None:
        assert negotiate_deflate([offer]) is None
        assert negotiate_deflate([offer.encode("latin-1")]) is None

    def test_several_field_lines_are_one_list(self) -> None:
        assert negotiate_deflate(["x-unknown", b"permessage-deflate"]) == Deflate(BOTH)
        assert negotiate_deflate([]) is None

    def test_each_connection_has_an_inflater_of_its_own(self) -> None:
        deflate = Deflate(BOTH)
        assert deflate.extension(10) is not deflate.extension(10)

    @given(st.lists(st.binary(max_size=60), max_size=3))
    def test_any_bytes_are_declined_or_accepted(self, lines: list[bytes]) -> None:
        assert isinstance(negotiate_deflate(lines), Deflate | None)

    @given(st.text(alphabet='permessage-deflate;=," 0159_clientwindowbits', max_size=80))
    def test_any_near_miss_is_declined_or_accepted(self, rest: str) -> None:
        assert isinstance(negotiate_deflate(["permessage-deflate" + rest]), Deflate | None)


class TestTheServersAnswer:
    @pytest.mark.parametrize(
        ("answer", "server_bits", "client_bits"),
        [
            ("permessage-deflate; server_no_context_takeover", 15, 15),
            (BOTH, 15, 15),
            (BOTH + "; server_max_window_bits=8; client_max_window_bits=8", 8, 8),
            (BOTH + "; client_max_window_bits=12", 15, 12),
        ],
    )
    def test_is_read(self, answer: str, server_bits: int, client_bits: int) -> None:
        assert accept_deflate([answer]) == Deflate(answer, server_bits, client_bits)

    @pytest.mark.parametrize(
        "answer",
        [
            "permessage-deflate",  # it must keep to the parameter that we offered
            BOTH + "; client_max_window_bits",
            BOTH + "; server_max_window_bits",
            BOTH + "; unknown",
            f"{BOTH}, {BOTH}",
            "x-unknown; server_no_context_takeover",
            "@",
            "",
        ],
    )
    def test_that_does_not_follow_from_the_offer_is_refused(self, answer: str) -> None:
        assert accept_deflate([answer]) is None


class TestCompressing721:
    @pytest.mark.parametrize("bits", range(9, 16))
    @pytest.mark.parametrize("payload", [b"", b"x", b"abc" * 1000, bytes(range(256)) * 300])
    def test_inflates_to_the_same(self, bits: int, payload: bytes) -> None:
        inflater = zlib.decompressobj(-bits)
        assert inflater.decompress(compress(payload, bits) + b"\x00\x00\xff\xff") == payload

    def test_the_tail_is_taken_off(self) -> None:
        assert compress(b"Hello") == bytes.fromhex("f248cdc9c90700")
        assert compress(b"") == b"\x00"
