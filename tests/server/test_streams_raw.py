"""Event streams on raw sockets: the bytes, readers that do not keep up, peers that are gone, and a drain."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
import trustme

from roomwire.core.limits import Limits
from roomwire.core.publication import Publication
from roomwire.node import Connection
from roomwire.node.control import Evict
from roomwire.protocols.sse import SseProtocol
from roomwire.testing.clock import VirtualClock
from roomwire.transports.anyio.framing import CHUNKED
from roomwire.transports.contract import Link
from tests.core.streams import read_all
from tests.server.chat import Log, make_app
from tests.server.conftest import Serve
from tests.server.live import LiveServer, Shell, make_token
from tests.server.raw import TIMEOUT, RawLink, Response, connect
from tests.server.streaming import Viewers
from tests.server.test_backpressure import QUIET, TINY, filled, narrow_down
from tests.server.test_drain import drain
from tests.server.watching import carriers, only_carrier, transport_of, until

LIMITS = Limits(outbox_bytes=100_000, connections_per_user=1000, heartbeat_interval=1000.0, heartbeat_timeout=3000.0)


def asking(user: str = "ann", room: str = "chat:general", *headers: str, version: str = "HTTP/1.1") -> bytes:
    lines = [f"GET /sse?room={room} {version}", "Host: 127.0.0.1", f"Authorization: Bearer {make_token(user)}"]
    return ("\r\n".join([*lines, *headers]) + "\r\n\r\n").encode()


@pytest.fixture
def links() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def head_of(link: RawLink) -> Response:
    """The head of a response that goes on."""
    data = bytearray()
    while not data.endswith(b"\r\n\r\n"):
        piece = link.read(1)
        assert piece, f"the link ended: {data!r}"
        data += piece
    return Response.parse(bytes(data))


def chunk(link: RawLink) -> bytes:
    """The next chunk (RFC 9112 section 7.1), with its framing; the last one is empty."""
    line = bytearray()
    while not line.endswith(b"\r\n"):
        piece = link.read(1)
        assert piece, "the link ended within a chunk's head, or before the last one"
        line += piece
    rest = link.read(int(line, 16) + 2)
    assert rest.endswith(b"\r\n"), "the link ended within a chunk"
    return bytes(line) + rest


def events_of(data: bytes) -> list[str]:
    return [event.event for event in read_all(data.partition(b"\r\n")[2].decode())]


def viewer(server: LiveServer, user: str = "ann", *, buffer: int | None = None) -> RawLink:
    """A stream, up to the welcome; `buffer` is what its kernel takes while it does not read."""
    sock = socket.socket()
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(TIMEOUT)
    sock.connect(("127.0.0.1", server.port))
    link = RawLink(sock)
    link.send(asking(user))
    assert head_of(link).header("transfer-encoding") == "chunked"
    assert events_of(chunk(link))[0] == "session.welcome"
    return link


class TestTheBytes:
    def test_one_chunk_for_what_came_in_a_turn_and_the_same_for_all(
        self, shell: Shell, serve: Serve, links: ExitStack
    ) -> None:
        server = serve(shell, rooms=QUIET)
        viewers = [links.enter_context(viewer(server, user)) for user in ("ann", "bob")]
        server.publish(3)
        chunks = [chunk(link) for link in viewers]
        assert chunks[0] == chunks[1]
        assert events_of(chunks[0]) == ["told"] * 3
        server.act(server.node.app.disconnect, "ann")
        assert events_of(chunk(viewers[0])) == ["session.closing"]
        assert chunk(viewers[0]) == b"0\r\n\r\n"
        assert viewers[0].read_to_end() == b""

    def test_up_to_the_end_of_the_link_for_http_1_0(self, shell: Shell, serve: Serve) -> None:
        server = serve(shell, rooms=QUIET)
        with connect(server.port, asking(version="HTTP/1.0")) as link:
            assert head_of(link).header("transfer-encoding") is None
            until(server, lambda: server.node.hub.rooms["chat:general"].live)
            server.publish(2)
            server.act(server.node.app.disconnect, "ann")
            events = [event.event for event in read_all(link.read_to_end().decode())]
        assert events == ["session.welcome", "told", "told", "session.closing"]

    def test_over_tls(self, shell: Shell, serve: Serve, links: ExitStack) -> None:
        authority = trustme.CA()
        ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("localhost").configure_cert(ours)
        authority.configure_trust(theirs)
        server = serve(shell, rooms=QUIET, listen={"ssl": ours}, limits=LIMITS)
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
        link = links.enter_context(RawLink(theirs.wrap_socket(sock, server_hostname="localhost")))
        link.send(asking())
        assert head_of(link).status == 200
        assert events_of(chunk(link)) == ["session.welcome"]
        server.publish(2)
        assert events_of(chunk(link)) == ["told", "told"]
        server.act(server.node.app.disconnect, "ann")
        assert events_of(chunk(link)) == ["session.closing"]
        assert chunk(link) == b"0\r\n\r\n"
        assert link.read_to_end() == b""

    def test_one_encode_for_all_viewers(self, shell: Shell, serve: Serve, links: ExitStack) -> None:
        calls: list[Publication] = []

        class Counting(SseProtocol):
            def broadcast(self, publication: Publication) -> str:
                calls.append(publication)
                message = super().broadcast(publication)
                assert isinstance(message, str)
                return message

        server = serve(shell, rooms=QUIET, streams={"/sse": Counting()})
        viewers = [links.enter_context(viewer(server, f"user-{number}")) for number in range(20)]
        by_socket = server.connect("by-socket")
        until(server, lambda: len(server.node.hub.rooms["chat:general"].live) == 21)
        (id_,) = server.publish(1)
        assert len({chunk(link) for link in viewers}) == 1
        assert by_socket.receive_until("told")["id"] == id_
        assert len(calls) == 1

    def test_over_a_unix_socket(self, shell: Shell, serve: Serve, links: ExitStack, tmp_path: Path) -> None:
        server = serve(shell, rooms=QUIET, listen={"uds": str(tmp_path / "socket")})
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        sock.connect(str(tmp_path / "socket"))
        link = links.enter_context(RawLink(sock))
        link.send(asking())
        assert head_of(link).status == 200
        assert events_of(chunk(link)) == ["session.welcome"]
        server.publish(1)
        assert events_of(chunk(link)) == ["told"]

    def test_nothing_is_no_chunk_since_an_empty_one_is_the_last(self) -> None:
        assert CHUNKED.block([]) == CHUNKED.block([""]) == b""
        assert CHUNKED.size(CHUNKED.block(["ab", b"c"])) == len(b"3\r\nabc\r\n")


class TestThePeer:
    def test_a_little_that_it_sends_is_dropped_and_more_is_not_borne(
        self, shell: Shell, serve: Serve, links: ExitStack
    ) -> None:
        server = serve(shell, rooms=QUIET)
        link = links.enter_context(connect(server.port, asking() + b"x" * 2000))
        head_of(link)
        chunk(link)
        link.send(b"\x00" * 2096)
        server.publish(1)
        assert events_of(chunk(link)) == ["told"]
        link.send(b"x")
        closing = read_all(chunk(link).partition(b"\r\n")[2].decode())[0]
        assert json.loads(closing.data)["data"]["code"] == 1008
        assert chunk(link) == b"0\r\n\r\n"

    def test_the_end_of_its_sending_is_the_end(self, shell: Shell, serve: Serve, links: ExitStack) -> None:
        server = serve(shell, rooms=QUIET)
        link = links.enter_context(viewer(server))
        link.half_close()
        assert link.read_to_end() == b""
        until(server, lambda: not server.node.connections and not carriers(server))
        assert server.node.counts.closed == {("1005", "peer"): 1}

    def test_a_reset(self, shell: Shell, serve: Serve) -> None:
        server = serve(shell, rooms=QUIET)
        viewer(server).reset()
        until(server, lambda: not server.node.connections and not carriers(server))

    def test_one_whose_machine_is_gone_is_found_by_the_kernel(
        self, shell: Shell, serve: Serve, links: ExitStack
    ) -> None:
        """Nothing is heard of it, and a comment in 30 s does not fill a buffer."""
        server = serve(shell, limits=Limits(heartbeat_timeout=77.0))
        links.enter_context(viewer(server))
        sock = server.call(lambda: only_carrier(server).socket_options())
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 77_000

    def test_an_idle_stream_has_no_task(self, serve: Serve, links: ExitStack) -> None:
        server = serve()
        before = server.call(lambda: len(asyncio.all_tasks()))
        for number in range(20):
            links.enter_context(viewer(server, f"user-{number}"))
        until(server, lambda: len(server.node.hub.rooms["chat:general"].live) == 20)
        until(server, lambda: len(asyncio.all_tasks()) == before)

    def test_it_leaves_the_door(self, shell: Shell, serve: Serve, links: ExitStack) -> None:
        server = serve(shell, limits=Limits(max_pending_handshakes=2, max_pending_per_ip=2))
        for number in range(5):
            links.enter_context(viewer(server, f"user-{number}"))
        assert transport_of(server).pending == 0

    def test_a_decision_that_takes_too_long(self, shell: Shell, serve: Serve) -> None:
        log, never = Log(), anyio.Event()
        reached = anyio.Event()

        async def joining(_: Connection, channel: str) -> None:
            reached.set()
            await never.wait()

        log.joining = joining
        server = serve(shell, app=make_app(log), clock=VirtualClock())
        with connect(server.port, asking(room="chat:other")) as link:
            until(server, reached.is_set)
            server.advance(11.0)
            assert link.response().status == 503
        until(server, lambda: not server.node.connections_of("ann"))


class TestSlowReaders:
    def test_one_stalled_viewer_is_cut_and_the_others_get_everything(
        self, shell: Shell, serve: Serve, links: ExitStack
    ) -> None:
        # The clock stands still: the time that its end has is not over before it is read here.
        server = serve(shell, rooms=QUIET, limits=LIMITS, clock=VirtualClock())
        narrow_down(server)
        stalled = links.enter_context(viewer(server, "stalled", buffer=TINY))
        others = [links.enter_context(viewer(server, f"user-{number}")) for number in range(20)]
        ids: list[str] = []
        for _ in range(15):
            new = server.publish(10, data="x" * 1500)
            for link in others:
                data, got = "", 0
                while got < 10:
                    data += chunk(link).partition(b"\r\n")[2].decode().removesuffix("\r\n")
                    got = data.count("event: told\n")
                assert [event.id for event in read_all(data)] == new
            ids += new
        assert not server.node.connections_of("stalled")
        # It can still read what was on its way, in order, and the end; nothing announces it.
        data = ""
        while (piece := chunk(stalled)) != b"0\r\n\r\n":
            data += piece.partition(b"\r\n")[2].decode().removesuffix("\r\n")
        events = read_all(data)
        assert {event.event for event in events} == {"told"}
        assert [event.id for event in events] == ids[: len(events)]
        assert 0 < len(events) < len(ids)
        assert server.node.counts.closed == {}
        stalled.close()
        until(server, lambda: server.node.counts.closed == {("4002", "server"): 1})

    def test_one_who_takes_not_one_byte_has_a_time(self, shell: Shell, serve: Serve, links: ExitStack) -> None:
        clock = VirtualClock()
        server = serve(shell, rooms=QUIET, limits=LIMITS, clock=clock)
        narrow_down(server)
        links.enter_context(viewer(server, "stalled", buffer=TINY))
        carrier = only_carrier(server)

        def wait(seconds: float) -> int:
            clock.advance(seconds)
            server.node.upkeep.tick(clock())
            return carrier._held()

        server.publish(1, data="x" * 60_000)
        server.call(filled, carrier)
        server.advance(29.0)
        assert server.node.connections_of("stalled")
        held = server.call(wait, 2.0)  # it took some, before the kernels were full: the time begins anew
        while server.node.connections_of("stalled"):
            before, held = held, server.call(wait, 31.0)
            # What is on its way to a peer arrives when the kernels like.
            assert bool(server.node.connections_of("stalled")) is (held < before)
        server.advance(6.0)  # `limits.close_timeout`: it does not read the end either
        until(server, lambda: not carriers(server))

    def test_a_replay_is_no_slowness(self, shell: Shell, serve: Serve, links: ExitStack) -> None:
        server = serve(shell, rooms=QUIET, limits=LIMITS)
        first, *missed = server.publish(301, data="x" * 1500)
        with Viewers(server) as viewers:
            assert viewers.view(since=first).take("told", 300) == missed


class TestADrain:
    def test_every_stream_ends_with_a_moment_to_come_back(self, shell: Shell, serve: Serve) -> None:
        server = serve(shell, reconnect_spread=5.0)
        with Viewers(server) as viewers:
            streams = [viewers.view(user=f"user-{number}") for number in range(10)]
            for stream in streams:
                stream.next()
            drain(server)
            moments = set()
            for stream in streams:
                *_, last = stream.rest()
                data = json.loads(last.data)["data"]
                assert (last.event, data["code"], data["reconnect"]) == ("session.closing", 1012, True)
                assert stream.reader.retry is not None and 1000 <= stream.reader.retry <= 6000
                moments.add(stream.reader.retry)
        assert len(moments) > 5
        assert server.ended.result(TIMEOUT) is None

    def test_who_asks_then_is_told_when_to_ask_again(self, shell: Shell, serve: Serve) -> None:
        """An EventSource gives up for good on a 503."""
        log = Log()
        server = serve(shell, app=make_app(log), origins=("https://a.example",))
        socket = server.connect("busy")
        socket.send("wait")
        until(server, lambda: ("busy", "wait") in log.handled)
        with connect(server.port) as link:
            until(server, lambda: len(carriers(server)) == 2)  # accepted while that was still done
            drain(server)
            until(server, lambda: server.node.draining)
            link.send(asking("ann", "chat:general", "Origin: https://a.example"))
            answer = link.response()
        assert (answer.status, answer.header("content-type")) == (200, "text/event-stream")
        assert answer.header("access-control-allow-origin") == "https://a.example"
        assert answer.body.startswith(b"retry: ") and answer.body.endswith(b"\n\n")
        assert answer.body.count(b"\n") == 2
        server.call(log.release.set)
        assert server.ended.result(TIMEOUT) is None

    def test_a_close_in_the_turn_of_the_welcome_is_told(
        self, shell: Shell, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = Connection.opened

        def close_first(connection: Connection, link: Link) -> None:
            connection._node.control.evict(Evict(connection=connection.id))
            opened(connection, link)

        server = serve(shell)
        monkeypatch.setattr(Connection, "opened", close_first)
        with Viewers(server) as viewers:
            (event,) = viewers.view().rest()
        assert json.loads(event.data)["data"]["code"] == 4501
