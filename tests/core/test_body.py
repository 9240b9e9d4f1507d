"""A request's body, however it is framed and cut, is read whole and within its bound, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.body import BodyReader
from roomwire.core.errors import HandshakeRefused
from roomwire.core.http import RequestParser

HEAD = b"POST /api/publish HTTP/1.1\r\nHost: a\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def reader_of(fields: bytes, max_size: int = 100) -> BodyReader:
    head = RequestParser().receive(HEAD + fields)
    assert head is not None
    return BodyReader(head, max_size)


def refusal(fields: bytes, data: bytes = b"", max_size: int = 100) -> tuple[int, str]:
    with pytest.raises(HandshakeRefused) as refused:
        reader_of(fields, max_size).receive(data)
    return refused.value.refusal.status, refused.value.refusal.error


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


FRAMED = [
    (LENGTH % 5, b"hello"),
    (CHUNKED, chunks(b"he", b"llo")),
    (CHUNKED, b"5;a=b\r\nhello\r\n0\r\nTrailer: x\r\n\r\n"),
]


class TestABodyIsRead:
    @pytest.mark.parametrize(("fields", "data"), FRAMED)
    def test_byte_by_byte(self, fields: bytes, data: bytes) -> None:
        reader = reader_of(fields)
        assert reader.receive(b"") is None
        found = [reader.receive(data[at : at + 1]) for at in range(len(data))]
        assert found[-1] == b"hello"
        assert set(found[:-1]) == {None}

    @pytest.mark.parametrize(("fields", "data"), FRAMED)
    def test_with_something_behind_it(self, fields: bytes, data: bytes) -> None:
        assert reader_of(fields).receive(data + b"GET / HTTP/1.1\r\n") == b"hello"

    @pytest.mark.parametrize("fields", [LENGTH % 0, b"\r\n"])
    def test_no_body_is_an_empty_one(self, fields: bytes) -> None:
        assert reader_of(fields).receive(b"") == b""

    @pytest.mark.parametrize("fields", [LENGTH % 100, CHUNKED])
    def test_up_to_its_bound(self, fields: bytes) -> None:
        data = b"x" * 100
        assert reader_of(fields).receive(data if fields != CHUNKED else chunks(data)) == data

    @given(st.lists(st.binary(min_size=1, max_size=20), max_size=10), st.data())
    def test_in_any_pieces(self, pieces: list[bytes], data: st.DataObject) -> None:
        body, wire, reader = b"".join(pieces), chunks(*pieces), reader_of(CHUNKED, 200)
        result = None
        while wire:
            size = data.draw(st.integers(1, len(wire)))
            result, wire = reader.receive(wire[:size]), wire[size:]
        assert result == body

    @pytest.mark.parametrize(("fields", "awaits"), [(b"Expect: 100-continue\r\n", True), (b"", False)])
    def test_a_client_may_wait_to_be_told_to_send_it(self, fields: bytes, awaits: bool) -> None:
        assert reader_of(fields + LENGTH % 5).awaits_continue is awaits


class TestABodyIsRefused:
    @pytest.mark.parametrize("length", [101, 10**11, 10**19])
    def test_that_is_announced_too_large_before_it_comes(self, length: int) -> None:
        assert refusal(LENGTH % length) == (413, "too_large")

    def test_that_turns_out_too_large(self) -> None:
        assert refusal(CHUNKED, chunks(b"x" * 60, b"x" * 41)) == (413, "too_large")
        assert refusal(CHUNKED, b"ffffffff\r\n" + b"x" * 101) == (413, "too_large")

    def test_of_too_many_chunks(self) -> None:
        """A small one that costs much: h11 takes about 15 us for a chunk, of whatever size."""
        assert refusal(CHUNKED, chunks(*[b"x"] * 1025), 10_000) == (413, "too_large")
        assert reader_of(CHUNKED, 10_000).receive(chunks(*[b"x"] * 1024)) == b"x" * 1024

    @pytest.mark.parametrize(
        "data",
        [
            b"x\r\n",
            b"-1\r\n",
            b"5\r\nhelloo",
            b"5;" + b"a" * 10_000,
            b"0\r\n" + b"a: b\r\n" * 2000,
            b"\r\n",
            b"0x5\r\nhello",
        ],
    )
    def test_of_wrong_chunks(self, data: bytes) -> None:
        assert refusal(CHUNKED, data) == (400, "bad_request")

    def test_with_two_lengths(self) -> None:
        assert refusal(b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n") == (400, "bad_request")
