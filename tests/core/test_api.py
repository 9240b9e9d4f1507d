"""What a request to publish says: JSON as strict as the protocol's, and a rule for whatever is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.api import Fault, InvalidRequest, Posted, read_request
from roomwire.core.envelope import dump

WHOLE = {
    "room": "chat:general",
    "event": "message.new",
    "data": {"content": "é"},
    "key": "order-17",
    "exclude": "tab-000001",
    "user": "ann",
    "history": False,
}


def read(value: Any, max_batch: int = 3) -> Any:
    return read_request(value if isinstance(value, bytes) else json.dumps(value).encode(), max_batch)


class TestAnEvent:
    def test_has_these_fields(self) -> None:
        assert read(WHOLE) == Posted(
            "chat:general", "message.new", {"content": "é"}, "order-17", "tab-000001", "ann", history=False
        )

    def test_needs_only_two(self) -> None:
        assert read({"room": "r", "event": "e"}) == Posted("r", "e")

    def test_may_be_bytes(self) -> None:
        assert read({"room": "r", "event": "e", "data_base64": "AP8="}).data == b"\x00\xff"

    @pytest.mark.parametrize("data", [None, 0, -1.5, 10**31, "\u2028é\U0001f600", [], {"a": [{}]}, True])
    def test_has_any_data(self, data: object) -> None:
        assert read({"room": "r", "event": "e", "data": data}).data == data

    @pytest.mark.parametrize(
        ("change", "rule"),
        [
            ({"rooms": "r"}, "an unknown field"),
            ({"x" * 1000: 1}, "an unknown field"),
            ({"room": None}, "room is a string"),
            ({"event": 1}, "event is a string"),
            ({"key": ""}, "key is printable"),
            ({"key": "é"}, "key is printable"),
            ({"key": "x" * 256}, "key is printable"),
            ({"key": 1}, "key is a string"),
            ({"exclude": ["tab-000001"]}, "exclude is a string"),
            ({"user": "a\n"}, "user is 1 to 255"),
            ({"user": ""}, "user is 1 to 255"),
            ({"history": 0}, "history is true or false"),
            ({"history": None}, "history is true or false"),
            ({"data_base64": "AA=="}, "exclude each other"),
        ],
    )
    def test_with_something_wrong_has_a_rule(self, change: dict[str, object], rule: str) -> None:
        fault = read({**WHOLE, **change})
        assert (fault.status, fault.error) == (400, "invalid")
        assert rule in fault.detail
        assert len(fault.detail) < 250

    @pytest.mark.parametrize("name", ["room", "event"])
    def test_without_a_name_says_so(self, name: str) -> None:
        assert read({key: value for key, value in WHOLE.items() if key != name}).detail == f"{name} is required"

    @pytest.mark.parametrize("text", ["AA", "A===", "A A=", "é", "AA==\n"])
    def test_of_no_base64(self, text: str) -> None:
        assert "not base64" in read({"room": "r", "event": "e", "data_base64": text}).detail

    def test_is_nested_as_deep_as_a_message(self) -> None:
        def nested(depth: int) -> bytes:
            return b'{"room":"r","event":"e","data":' + b"[" * depth + b"]" * depth + b"}"

        assert isinstance(read(nested(64)), Posted)
        assert read(nested(65)).detail == "data is nested deeper than 64 levels"


class TestABatch:
    def test_has_results_of_its_own_in_order(self) -> None:
        first, wrong, none = read([{"room": "r", "event": "e"}, {"room": "r"}, 7])
        assert first == Posted("r", "e")
        assert wrong == Fault(400, "invalid", "event is required")
        assert none == Fault(400, "invalid", "an event is a JSON object")

    @pytest.mark.parametrize("size", [0, 4])
    def test_has_a_bound(self, size: int) -> None:
        with pytest.raises(InvalidRequest, match=f"1 to 3 events, found {size}"):
            read([{"room": "r", "event": "e"}] * size)


class TestTheJson:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"{}x",
            b"null",
            b'"text"',
            b"17",
            b"\xef\xbb\xbf{}",
            b"\xff",
            b'{"room":"r","event":"e","data":NaN}',
            b'{"room":"r","event":"e","data":-Infinity}',
            b'{"room":"r","event":"e","data":%s}' % (b"9" * 33),
            b'{"room":"r","event":"e","data":1.%s}' % (b"9" * 5000),
            b'{"room":"r","event":"e","data":1e999}',
            b'{"room":"r","room":"s","event":"e"}',
            b'{"room":"r","event":"e","data":{"a":1,"a":2}}',
            b'{"room":"r","event":"e","data":"\\ud800"}',
            b'{"room":"r","event":"e","data":{"\\udfff":1}}',
            b"[" * 100_000,
            b"{'room':'r'}",
        ],
    )
    def test_is_strict(self, body: bytes) -> None:
        with pytest.raises(InvalidRequest):
            read(body)

    @given(
        st.binary() | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(lambda v: json.dumps(v).encode())
    )
    def test_no_other_error_leaves_it(self, body: bytes) -> None:
        try:
            found = read(body)
        except InvalidRequest:
            return
        for item in found if isinstance(found, list) else [found]:
            assert isinstance(item, Fault) or dump(item.data)
