"""Positions and resume cursors, docs/reference/protocol.md section 5."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomwire.core.errors import InvalidCursor
from roomwire.core.positions import MAX_ROOM_BYTES, Position, format_cursor, is_room_name, parse_cursor

positions = st.builds(
    Position,
    st.text("abcXYZ019", min_size=1, max_size=24),
    st.integers(min_value=0, max_value=10**16 - 1),
)
rooms = st.text(min_size=1, max_size=40).filter(is_room_name)


@given(positions)
def test_a_position_is_read_as_it_is_written(position: Position) -> None:
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "e",
        "e:",
        ":1",
        "e:-1",
        "e: 1",
        "e:1 ",
        "e:1\n",
        "e:1:2",
        "é:1",
        "e:\u0661",
        "e_:1",
        "e" * 25 + ":1",
        "e:" + "1" * 17,
    ],
)
def test_a_malformed_position(text: str) -> None:
    with pytest.raises(InvalidCursor, match="EPOCH:OFFSET"):
        Position.parse(text)


@given(st.text())
@example("A:0")
def test_no_other_error_leaves_the_parser(text: str) -> None:
    try:
        position = Position.parse(text)
    except InvalidCursor:
        return
    assert 1 <= len(position.epoch) <= 24
    assert position.offset >= 0


@given(st.dictionaries(rooms, positions, min_size=1, max_size=10))
@example({"a,b@c:d%2C": Position("e", 1), "@": Position("e", 2), "ü ": Position("e", 3)})
def test_a_cursor_is_read_as_it_is_written(cursor: dict[str, Position]) -> None:
    assert parse_cursor(format_cursor(cursor), 10) == cursor


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("", "ROOM@EPOCH:OFFSET"),
        ("r", "ROOM@EPOCH:OFFSET"),
        ("r@", "EPOCH:OFFSET"),
        ("@e:1", "ROOM@EPOCH:OFFSET"),
        ("r@e:1,", "ROOM@EPOCH:OFFSET"),
        ("r@e:1,r@e:2", "once"),
        ("r@e:1,%72@e:2", "once"),
        ("%ff@e:1", "ROOM@EPOCH:OFFSET"),
        ("%00@e:1", "ROOM@EPOCH:OFFSET"),
        ("x" * 129 + "@e:1", "ROOM@EPOCH:OFFSET"),
        ("a@e:1,b@e:1,c@e:1,d@e:1", "at most 3"),
    ],
)
def test_a_malformed_cursor(value: str, match: str) -> None:
    with pytest.raises(InvalidCursor, match=match):
        parse_cursor(value, 3)


@given(st.text())
def test_no_other_error_leaves_the_cursor(value: str) -> None:
    try:
        cursor = parse_cursor(value, 3)
    except InvalidCursor:
        return
    assert 1 <= len(cursor) <= 3


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("r", True),
        ("n" * MAX_ROOM_BYTES, True),
        ("ü" * 64, True),
        ("ü" * 65, False),
        ("", False),
        (None, False),
        (b"r", False),
        ("a\nb", False),
        ("a\x85b", False),
        ("\ud800", False),
    ],
)
def test_room_names(name: object, valid: bool) -> None:
    assert is_room_name(name) is valid
