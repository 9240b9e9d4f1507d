from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.auth.tokens import MAX_TOKEN_SIZE, SOURCES, Cause, Source, find_token, unauthorized
from roomwire.core.errors import HandshakeRefused, Refusal
from roomwire.core.request import RequestHead

AUTHORIZATION = b"authorization"
SUBPROTOCOL = b"sec-websocket-protocol"


def head(*headers: tuple[bytes, bytes], query: str = "") -> RequestHead:
    return RequestHead("GET", "/ws", query, headers)


def cause_of(head: RequestHead, sources: tuple[Source, ...] = SOURCES) -> str:
    with pytest.raises(HandshakeRefused) as caught:
        find_token(head, sources)
    assert caught.value.refusal == unauthorized("").refusal
    assert caught.value.__context__ is None
    return caught.value.refusal.cause


class TestFound:
    @pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"Bearer   "])
    def test_header(self, scheme: bytes) -> None:
        assert find_token(head((AUTHORIZATION, scheme + b"a.b.c"))) == "a.b.c"

    @pytest.mark.parametrize(
        "offers",
        [
            [b"roomwire.v1, bearer.a.b.c"],
            [b"bearer.a.b.c,roomwire.v1"],
            [b"roomwire.v1", b"bearer.a.b.c"],
            [b"\xff, bearer.a.b.c"],
        ],
    )
    def test_subprotocol(self, offers: list[bytes]) -> None:
        assert find_token(head(*((SUBPROTOCOL, offer) for offer in offers))) == "a.b.c"

    @pytest.mark.parametrize("query", ["token=a.b.c", "client=x&token=a.b.c&state=1", "token=a%2Eb.c"])
    def test_query(self, query: str) -> None:
        assert find_token(head(query=query)) == "a.b.c"

    def test_the_largest(self) -> None:
        token = "a" * MAX_TOKEN_SIZE
        assert find_token(head(query="token=" + token)) == token

    @pytest.mark.parametrize("sources", [s for n in (1, 2, 3) for s in itertools.permutations(SOURCES, n)])
    def test_the_first_source_that_is_on_decides_in_the_fixed_order(self, sources: tuple[Source, ...]) -> None:
        everything = head((AUTHORIZATION, b"Bearer header"), (SUBPROTOCOL, b"bearer.subprotocol"), query="token=query")
        assert find_token(everything, sources) == min(sources, key=SOURCES.index)


class TestRefused:
    def test_the_answer(self) -> None:
        assert unauthorized(Cause.NO_TOKEN).refusal == Refusal(
            401, "unauthorized", "a valid token is required", (("WWW-Authenticate", "Bearer"),)
        )

    @pytest.mark.parametrize("query", ["", "tokens=a", "Token=a", "t=token"])
    def test_nothing_there(self, query: str) -> None:
        assert cause_of(head((SUBPROTOCOL, b"roomwire.v1, Bearer.a, xbearer.a"), query=query)) == "no token"

    @pytest.mark.parametrize(
        "value",
        [
            b"", b"Bearer", b"Bearer ", b"Basic dXNlcjpwdw==", b"a.b.c", b"Bearera.b.c", b"Bearer a.b.c, Bearer d.e.f",
            b"Bearer a b", b"Bearer\ta.b.c", b"Bearer a.b.\xe9", b"Bearer a.b.c\x00", b"Bearer =", b"Bearer a=b",
        ],
    )  # fmt: skip
    def test_a_malformed_header_decides(self, value: bytes) -> None:
        good_elsewhere = head((AUTHORIZATION, value), (SUBPROTOCOL, b"bearer.a.b.c"), query="token=a.b.c")
        assert cause_of(good_elsewhere) == "malformed"

    @pytest.mark.parametrize("value", [b"bearer.", b"bearer.a b", b"bearer.\xc3\xa9", b"roomwire.v1,bearer.\xff"])
    def test_a_malformed_subprotocol_decides(self, value: bytes) -> None:
        assert cause_of(head((SUBPROTOCOL, value), query="token=a.b.c")) == "malformed"

    @pytest.mark.parametrize("query", ["token=", "token", "token=%ff", "token=a+b", "token=a%0d%0ab"])
    def test_a_malformed_query(self, query: str) -> None:
        assert cause_of(head(query=query)) == "malformed"

    @pytest.mark.parametrize(
        "request_head",
        [
            head((AUTHORIZATION, b"Bearer a"), (AUTHORIZATION, b"Bearer b")),
            head((AUTHORIZATION, b"Bearer a"), (AUTHORIZATION, b"Bearer a")),
            head((AUTHORIZATION, b"Bearer a"), (AUTHORIZATION, b"Basic a")),
            head((SUBPROTOCOL, b"bearer.a, bearer.b")),
            head((SUBPROTOCOL, b"bearer.a"), (SUBPROTOCOL, b"bearer.")),
            head(query="token=a&token=b"),
            head(query="token=a&%74oken=b"),
        ],
    )
    def test_several_in_one_source(self, request_head: RequestHead) -> None:
        assert cause_of(request_head) == "several tokens"

    def test_too_large(self) -> None:
        assert cause_of(head(query="token=" + "a" * (MAX_TOKEN_SIZE + 1))) == "too large"

    @pytest.mark.parametrize("source", SOURCES)
    def test_a_source_that_is_off_is_not_looked_at(self, source: Source) -> None:
        request_head = {
            "header": head((AUTHORIZATION, b"Bearer a")),
            "subprotocol": head((SUBPROTOCOL, b"bearer.a")),
            "query": head(query="token=a"),
        }[source]
        others = tuple(other for other in SOURCES if other != source)
        assert cause_of(request_head, others) == "no token"
        assert find_token(request_head, (source,)) == "a"


@given(st.binary(), st.binary(), st.text())
def test_whatever_comes_is_a_token_or_refused(header: bytes, offer: bytes, query: str) -> None:
    request_head = head((AUTHORIZATION, b"Bearer " + header), (SUBPROTOCOL, b"bearer." + offer), query="token=" + query)
    for source in SOURCES:
        outcome = outcome_of(request_head, source)
        if isinstance(outcome, Refusal):
            assert outcome == unauthorized("").refusal
        else:
            assert outcome.isascii()
            assert outcome.isprintable()
            assert 0 < len(outcome) <= MAX_TOKEN_SIZE


def outcome_of(request_head: RequestHead, source: Source) -> str | Refusal:
    try:
        return find_token(request_head, (source,))
    except HandshakeRefused as refused:
        return refused.refusal
