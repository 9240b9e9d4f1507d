"""The head of a request: headers and query parameters."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.core.request import RequestHead


def head(query: str = "", headers: Sequence[tuple[bytes, bytes]] = ()) -> RequestHead:
    return RequestHead("GET", "/ws", query, headers)


class TestHeaders:
    HEADERS = ((b"host", b"a"), (b"connection", b"keep-alive"), (b"connection", b"Upgrade , x,,"), (b"empty", b""))

    @pytest.mark.parametrize(
        ("name", "value"),
        [(b"host", b"a"), (b"connection", b"keep-alive, Upgrade , x,,"), (b"empty", b""), (b"missing", None)],
    )
    def test_one_value_for_all_field_lines(self, name: bytes, value: bytes | None) -> None:
        assert head(headers=self.HEADERS).header(name) == value

    def test_every_field_line(self) -> None:
        assert head(headers=self.HEADERS).header_values(b"connection") == [b"keep-alive", b"Upgrade , x,,"]
        assert head(headers=self.HEADERS).header_values(b"missing") == []

    def test_the_elements_of_a_list(self) -> None:
        assert head(headers=self.HEADERS).header_items(b"connection") == ["keep-alive", "Upgrade", "x"]
        assert head(headers=self.HEADERS).header_items(b"empty") == []

    def test_elements_that_are_not_ascii_are_passed_over(self) -> None:
        headers = ((b"upgrade", b"w\xc3\xa9b, websocket, \xff"),)
        assert head(headers=headers).header_items(b"upgrade") == ["websocket"]


class TestQuery:
    @pytest.mark.parametrize(
        ("query", "values"),
        [
            ("", []),
            ("token=a", ["a"]),
            ("token=", [""]),
            ("token", [""]),
            ("token=a&token=b", ["a", "b"]),
            ("x=1&token=a%20b+c", ["a b c"]),
            ("token=a=b", ["a=b"]),
            ("token=%2541", ["%41"]),
            ("token=%ff", ["\ufffd"]),
            ("token=%", ["%"]),
            ("%74oken=a", ["a"]),
            ("%74%6F%6b%65%6e=a&token=b", ["a", "b"]),
            ("xtoken=a", []),
            ("tokens=a", []),
            ("Token=a", []),
            ("x=token", []),
            ("x=%74oken", []),
            ("&&token=a&", ["a"]),
        ],
    )
    def test_the_values_of_a_parameter(self, query: str, values: list[str]) -> None:
        assert head(query).query_values("token") == values

    @given(st.lists(st.tuples(st.sampled_from(["token", "client", "x"]), st.text())))
    def test_they_are_decoded_once(self, pairs: list[tuple[str, str]]) -> None:
        query = urlencode(pairs)
        assert head(query).query_values("token") == [value for name, value in pairs if name == "token"]

    @given(st.text())
    def test_no_query_is_an_error(self, query: str) -> None:
        head(query).query_values("token")
        head(f"token={quote_plus(query)}&{query}").query_values("token")


def test_what_may_hold_a_token_is_not_shown() -> None:
    shown = repr(head("token=secret", ((b"authorization", b"Bearer secret"),)))
    assert "secret" not in shown
    assert "/ws" in shown
