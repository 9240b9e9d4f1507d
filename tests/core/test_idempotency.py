"""Keys of idempotent messages: no two scopes share one. Replies: read as they were written, or not at all."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roomwire.core.commands import Call
from roomwire.core.errors import RemoteError
from roomwire.core.idempotency import (
    NOT_REMEMBERED,
    fingerprint,
    message_key,
    publish_key,
    read_reply,
    write_reply,
)
from roomwire.core.notices import Failed, Reply

# Short names over few letters, so that their concatenations often meet.
texts = st.text("ab\0:", max_size=4)
scopes = st.tuples(texts, texts, texts)
publishes = st.tuples(texts, texts, st.integers(0, 3))


def call(event: str = "e", room: str | None = "r", data: str | bytes = "1", *, ref: str = "i") -> Call:
    return Call(event, room, ref, data)


class TestKeys:
    @given(scopes, scopes)
    @example(("a", "b", "c"), ("ab", "", "c"))
    @example(("a", "b", "c"), ("a", "bc", ""))
    @example(("a:b", "c", ""), ("a", "b:c", ""))
    def test_two_scopes_have_two_keys(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
        assert (message_key(*one) == message_key(*other)) is (one == other)

    @given(publishes, publishes)
    def test_two_publishes_have_two_keys(self, one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
        assert (publish_key(*one) == publish_key(*other)) is (one == other)

    def test_a_message_and_a_publish_never_share_a_key(self) -> None:
        number = 0x61626364
        assert publish_key("m", "r", number) != message_key("m", "r", "abcd")

    @given(st.text(), st.text(), st.text())
    def test_a_key_is_a_short_name_for_whatever_backplane(self, user: str, client: str, ref: str) -> None:
        key = message_key(user, client, ref)
        assert len(key) == 32
        assert set(key) <= set(string.hexdigits.lower())


class TestFingerprints:
    @given(
        st.tuples(texts, texts.filter(bool) | st.none(), texts | texts.map(str.encode)),
        st.tuples(texts, texts.filter(bool) | st.none(), texts | texts.map(str.encode)),
    )
    @example(("e", "r", "1"), ("e", "r", b"1"))
    @example(("e", None, "1"), ("e", "r", "1"))
    def test_two_messages_have_two(
        self, one: tuple[str, str | None, str | bytes], other: tuple[str, str | None, str | bytes]
    ) -> None:
        assert (fingerprint(call(*one)) == fingerprint(call(*other))) is (one == other)

    def test_it_is_of_what_was_sent_and_not_of_the_id(self) -> None:
        assert fingerprint(call(ref="i")) == fingerprint(call(ref="j"))

    def test_data_counts_as_it_was_written(self) -> None:
        assert fingerprint(call(data='{"a":1}')) != fingerprint(call(data='{"a": 1}'))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


class TestReplies:
    @pytest.mark.parametrize("data", [b"null", b'{"id":"E:1"}', '"ü"'.encode()])
    def test_a_reply(self, data: bytes) -> None:
        assert read_reply(write_reply(Reply("first", data)), "second") == Reply("second", data)

    @given(st.text(), st.text(), values)
    def test_a_failure(self, code: str, message: str, details: object) -> None:
        failed = Failed("first", code, message, details)
        assert read_reply(write_reply(failed), "second") == Failed("second", code, message, details)

    def test_details_that_are_not_json(self) -> None:
        with pytest.raises(ValueError, match="serialize"):
            write_reply(Failed("i", "c", "m", object()))

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"+",
            b"-",
            b"?",
            b"null",
            b"+{",
            b"+NaN",
            b"+\xff",
            b'+"\xff"',
            b"-{}",
            b"-3",
            b'-"abc"',
            b'-{"a":1,"b":2,"c":3}',
            b'-["c","m"]',
            b'-["c","m",null,null]',
            b'-[1,"m",null]',
            b'-["c",null,null]',
            b'-["c","m",NaN]',
            b'*["c","m",null]',
            b"+" + b"[" * 100_000,
        ],
    )
    def test_what_cannot_be_read(self, value: bytes) -> None:
        with pytest.raises(RemoteError, match="cannot be read"):
            read_reply(value, "i")

    @given(st.binary() | st.binary().map(b"-[".__add__))
    def test_no_other_error_leaves_it(self, value: bytes) -> None:
        try:
            reply = read_reply(value, "i")
        except RemoteError:
            return
        assert reply.ref == "i"

    def test_which_failures_may_be_tried_again(self) -> None:
        assert {"unavailable", "rate_limited", "internal"} == NOT_REMEMBERED
