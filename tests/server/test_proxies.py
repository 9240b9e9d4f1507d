"""Behind a proxy: whose word about the client's address is taken."""

from __future__ import annotations

import logging
import socket

import anyio
import pytest

from roomwire import App, Connection
from roomwire.core.errors import ConfigError
from roomwire.core.limits import Limits
from roomwire.core.request import RequestHead
from roomwire.transports.anyio import AnyioTransport
from roomwire.transports.anyio.forwarded import Proxies
from roomwire.transports.anyio.peers import group_of, peer_of
from roomwire.transports.contract import ListenOptions
from tests.server.conftest import Serve
from tests.server.live import Shell, make_token
from tests.server.raw import connect, exchange, request
from tests.server.watching import transport_of, until


def head(*forwarded: str, proto: str | None = None) -> RequestHead:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    if proto is not None:
        headers.append((b"x-forwarded-proto", proto.encode()))
    return RequestHead("GET", "/ws", "", headers)


@pytest.mark.parametrize(
    ("entries", "host", "trusted"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.1"], "10.0.0.1", True),
        (["10.0.0.1"], "10.0.0.11", False),
        (["2001:db8::/32"], "2001:db8:0:1::7", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["::1"], "::1", True),
        (["::1"], "::2", False),
        (["10.0.0.0/8"], "::1", False),
        (["*"], "203.0.113.9", True),
        ([], "127.0.0.1", False),
        ([], "", True),  # who may open our Unix socket
        (["10.0.0.0/8"], "?", False),  # a peer that was gone before it could be asked for
    ],
)
def test_who_is_trusted(entries: list[str], host: str, trusted: bool) -> None:
    assert Proxies(entries).trust(host) is trusted


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "localhost", "10.0.0", "", "10.0.0.0/40"])
def test_an_entry_that_is_no_network_stops_the_start(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.forwarded_allow_ips: expected IP addresses, networks"):
        AnyioTransport(ListenOptions(forwarded_allow_ips=(entry,)))


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        (["203.0.113.1, 198.51.100.7"], "198.51.100.7"),  # what stands left of the client is its own invention
        (["203.0.113.1", "198.51.100.7"], "198.51.100.7"),  # two field lines are one list
        (["198.51.100.7, 10.0.0.2"], "198.51.100.7"),  # over two proxies of ours
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # a client in our own network
        (["198.51.100.7:443"], "198.51.100.7"),
        (["[2001:db8::7]:443"], "2001:db8::7"),
        (["2001:DB8::7"], "2001:db8::7"),
        (["::ffff:198.51.100.7"], "198.51.100.7"),
        (["unknown"], ""),
        (["eyJhbGciOiJIUzI1NiJ9.e30.c2ln"], ""),
        (["198.51.100.7, garbage, 10.0.0.2"], "10.0.0.2"),  # nothing left of what cannot be read is believed
        (["\xff"], ""),
        ([""], ""),
        ([], ""),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(forwarded: list[str], client: str) -> None:
    assert Proxies(["10.0.0.0/8"]).client_of(head(*forwarded))[0] == client


def test_with_a_star_it_is_the_first_one() -> None:
    assert Proxies(["*"]).client_of(head("203.0.113.1, 198.51.100.7"))[0] == "203.0.113.1"


@pytest.mark.parametrize(
    ("proto", "secure"),
    [("https", True), ("wss", True), ("HTTPS", True), ("http", False), ("https, http", False), (None, False)],
)
def test_the_last_proxy_says_whether_it_was_tls(proto: str | None, secure: bool) -> None:
    assert Proxies(["*"]).client_of(head(proto=proto))[1] is secure


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("192.0.2.1", 5000), ("192.0.2.1:5000", "192.0.2.1", "192.0.2.1")),
        (("2001:db8:1:2:3::4", 5000, 0, 0), ("[2001:db8:1:2:3::4]:5000", "2001:db8:1:2:3::4", "2001:db8:1:2::")),
        (("::ffff:192.0.2.1", 5000, 0, 0), ("192.0.2.1:5000", "192.0.2.1", "192.0.2.1")),
        (("fe80::1%eth0", 5000, 0, 2), ("[fe80::1]:5000", "fe80::1", "fe80::")),
        (None, ("?", "?", "?")),
        ("", ("?", "?", "?")),
    ],
)
def test_the_name_and_the_group_of_a_peer(name: object, expected: tuple[str, str, str]) -> None:
    peer = peer_of(socket.AF_INET6, name)
    assert (peer.name, peer.host, peer.group) == expected


def test_the_peer_of_a_unix_socket_has_no_address() -> None:
    peer = peer_of(socket.AF_UNIX, "")
    assert (peer.name, peer.host, peer.group) == ("unix", "", "")


def test_addresses_of_one_64_are_one_group() -> None:
    assert group_of("2001:db8::1") == group_of("2001:db8::ffff:1") != group_of("2001:db8:0:1::1")


# --- over sockets


def peers_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    fields = [record.roomwire for record in caplog.records if hasattr(record, "roomwire")]
    return [entry["peer"] for entry in fields if entry.get("event") in ("connect", "refuse")]


@pytest.mark.parametrize(
    ("options", "believed"),
    [
        ({"proxy_headers": True}, True),
        ({"proxy_headers": True, "forwarded_allow_ips": ("127.0.0.0/8",)}, True),
        ({"proxy_headers": True, "forwarded_allow_ips": ("10.0.0.0/8",)}, False),
        ({}, False),
    ],
)
def test_a_forwarded_address_is_believed_from_a_proxy_alone(
    shell: Shell, serve: Serve, caplog: pytest.LogCaptureFixture, options: dict[str, object], believed: bool
) -> None:
    caplog.set_level(logging.INFO)
    server = serve(shell, listen=options)
    forwarded = "X-Forwarded-For: 198.51.100.7"
    with connect(server.port, request("/ws", forwarded, f"Authorization: Bearer {make_token('ann')}")) as link:
        link.upgraded()
        link.event("session.welcome")
    assert exchange(server.port, request("/ws", forwarded)).status == 401
    peers = peers_in(caplog)
    assert len(peers) == 2
    assert all((peer == "198.51.100.7") is believed for peer in peers)
    assert all(peer.startswith("127.0.0.1:") is not believed for peer in peers)


def test_clients_behind_a_proxy_are_counted_by_their_own_addresses(shell: Shell, serve: Serve) -> None:
    server = serve(shell, listen={"proxy_headers": True}, limits=Limits(max_pending_per_ip=1))
    door = transport_of(server).door
    # The proxy itself may hold as many connections as it likes.
    links = [connect(server.port) for _ in range(5)]
    until(server, lambda: len(door._inside) == 5)
    for link in links:
        link.close()
    until(server, lambda: not door._inside)


def test_and_one_client_behind_it_has_no_more_places_than_without_it(shell: Shell, serve: Serve) -> None:
    app, release = App(), anyio.Event()
    asked: list[str] = []

    @app.on_connect
    async def slowly(connection: Connection) -> None:
        asked.append(connection.peer)
        await release.wait()

    server = serve(shell, app=app, listen={"proxy_headers": True}, limits=Limits(max_pending_per_ip=1))

    def upgrade(address: str) -> bytes:
        return request("/ws", f"X-Forwarded-For: {address}", f"Authorization: Bearer {make_token('ann')}")

    with connect(server.port, upgrade("198.51.100.1")) as first:
        until(server, lambda: asked == ["198.51.100.1"])
        response = exchange(server.port, upgrade("198.51.100.1"))
        assert (response.status, response.json["error"]) == (503, "unavailable")
        with connect(server.port, upgrade("198.51.100.2")) as other:
            until(server, lambda: asked == ["198.51.100.1", "198.51.100.2"])
            server.call(release.set)
            for link in (first, other):
                link.upgraded()
                link.event("session.welcome")
        assert server.call(lambda: transport_of(server).door._by_address) == {}
