"""URLs (RFC 6455 section 3)."""

from __future__ import annotations

import pytest

from roomwire.client.endpoint import Endpoint
from roomwire.core.errors import LocalError


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "target", "host_header"),
    [
        ("ws://example.org", "example.org", 80, False, "/", "example.org"),
        ("ws://example.org:80/ws", "example.org", 80, False, "/ws", "example.org"),
        ("wss://example.org/ws", "example.org", 443, True, "/ws", "example.org"),
        ("wss://example.org:443/", "example.org", 443, True, "/", "example.org"),
        ("wss://example.org:80/", "example.org", 80, True, "/", "example.org:80"),
        ("WS://Example.ORG:8000/ws?x=1&y=a%20b", "example.org", 8000, False, "/ws?x=1&y=a%20b", "example.org:8000"),
        ("ws://[::1]:8000/ws", "::1", 8000, False, "/ws", "[::1]:8000"),
        ("ws://b\u00fccher.example/", "xn--bcher-kva.example", 80, False, "/", "xn--bcher-kva.example"),
        ("ws://h/caf\u00e9?q=\u00e9 x", "h", 80, False, "/caf%C3%A9?q=%C3%A9%20x", "h"),
    ],
)
def test_a_url(url: str, host: str, port: int, tls: bool, target: str, host_header: str) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.host, endpoint.port, endpoint.tls) == (host, port, tls)
    assert (endpoint.target, endpoint.host_header) == (target, host_header)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.org/ws", "ws://"),
        ("example.org/ws", "ws://"),
        ("", "ws://"),
        ("ws://", "no host"),
        ("ws:///ws", "no host"),
        ("ws://h:x/", "not correct"),
        ("ws://h:70000/", "not correct"),
        ("ws://[::1/", "not correct"),
        ("ws://ann:secret@h/", "user or a password"),
        ("ws://h/#part", "fragment"),
        ("ws://h/?token=secret", "token"),
        ("ws://h/?client=x&state=1&last_event_id", "client, last_event_id, state"),
        ("ws://" + "\u00e9" * 70 + "/", "no domain name"),
    ],
)
def test_what_is_refused(url: str, why: str) -> None:
    with pytest.raises(LocalError, match=why) as caught:
        Endpoint.parse(url)
    assert "secret" not in str(caught.value)


def test_no_query_in_what_people_see() -> None:
    endpoint = Endpoint.parse("ws://h/ws?key=secret")
    assert endpoint.url == "ws://h/ws"
    assert "secret" not in repr(endpoint)
