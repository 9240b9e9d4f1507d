"""Publications and their bodies on a backplane, which is no trusted channel."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomwire.core.events import is_event_name, is_reserved
from roomwire.core.identity import is_user
from roomwire.core.positions import Position
from roomwire.core.publication import BODY_VERSION, InvalidBody, Publication, read_body, write_body

POSITION = Position("E", 7)


def body(header: object, payload: bytes = b"1", *, version: int = BODY_VERSION, size: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(encoded) if size is None else size
    return bytes([version]) + length.to_bytes(2, "big") + encoded + payload


def fields(publication: Publication) -> tuple[object, ...]:
    return tuple(getattr(publication, name) for name in sorted(Publication.__slots__))


class TestPublication:
    def test_its_id_is_its_position(self) -> None:
        assert Publication("r", "e", b"1", position=POSITION).id == "E:7"

    def test_an_ephemeral_one_has_no_id(self) -> None:
        assert Publication("r", "e", b"1").id is None

    def test_it_excludes_the_client_of_one_user(self) -> None:
        publication = Publication("r", "e", b"1", exclude="c1", exclude_user="ann")
        assert publication.excludes("ann", "c1")
        assert not publication.excludes("bob", "c1")
        assert not publication.excludes("ann", "c2")

    def test_it_excludes_a_client_of_whatever_user(self) -> None:
        publication = Publication("r", "e", b"1", exclude="c1")
        assert publication.excludes("ann", "c1")
        assert publication.excludes("bob", "c1")
        assert not publication.excludes("ann", "c2")
        assert not Publication("r", "e", b"1").excludes("ann", "c1")


class TestBodies:
    def test_a_body_in_full(self) -> None:
        written = write_body("e", b"[1]", user="ann", exclude="c1")
        assert written == b'\x01\x00\x1c{"e":"e","u":"ann","x":"c1"}[1]'
        assert fields(read_body("r", written, POSITION)) == fields(
            Publication("r", "e", b"[1]", user="ann", exclude="c1", position=POSITION)
        )

    def test_a_body_for_all_but_one_users_client(self) -> None:
        written = write_body("e", b"1", exclude="c1", exclude_user="ann")
        assert written == b'\x01\x00\x1c{"e":"e","x":"c1","o":"ann"}1'
        expected = Publication("r", "e", b"1", exclude="c1", exclude_user="ann")
        assert fields(read_body("r", written, None)) == fields(expected)

    def test_a_body_of_the_least(self) -> None:
        assert write_body("e", b"1") == b'\x01\x00\x09{"e":"e"}1'
        assert fields(read_body("r", b'\x01\x00\x09{"e":"e"}1', None)) == fields(Publication("r", "e", b"1"))

    @given(
        st.text("abc._:-", min_size=1, max_size=20).filter(lambda event: not is_reserved(event)),
        st.binary(),
        st.booleans(),
        st.none() | st.text().filter(is_user),
        st.none() | st.text(),
        st.none() | st.text().filter(is_user),
    )
    def test_it_is_read_as_it_was_written(
        self, event: str, data: bytes, binary: bool, user: str | None, exclude: str | None, owner: str | None
    ) -> None:
        owner = None if exclude is None else owner
        if not binary:
            data = json.dumps(data.hex()).encode()
        names = {"user": user, "exclude": exclude, "exclude_user": owner}
        written = write_body(event, data, binary=binary, **names)
        expected = Publication("r", event, data, binary=binary, **names, position=POSITION)
        assert fields(read_body("r", written, POSITION)) == fields(expected)

    @pytest.mark.parametrize("header", [{"e": "e", "b": False}, {"e": "e", "u": None, "x": None, "o": None}])
    def test_a_default_may_be_spelled_out(self, header: object) -> None:
        assert fields(read_body("r", body(header), None)) == fields(Publication("r", "e", b"1"))

    def test_an_empty_binary_payload(self) -> None:
        assert read_body("r", body({"e": "e", "b": True}, b""), None).data == b""


class TestWhatIsDropped:
    def refused(self, value: bytes) -> str:
        with pytest.raises(InvalidBody) as caught:
            read_body("r", value, POSITION)
        return str(caught.value)

    @pytest.mark.parametrize("value", [b"", b"\x01", b"\x01\x00", b"\x00\x00\x02{}", body({"e": "e"}, version=2)])
    def test_another_version(self, value: bytes) -> None:
        assert "this node knows 1" in self.refused(value)

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"{",
            b'{"e":"e"',
            b"\xff",
            b'{"e":"e","u":"\xff"}',
            b'{"e":"e","u":"\\ud800"}',
            b'{"e":"e","u":NaN}',
            '{"e":"e"}'.encode("utf-16"),
            b"[" * 60_000,
        ],
    )
    def test_a_header_that_is_not_json(self, header: bytes) -> None:
        assert "readable header" in self.refused(body(header))

    @pytest.mark.parametrize(
        "header",
        [
            [],
            None,
            "e",
            1,
            {},
            {"e": 1},
            {"e": None},
            {"e": ""},
            {"e": 'x","room":"other'},
            {"e": "a b"},
            {"e": "e" * 129},
            {"e": "ack"},
            {"e": "room.state"},
            {"e": "e", "u": 1},
            {"e": "e", "u": ""},
            {"e": "e", "u": "u" * 256},
            {"e": "e", "u": "a\nb"},
            {"e": "e", "x": 1},
            {"e": "e", "x": "c1", "o": 1},
            {"e": "e", "x": "c1", "o": ""},
            {"e": "e", "o": "ann"},
            {"e": "e", "b": 1},
            {"e": "e", "b": None},
            {"e": "e", "y": 1},
        ],
    )
    def test_a_header_of_another_schema(self, header: object) -> None:
        assert "another schema" in self.refused(body(header))

    def test_a_header_that_says_it_is_longer_than_the_body(self) -> None:
        assert "another schema" in self.refused(body({"e": "e"}, b"", size=11))

    def test_a_header_that_says_it_is_shorter_than_it_is(self) -> None:
        assert "readable header" in self.refused(body({"e": "e"}, size=4))

    @pytest.mark.parametrize("payload", [b"\xff", b'"\xed\xa0\x80"', b'"\xc3'])
    def test_a_payload_that_is_not_utf_8(self, payload: bytes) -> None:
        assert "not UTF-8" in self.refused(body({"e": "e"}, payload))
        assert read_body("r", body({"e": "e", "b": True}, payload), None).data == payload

    @given(st.binary() | st.binary().map(b"\x01\x00".__add__))
    @example(b'\x01\x00\x09{"e":"e"}')
    def test_no_other_error_leaves_it(self, value: bytes) -> None:
        self.read_any(value)

    @given(st.data())
    def test_no_other_error_leaves_it_for_a_mutated_body(self, data: st.DataObject) -> None:
        value = bytearray(write_body("message.new", b'{"a":"b"}', user="ann", exclude="client-1"))
        for _ in range(data.draw(st.integers(1, 4))):
            value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
        self.read_any(bytes(value))

    def read_any(self, value: bytes) -> None:
        try:
            publication = read_body("r", value, POSITION)
        except InvalidBody:
            return
        assert is_event_name(publication.event)
        assert publication.user is None or is_user(publication.user)
        assert publication.binary or publication.data.decode().encode() == publication.data
