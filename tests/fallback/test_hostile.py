"""Clients that send what could be read in two ways, too much, or too slowly, and those that do not read."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from tests.core.test_exchange import SMUGGLED
from tests.fallback.apps import Played
from tests.fallback.conftest import live_fallback
from tests.fallback.talking import CLOSE, ask, chunks, read_cut, read_response, release, wait_for
from tests.server.live import SHELLS, TIMEOUT, LiveServer, Shell
from tests.server.raw import connect, exchange
from tests.server.watching import carriers, until

SIZE = 64 * 1024 * 1024


@pytest.mark.parametrize("fields", SMUGGLED.values(), ids=list(SMUGGLED))
def test_what_could_be_read_in_two_ways_is_400_and_the_end(server: LiveServer, played: Played, fields: bytes) -> None:
    with connect(server.port, b"POST /echo HTTP/1.1\r\nHost: a\r\n" + fields + ask("/hidden")) as link:
        response = link.response()
    assert (response.status, response.json["error"]) == (400, "bad_request")
    assert "/hidden" not in played.got


class TestBodies:
    def test_too_large_a_one_is_413(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, limits=Limits(max_request_body=100)) as server:
            for length in (101, 10**19):
                assert exchange(server.port, ask("/echo", f"Content-Length: {length}", method="POST")).status == 413
            with connect(server.port, ask("/", "Content-Length: 101", method="HEAD")) as link:
                head, end, body = link.read_to_end().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 413")
            assert (end, body) == (b"\r\n\r\n", b"")
            chunked = ask("/echo", "Transfer-Encoding: chunked", method="POST", body=chunks(b"x" * 101))
            assert exchange(server.port, chunked).status == 413
            whole = ask("/echo", CLOSE, "Content-Length: 100", method="POST", body=b"x" * 100)
            assert exchange(server.port, whole).body == b"x" * 100

    def test_no_more_is_read_than_the_application_takes(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, limits=Limits(max_request_body=0)) as server:
            with connect(server.port, ask("/slowly", f"Content-Length: {SIZE}", method="POST")) as link:
                wait_for(server, played, "held")
                link.sock.settimeout(0.3)
                sent = 0
                with pytest.raises(TimeoutError):
                    while True:
                        sent += link.sock.send(b"x" * 65_536)
                (carrier,) = server.call(lambda: list(server.node.transport.carriers))  # type: ignore[attr-defined]
                assert carrier._opening.exchange._size <= 65_536 + 262_144
                assert sent < SIZE
            release(server, played)

    def test_continue_is_said_when_the_application_asks(self, server: LiveServer, played: Played) -> None:
        expecting = ask("/slowly", CLOSE, "Content-Length: 2", "Expect: 100-continue", method="POST")
        with connect(server.port, expecting) as link:
            wait_for(server, played, "held")
            link.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                link.sock.recv(1)
            link.sock.settimeout(TIMEOUT)
            release(server, played)
            assert link.read(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            link.send(b"hi")
            assert link.response().body == b"hi"

    def test_continue_is_never_said_where_it_does_not_ask(self, server: LiveServer) -> None:
        expecting = ask("/ignores", "Content-Length: 2", "Expect: 100-continue", method="POST")
        assert exchange(server.port, expecting).body == b"no"

    def test_a_crumb_in_each_chunk_holds_nobody_up(self, server: LiveServer) -> None:
        crumbs = chunks(*[b"x"] * 5000)
        with connect(
            server.port, ask("/echo", CLOSE, "Transfer-Encoding: chunked", method="POST", body=crumbs)
        ) as link:
            assert link.response().body == b"x" * 5000

    def test_one_that_trickles_in_is_408(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, clock=VirtualClock()) as server:
            with connect(server.port, ask("/echo", "Content-Length: 100000", method="POST", body=b"x" * 100)) as link:
                server.call(lambda: None)
                while not played.got.get("/echo"):
                    server.call(lambda: None)
                server.advance(10.5)
                response = link.response()
                assert response.status == 408
            while len(played.got["/echo"]) < 2:
                server.call(lambda: None)
            assert played.got["/echo"][-1] == {"type": "http.disconnect"}

    def test_one_that_the_application_does_not_ask_for_has_time(self, shell: Shell, played: Played) -> None:
        """Neither the client that waits for the 100 nor one whose bytes are not read is slow."""
        with live_fallback(played, shell, clock=VirtualClock()) as server:
            expecting = ask("/slowly", CLOSE, "Content-Length: 2", "Expect: 100-continue", method="POST")
            whole = ask("/slowly", CLOSE, "Content-Length: 70000", method="POST", body=b"x" * 70_000)
            with connect(server.port, expecting) as waiting, connect(server.port, whole) as unread:
                wait_for(server, played, "held")
                while len(played.scopes) < 2:
                    server.call(lambda: None)
                server.advance(60.0)
                release(server, played)
                assert waiting.read(25).startswith(b"HTTP/1.1 100")
                waiting.send(b"hi")
                assert waiting.response().body == b"hi"
                assert len(unread.response().body) == 70_000


class TestReaders:
    def test_send_waits_for_one_who_does_not_read(self, server: LiveServer, played: Played) -> None:
        with connect(server.port, ask("/flood", CLOSE)) as link:
            link.read(1)
            wait_for(server, played, "held")
            # Others are served while it waits.
            assert exchange(server.port, ask("/", CLOSE)).body == b"root"
            assert played.pieces < 256
            assert len(link.read_to_end()) > 16 * 1024 * 1024
        while played.pieces < 256:
            server.call(lambda: None)

    def test_the_last_part_waits_for_those_before_it(self, server: LiveServer) -> None:
        with connect(server.port, ask("/together") + ask("/", CLOSE)) as link:
            data = link.read_to_end()
        first, _, second = data.partition(b"\r\n3\r\nend\r\n0\r\n\r\n")
        assert first.count(b"x") >= 8_388_608
        assert second.startswith(b"HTTP/1.1 200")
        assert second.endswith(b"root")

    def test_one_in_crumbs_holds_nobody_up(self, server: LiveServer, played: Played) -> None:
        assert exchange(server.port, ask("/drops", CLOSE)).status == 200
        assert played.turns >= 100

    def test_who_takes_nothing_is_cut_off(self, shell: Shell, played: Played) -> None:
        clock = VirtualClock()
        with live_fallback(played, shell, clock=clock) as server:

            def wait() -> bool:
                clock.advance(31.0)
                server.node.upkeep.tick(clock())
                return not carriers(server)

            with connect(server.port, ask("/forever")) as link:
                link.read(1)
                (carrier,) = carriers(server)
                until(server, lambda: carrier._blocked)
                server.advance(29.0)
                assert carriers(server)
                until(server, wait)  # as long as the kernels take some, its time begins anew
                pieces = played.pieces
                while played.pieces <= pieces + 2:  # `send` goes on, and does nothing
                    server.call(lambda: None)
                release(server, played)
                wait_for(server, played, "ended")
                read_cut(link)

    def test_one_who_leaves_is_told_to_the_application(self, server: LiveServer, played: Played) -> None:
        with connect(server.port, ask("/waits")) as link:
            while not played.got.get("/waits"):
                server.call(lambda: None)
            link.close()
        wait_for(server, played, "disconnected")
        assert played.got["/waits"] == [
            {"type": "http.request", "body": b"", "more_body": False},
            {"type": "http.disconnect"},
        ]

    def test_one_who_leaves_cancels_nothing(self, server: LiveServer, played: Played) -> None:
        with connect(server.port, ask("/held")) as link:
            wait_for(server, played, "held")
            link.reset()
        release(server, played)
        assert exchange(server.port, ask("/", CLOSE)).body == b"root"


class TestKeptConnections:
    def test_an_idle_one_is_closed_without_a_word(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, clock=VirtualClock()) as server:
            with connect(server.port, ask()) as link:
                assert read_response(link).body == b"root"
                server.advance(4.0)
                link.send(ask())
                assert read_response(link).body == b"root"
                server.advance(5.5)
                assert link.read_to_end() == b""

    def test_a_slow_head_on_one_is_408(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, clock=VirtualClock()) as server:
            with connect(server.port, ask()) as link:
                assert read_response(link).body == b"root"
                link.send(b"GET / HT")
                while not server.call(lambda: server.node.transport.pending):  # type: ignore[attr-defined]
                    pass
                server.advance(10.5)
                assert link.response().status == 408

    def test_one_too_many_closes_the_oldest(self, shell: Shell, played: Played) -> None:
        with live_fallback(played, shell, limits=Limits(max_requests=2)) as server:
            with ExitStack() as stack:
                links = []
                for number in range(1, 4):
                    links.append(stack.enter_context(connect(server.port, ask())))
                    assert read_response(links[-1]).body == b"root"
                    while server.call(lambda: server.node.fallback._running):  # type: ignore[union-attr]
                        pass
                    assert server.call(lambda: len(server.node.transport.kept)) == min(number, 2)  # type: ignore[attr-defined]
                assert links[0].read_to_end() == b""
                for link in links[1:]:
                    link.send(ask("/", CLOSE))
                    assert link.response().body == b"root"

    def test_each_head_has_its_place_at_the_door(self, played: Played) -> None:
        limits = Limits(max_pending_handshakes=2, max_pending_per_ip=1)
        with live_fallback(played, SHELLS["callback-asyncio"], limits=limits) as server:
            with connect(server.port, ask()) as kept:
                assert read_response(kept).body == b"root"
                with connect(server.port, b"GET / HT") as holding:
                    while not server.call(lambda: server.node.transport.pending):  # type: ignore[attr-defined]
                        pass
                    kept.send(ask())
                    assert kept.response().status == 503
                    holding.send(b"TP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    assert holding.response().body == b"root"


def test_requests_in_flight_are_bounded(shell: Shell, played: Played) -> None:
    with live_fallback(played, shell, limits=Limits(max_requests=1)) as server:
        with connect(server.port, ask("/held", CLOSE)) as first:
            wait_for(server, played, "held")
            second = exchange(server.port, ask())
            assert (second.status, second.json["error"]) == (503, "unavailable")
            assert second.header("retry-after")
            assert exchange(server.port, ask("/healthz")).status == 200
            release(server, played)
            assert first.response().body == b"released"
        assert exchange(server.port, ask("/", CLOSE)).body == b"root"
