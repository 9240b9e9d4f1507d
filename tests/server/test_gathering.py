"""What leaves at the end of a turn: together, whole and in order, whatever happens to the link before."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from roomwire import Connection
from roomwire.core.closing import CloseCode, Closing
from roomwire.core.frames import Opcode
from roomwire.transports.anyio.carrier import Carrier, Phase
from roomwire.transports.anyio.gathering import SMALL, TOGETHER, Gatherer
from tests.server.chat import make_app
from tests.server.conftest import Serve
from tests.server.echoing import EchoServer, echo_server
from tests.server.live import UNHURRIED, Client, LiveServer, Shell
from tests.server.raw import RawLink, connect, frame, request
from tests.server.test_streams_raw import asking, head_of
from tests.server.test_writes import listening, narrow_link
from tests.server.watching import only_carrier, until

__all__ = ["listening"]


class Pair:
    """A client, and its carrier on the server."""

    def __init__(self, server: EchoServer, link: RawLink) -> None:
        carrier = server.receiver().link
        assert isinstance(carrier, Carrier)
        self.server, self.link, self.carrier = server, link, carrier

    def soon(self, payload: bytes) -> None:
        """On the server's loop."""
        self.carrier.write_soon(self.carrier.framing.block([payload]), 1)

    def write(self, payload: bytes) -> None:
        """On the server's loop."""
        self.carrier.write(self.carrier.framing.block([payload]), 1)


def three_pairs(server: EchoServer, stack: ExitStack) -> list[Pair]:
    pairs = []
    for number in range(3):
        link = stack.enter_context(connect(server.port, request("/")))
        link.upgraded()
        server.until(lambda: len(server.host.receivers) == number + 1 and server.receiver().link)  # noqa: B023
        pairs.append(Pair(server, link))
    return pairs


@pytest.fixture
def pair(shell: Shell) -> Iterator[Pair]:
    with echo_server(shell) as server, connect(server.port, request("/")) as link:
        link.upgraded()
        server.until(lambda: server.receiver().link)
        yield Pair(server, link)


def test_it_waits_for_the_end_of_the_turn_and_no_longer(pair: Pair) -> None:
    def waits() -> bool:
        pair.soon(b"one")
        return isinstance(pair.carrier._cork, bytes)

    assert pair.server.call(waits)
    assert pair.link.frame() == (Opcode.BINARY, b"one")
    assert pair.carrier.sent == 1
    assert pair.carrier._cork is None


def test_what_is_written_after_it_goes_out_after_it_and_at_once(pair: Pair) -> None:
    def write_twice() -> object:
        pair.soon(b"one")
        pair.write(b"two")
        pair.soon(b"three")
        pair.soon(b"four")
        pair.carrier.ping()
        return pair.carrier._cork

    assert pair.server.call(write_twice) is None
    assert [pair.link.frame() for _ in range(5)] == [
        *((Opcode.BINARY, text) for text in (b"one", b"two", b"three", b"four")),
        (Opcode.PING, b""),
    ]
    assert pair.carrier.sent == 4


def test_a_large_block_does_not_wait(pair: Pair) -> None:
    def write() -> object:
        pair.soon(b"x" * SMALL)
        return pair.carrier._cork

    assert pair.server.call(write) is None
    assert pair.link.frame() == (Opcode.BINARY, b"x" * SMALL)


def test_a_close_goes_out_behind_it(pair: Pair) -> None:
    def write_and_close() -> None:
        pair.soon(b"one")
        pair.carrier.close(Closing.of(CloseCode.REMOVED))
        pair.soon(b"too late")

    pair.server.call(write_and_close)
    assert pair.link.frame() == (Opcode.BINARY, b"one")
    pair.link.send_frame(Opcode.CLOSE, CloseCode.REMOVED.to_bytes(2, "big"))
    assert pair.link.close_frame() == (CloseCode.REMOVED, "removed by the application")
    assert pair.carrier.sent == 1


def test_the_answer_to_the_peers_close_goes_out_behind_it(pair: Pair) -> None:
    def write_and_receive() -> None:
        pair.soon(b"one")
        pair.carrier.receive(frame(Opcode.CLOSE, (1000).to_bytes(2, "big")))

    pair.server.call(write_and_receive)
    assert pair.link.frame() == (Opcode.BINARY, b"one")
    assert pair.link.close_frame() == (1000, "")


def test_a_peer_that_sends_no_more_is_still_answered(pair: Pair) -> None:
    def write_after_the_end() -> None:
        pair.link.half_close()
        pair.soon(b"one")

    pair.server.call(write_after_the_end)
    assert pair.link.frame() == (Opcode.BINARY, b"one")
    assert pair.link.frame() is None


def test_the_end_of_tcp_comes_behind_it(pair: Pair) -> None:
    """Where nothing else is said at the end, as on a stream of HTTP/1.0."""

    def write_and_finish() -> None:
        pair.soon(b"one")
        pair.carrier.phase = Phase.ENDING
        pair.carrier._finish()

    pair.server.call(write_and_finish)
    assert pair.link.frame() == (Opcode.BINARY, b"one")
    assert pair.link.frame() is None


def test_a_stream_that_has_no_end_of_its_own_ends_behind_it(shell: Shell, serve: Serve) -> None:
    """One of HTTP/1.0, which is closed with a code that is not announced on it."""
    server = serve(shell)
    with connect(server.port, asking(version="HTTP/1.0")) as link:
        head_of(link)
        until(server, lambda: server.node.hub.rooms["chat:general"].live)
        carrier = only_carrier(server)

        def write_and_close() -> None:
            carrier.write_soon(b"data: one\n\n", 1)
            carrier.close(Closing(CloseCode.TOO_BIG))

        server.call(write_and_close)
        assert link.read_to_end().endswith(b"data: one\n\n")


@pytest.mark.parametrize("how", ["abort", "reset"])
def test_a_link_that_ends_meanwhile_gets_nothing_and_nobody_elses_does(shell: Shell, how: str) -> None:
    with echo_server(shell) as server, ExitStack() as stack:
        pairs = three_pairs(server, stack)

        def write_and_end() -> None:
            for pair in pairs:
                pair.soon(b"one")
            if how == "abort":
                pairs[1].carrier.abort()
            else:
                pairs[1].link.reset()

        server.call(write_and_end)
        server.until(lambda: server.receiver(1).ended)
        assert server.receiver(1).ended == (1006, "", False)
        for pair in (pairs[0], pairs[2]):
            server.call(pair.write, b"two")
            assert [pair.link.frame() for _ in range(2)] == [(Opcode.BINARY, text) for text in (b"one", b"two")]


def test_a_fault_of_one_does_not_keep_the_others_waiting(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    with echo_server(shell) as server, ExitStack() as stack:
        pairs = three_pairs(server, stack)
        release = Carrier.release

        def fail_once(carrier: Carrier) -> None:
            if carrier is pairs[1].carrier:
                monkeypatch.undo()
                raise AssertionError("planted")
            release(carrier)

        def write() -> None:
            for pair in pairs:
                pair.soon(b"one")
            monkeypatch.setattr(Carrier, "release", fail_once)

        server.call(write)
        for pair in (pairs[0], pairs[2]):
            assert pair.link.frame() == (Opcode.BINARY, b"one")
        assert pairs[1].link.frame() == (Opcode.BINARY, b"one")
        pairs[1].link.send_frame(Opcode.CLOSE, CloseCode.INTERNAL_ERROR.to_bytes(2, "big"))
        assert pairs[1].link.close_frame()[0] == CloseCode.INTERNAL_ERROR


def test_it_does_not_wait_for_a_fan_out(shell: Shell) -> None:
    with echo_server(shell) as server, ExitStack() as stack:
        pairs = three_pairs(server, stack)
        _, *members = pairs

        def write_and_spread() -> list[object]:
            for pair in pairs[:2]:
                pair.soon(b"one")
            carriers = [member.carrier for member in members]
            carriers[0].spread(carriers, carriers[0].framing.block([b"two"]), 1)
            return [pair.carrier._cork for pair in pairs]

        assert server.call(write_and_spread) == [None] * 3
        assert [pairs[0].link.frame(), pairs[1].link.frame()] == [(Opcode.BINARY, b"one")] * 2
        assert [member.link.frame() for member in members] == [(Opcode.BINARY, b"two")] * 2


def test_where_the_kernel_takes_a_part_the_rest_comes_and_counts(shell: Shell, listening: socket.socket) -> None:
    with echo_server(shell, listen={"fd": listening.fileno()}) as server, narrow_link(server) as link:
        pair = Pair(server, link)
        pieces = [os.urandom(SMALL - 10) for _ in range(40)]

        def write() -> bool:
            for piece in pieces:
                pair.soon(piece)
            pair.carrier.release()
            return pair.carrier._blocked and pair.carrier._counted

        assert server.call(write)
        assert [link.frame() for _ in pieces] == [(Opcode.BINARY, piece) for piece in pieces]
        server.until(lambda: not pair.carrier.queued())


# --- with a node above it


class Watched:
    """How many were put aside, and how many at the most at one time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.aside = self.most = 0
        add = Gatherer.add

        def watch(gatherer: Gatherer, carrier: Carrier) -> None:
            add(gatherer, carrier)
            self.aside += 1
            self.most = max(self.most, len(gatherer._waiting))

        monkeypatch.setattr(Gatherer, "add", watch)


@pytest.fixture
def crowd(shell: Shell, serve: Serve) -> tuple[LiveServer, list[Client]]:
    app = make_app()

    @app.on("repeat", room="chat:general")
    async def repeat(connection: Connection, data: str) -> str:
        await app.publish("chat:general", "said", data)
        return data

    server = serve(shell, app=app, limits=UNHURRIED)
    return server, [server.connect(f"user-{number}") for number in range(2 * TOGETHER + 5)]


def test_the_replies_of_one_turn_leave_a_few_at_a_time_and_before_the_rooms_events(
    crowd: tuple[LiveServer, list[Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, clients = crowd
    watched = Watched(monkeypatch)

    def all_speak() -> None:
        for number, client in enumerate(clients):
            client.send("repeat", f"text-{number}", room="chat:general", id="id")

    # On the server's own loop: it sees none of them before it sees all.
    server.call(all_speak)
    orders = set()
    for number, client in enumerate(clients):
        found: list[tuple[str, str]] = []
        while len(found) <= len(clients):
            message = client.receive()
            if message["event"] in ("ack", "said"):
                found.append((message["event"], message["data"]))
        text = f"text-{number}"
        # Of the others' events some may come before it, where the loop sees a client a turn later.
        assert found.index(("ack", text)) < found.index(("said", text))
        orders.add(tuple(data for event, data in found if event == "said"))
    assert [sorted(order) for order in orders] == [sorted(f"text-{number}" for number in range(len(clients)))]
    assert watched.aside
    assert watched.most < TOGETHER


def test_a_lone_reply_does_not_wait(crowd: tuple[LiveServer, list[Client]], monkeypatch: pytest.MonkeyPatch) -> None:
    _, clients = crowd
    watched = Watched(monkeypatch)
    for client in clients:
        assert client.request("repeat", "text", room="chat:general")["data"] == "text"
    assert watched.aside == 0
