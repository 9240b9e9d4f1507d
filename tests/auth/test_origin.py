from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomwire.auth.contract import OriginCheck
from roomwire.auth.origin import OriginPolicy
from roomwire.core.errors import ConfigError, HandshakeRefused, Refusal
from roomwire.core.request import RequestHead

ALLOWED = ["https://app.example.com", "http://localhost:5173", "https://[2001:db8::1]:8443", "capacitor://localhost"]


def head(
    origin: str | bytes | None, host: bytes | None = b"api.example.com", *more: tuple[bytes, bytes]
) -> RequestHead:
    headers = [(b"host", host)] if host is not None else []
    if origin is not None:
        headers.append((b"origin", origin.encode() if isinstance(origin, str) else origin))
    return RequestHead("GET", "/ws", "", [*headers, *more])


def cause_of(policy: OriginPolicy, head: RequestHead) -> str:
    with pytest.raises(HandshakeRefused) as caught:
        policy.check(head)
    assert caught.value.refusal == Refusal(403, "forbidden", "the Origin is not allowed")
    return caught.value.refusal.cause


class TestAllowed:
    def test_no_origin(self) -> None:
        policy: OriginCheck = OriginPolicy()
        policy.check(head(None))

    @pytest.mark.parametrize("origin", ALLOWED)
    def test_in_the_list(self, origin: str) -> None:
        OriginPolicy(ALLOWED).check(head(origin))

    @pytest.mark.parametrize(
        ("entry", "origin"),
        [
            ("HTTPS://App.Example.COM", "https://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://app.example.com:80", "http://app.example.com"),
            ("http://app.example.com:443", "http://app.example.com:443"),
            ("http://[2001:DB8::1]:80", "http://[2001:db8::1]"),
        ],
    )
    def test_entries_are_brought_into_the_form_that_browsers_send(self, entry: str, origin: str) -> None:
        OriginPolicy([entry]).check(head(origin))

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("https://example.com", b"example.com"),
            ("https://example.com", b"example.com:443"),
            ("https://example.com", b"EXAMPLE.com"),
            ("http://example.com", b"example.com"),
            ("http://example.com", b"example.com:80"),
            ("http://example.com:8000", b"example.com:8000"),
            ("http://example.com:443", b"example.com:443"),
            ("http://127.0.0.1:8000", b"127.0.0.1:8000"),
            ("http://[::1]:8000", b"[::1]:8000"),
            ("https://[::1]", b"[::1]:443"),
        ],
    )
    def test_the_servers_own(self, origin: str, host: bytes) -> None:
        OriginPolicy().check(head(origin, host))

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "é"])
    def test_any(self, origin: str) -> None:
        policy = OriginPolicy(["https://app.example.com", "*"])
        assert policy.allows_any
        policy.check(head(origin))

    def test_not_any(self) -> None:
        assert not OriginPolicy(ALLOWED).allows_any


class TestRefused:
    @pytest.mark.parametrize(
        "origin",
        [
            "https://app.example.com.evil",
            "https://app.example.com.evil.example",
            "https://evil-app.example.com",
            "https://evilapp.example.com",
            "https://x.app.example.com",
            "https://example.com",
            "https://app.example.co",
            "https://app.example.com.",
            "http://app.example.com",
            "wss://app.example.com",
            "https://app.example.com:443",
            "https://app.example.com:8443",
            "https://app.example.com:0443",
            "https://app.example.com:",
            "http://localhost",
            "http://localhost:51730",
            "http://localhost:5174",
            "HTTPS://app.example.com",
            "https://APP.example.com",
            "https://user@app.example.com",
            "https://app.example.com@evil.example",
            "https://evil.example/https://app.example.com",
            "https://evil.example?https://app.example.com",
            "https://evil.example#https://app.example.com",
            "https://app.example.com/",
            "https://app.example.com/page",
            "https://app.example.com https://evil.example",
            "https://app.example.com, https://evil.example",
            "https://app.example.com\t",
            "https://app.example.com\x00.evil",
            "https://app%2eexample.com",
            "https:app.example.com",
            "//app.example.com",
            "app.example.com",
            "https://",
            "https://аpp.example.com",  # noqa: RUF001  the first letter is Cyrillic
            "https://ａpp.example.com",  # noqa: RUF001  a full-width letter
            "null",
            "NULL",
            "",
            "*",
            "file://",
            "capacitor://localhost:80",
            "https://2001:db8::1:8443",
            "https://" + "a" * 600,
        ],
    )
    def test_everything_else(self, origin: str) -> None:
        assert cause_of(OriginPolicy(ALLOWED), head(origin))

    def test_not_ascii(self) -> None:
        assert (
            cause_of(OriginPolicy(ALLOWED), head(b"https://app.example.com\xff")) == "the Origin is null or malformed"
        )

    def test_several(self) -> None:
        twice = head("https://app.example.com", b"h", (b"origin", b"https://app.example.com"))
        assert cause_of(OriginPolicy(ALLOWED), twice) == "several Origin headers"

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("https://example.com", b"example.com:80"),
            ("http://example.com", b"example.com:443"),
            ("https://example.com:443", b"example.com:443"),
            ("https://example.com:8000", b"example.com"),
            ("https://example.com", b"example.com:8000"),
            ("https://example.com", b"example.com."),
            ("https://example.com", b"example.com:"),
            ("https://example.com", b"user@example.com"),
            ("https://example.com.evil", b"example.com"),
            ("https://evil.example", b""),
            ("https://evil.example", None),
            ("capacitor://example.com", b"example.com"),
            ("ws://example.com", b"example.com"),
        ],
    )
    def test_not_the_servers_own(self, origin: str, host: bytes | None) -> None:
        assert cause_of(OriginPolicy(), head(origin, host)) == f"the Origin {origin} is not allowed"

    def test_two_hosts_are_nobodys_own(self) -> None:
        two = head("https://example.com", b"example.com", (b"host", b"example.com"))
        assert cause_of(OriginPolicy(), two)

    def test_a_cause_cannot_forge_a_log_record(self) -> None:
        assert "evil" not in cause_of(OriginPolicy(), head("https://a\nevil"))


class TestEntries:
    @pytest.mark.parametrize(
        ("entry", "remedy"),
        [
            ("https://app.example.com/", "leave the path off: 'https://app.example.com'"),
            ("https://app.example.com/chat", "leave the path off: 'https://app.example.com'"),
            ("https://*.example.com", "name each origin, or '*' alone"),
            ("wss://app.example.com", "the scheme of the page: 'https://app.example.com'"),
            ("ws://app.example.com", "the scheme of the page: 'http://app.example.com'"),
            ("app.example.com", "expected 'scheme://host'"),
            ("https://user@app.example.com", "expected 'scheme://host'"),
            ("https://app.example.com:https", "expected 'scheme://host'"),
            ("https://app.example.com:70000", "expected 'scheme://host'"),
            ("https://bücher.example", "ASCII form"),
            ("null", "cannot be allowed"),
            ("", "expected 'scheme://host'"),
            ("https://" + "a" * 600, "expected 'scheme://host'"),
        ],
    )
    def test_a_wrong_one_is_named_with_the_remedy(self, entry: str, remedy: str) -> None:
        with pytest.raises(ConfigError) as caught:
            OriginPolicy(["https://app.example.com", entry])
        assert repr(entry) in str(caught.value)
        assert remedy in str(caught.value)


AUTHORITIES = st.text("ab.:0438[]A/@-\0\xe9", max_size=12)


@given(AUTHORITIES, st.data())
def test_whatever_comes_is_refused_unless_it_is_the_hosts(origin: str, data: st.DataObject) -> None:
    host = data.draw(AUTHORITIES | st.sampled_from([origin, origin + ":443", origin.upper()]))
    if is_allowed(head("https://" + origin, host.encode())):
        assert origin in (host.lower(), host.lower().removesuffix(":443"))


def is_allowed(request_head: RequestHead) -> bool:
    try:
        OriginPolicy(ALLOWED).check(request_head)
    except HandshakeRefused:
        return False
    return True
