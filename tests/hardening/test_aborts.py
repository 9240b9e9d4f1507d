"""Nothing is kept for a client that is gone: 10,000 messages that were never finished leave no object behind."""

from __future__ import annotations

import gc
import sys
from collections import Counter

from roomwire.core.deflate import Deflate, compress
from roomwire.core.frames import Opcode, build_masked_frame
from roomwire.core.websocket import Closed, Role, WebSocket
from roomwire.transports.anyio.carrier import Carrier
from tests.server.conftest import Serve
from tests.server.live import UNHURRIED, LiveServer, Shell
from tests.server.raw import connect, frame
from tests.server.watching import carriers, transport_of, until

TEXT = b'{"event":"draw","room":"chat:general","id":"1","data":"' + b"x" * 3000

# What a client leaves unfinished: inside of a header, of a payload, between fragments, inside of compressed data.
ABORTED = {
    "a header": frame(Opcode.TEXT, TEXT)[:3],
    "a payload": frame(Opcode.TEXT, TEXT)[:-1],
    "fragments": frame(Opcode.TEXT, TEXT, fin=False) + frame(Opcode.CONTINUATION, b"y" * 100, fin=False) * 3,
    "a ping between fragments": frame(Opcode.BINARY, TEXT, fin=False) + frame(Opcode.PING, b"p" * 125)[:-4],
}
COLLECTIONS = 100
"""Looks at all objects, with turns of the loop between them; reached only where a test fails."""
SQUEEZED = build_masked_frame(Opcode.TEXT, compress(TEXT * 10), bytes(4), rsv1=True)[:-5]


def live_objects() -> Counter[str]:
    """All that the collector knows, by type."""
    gc.collect()
    return Counter(f"{type(item).__module__}.{type(item).__qualname__}" for item in gc.get_objects())


def grown(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """The types of which there are more than before: a quarter of one for each connection, and of ours hardly any.

    The loops keep some of what was cancelled, up to a hundred timers, until it is worth a look.
    """
    ours = ("roomwire.", "wsproto.", "h11.")
    growth = {name: after[name] - before[name] for name in after}
    return {name: count for name, count in growth.items() if count > (5 if name.startswith(ours) else 120)}


def comes_down(server: LiveServer, before: Counter[str]) -> None:
    """Whatever the links that were made before left behind goes away by itself, and one client stays."""
    growth: dict[str, int] = {}

    def is_down() -> bool:
        growth.clear()
        growth.update(grown(before, live_objects()))
        transport = transport_of(server)
        carried = sum(isinstance(item, Carrier) and item._transport is transport for item in gc.get_objects())
        return not growth and carried == 1

    for _ in range(COLLECTIONS):
        if server.call(is_down):
            return
    raise AssertionError(f"objects stay: {growth}")


def test_10000_aborted_messages_leave_the_machine_nothing() -> None:
    deflate = Deflate("permessage-deflate")
    pieces = [*ABORTED.values(), SQUEEZED]

    def abort(count: int) -> None:
        for number in range(count):
            machine = WebSocket(Role.SERVER, max_message_size=65_536, max_fragments=1024, deflate=deflate)
            machine.receive(pieces[number % len(pieces)])
            assert [type(item) for item in machine.receive_eof()] == [Closed]

    def left_by(count: int) -> int:
        gc.collect()
        before = sys.getallocatedblocks()
        abort(count)
        gc.collect()
        return sys.getallocatedblocks() - before

    abort(100)
    # What is left is left each time; what another thread of this process has made meanwhile is not.
    assert min(left_by(5000), left_by(5000)) < 50


def abort_all(server: LiveServer, links: int, messages: int) -> None:
    """`links` connections, each with whole messages and an aborted one at its end."""
    pieces = list(ABORTED.values())
    for number in range(links):
        with connect(server.port, server.upgrade_request("nobody")) as link:
            link.upgraded()
            link.event("session.welcome")
            link.send(frame(Opcode.TEXT, b'{"event":"presence.heartbeat"}') * messages + pieces[number % len(pieces)])
            # Some vanish in order, some with a reset.
            if number % 2:
                link.reset()
    until(server, lambda: len(server.node.connections) == 1)
    until(server, lambda: len(carriers(server)) == 1)


def test_500_connections_that_end_within_a_message_leave_the_server_nothing(shell: Shell, serve: Serve) -> None:
    server = serve(shell, limits=UNHURRIED)
    ann = server.connect("ann")
    abort_all(server, 50, 3)
    before = live_objects()
    abort_all(server, 500, 9)
    comes_down(server, before)
    assert ann.request("whoami")["event"] == "ack"


def test_500_heads_that_are_never_finished_leave_the_server_nothing(shell: Shell, serve: Serve) -> None:
    server = serve(shell)
    ann = server.connect("ann")
    head = server.upgrade_request("nobody")

    def abort(links: int) -> None:
        for number in range(links):
            link = connect(server.port, head[: 1 + number % (len(head) - 2)])
            link.reset() if number % 2 else link.close()
        server.connect("bob").close()  # the server accepts it after them
        until(server, lambda: len(carriers(server)) == 1)

    abort(50)
    before = live_objects()
    abort(500)
    comes_down(server, before)
    assert ann.request("whoami")["event"] == "ack"


def test_the_pieces_are_what_they_say() -> None:
    for data in ABORTED.values():
        machine = WebSocket(Role.SERVER, max_message_size=65_536, max_fragments=1024)
        machine.receive(data)
        assert machine.mid_message
