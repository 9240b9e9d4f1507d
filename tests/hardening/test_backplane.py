"""The backplane as a channel that anybody may have written to: 100,000 hostile bodies, and nothing is delivered."""

from __future__ import annotations

import random

import pytest

from roomwire.backplanes.contract import HistoryPolicy, Member
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.core.errors import RemoteError
from roomwire.core.positions import Position
from roomwire.core.publication import BODY_VERSION, read_body, write_body
from tests.fuzz.backplane import make_control
from tests.fuzz.mutation import mutate, noise
from tests.server.conftest import Serve
from tests.server.live import UNHURRIED, LiveServer
from tests.server.watching import until

BODIES = 100_000
BATCH = 5000

SEEDS = [write_body("forged", b'{"by":"nobody"}', user="root"), write_body("forged", b"\0\1", binary=True)]
PICKLE = b"cos\nsystem\n(S'touch /nowhere'\ntR."


def hostile(rng: random.Random) -> bytes:
    """A body that does not fit the schema."""
    while True:
        body = rng.choice((
            lambda: noise(rng, 400),
            lambda: mutate(rng, rng.choice(SEEDS), SEEDS),
            lambda: bytes((BODY_VERSION,)) + noise(rng, 200),
            lambda: PICKLE,
            lambda: b"\x80\x04\x95" + noise(rng, 50),
        ))()  # fmt: skip
        try:
            read_body("chat:general", body, None)
        except RemoteError:
            return body


def hub_of(server: LiveServer) -> MemoryBackplane:
    backplane = server.node.backplane
    assert isinstance(backplane, MemoryBackplane)
    return backplane


def test_100000_hostile_bodies_deliver_nothing_and_end_nothing(serve: Serve) -> None:
    server = serve(limits=UNHURRIED)
    ann = server.connect("ann")
    ann.receive_until("presence.state")
    backplane, rng = hub_of(server), random.Random(1)

    async def batch() -> None:
        for _ in range(BATCH):
            await backplane.publish_ephemeral("chat:general", hostile(rng))

    for _ in range(BODIES // BATCH):
        server.call(batch)
    # Nothing of them came, and what is correct still does.
    server.publish(1, data="genuine")
    assert [m["data"] for m in [*ann.events_before("whoami")] if m["event"] != "heartbeat"] == ["genuine"]
    assert server.node.hub.dropped == BODIES


def test_hostile_bodies_in_the_history_are_passed_over_by_a_replay(serve: Serve) -> None:
    server = serve(limits=UNHURRIED)
    backplane, rng = hub_of(server), random.Random(2)
    first = server.publish(1, data=1)[0]
    policy = HistoryPolicy(1000, 3600.0)

    async def poison() -> None:
        for _ in range(500):
            await backplane.publish("chat:general", hostile(rng), key=None, policy=policy)

    server.call(poison)
    last = server.publish(1, data=2)[0]
    ann = server.connect("ann", query=f"last_event_id=chat%253Ageneral@{first}")
    assert ann.welcome["rooms"]["chat:general"]["recovered"] is True
    replayed = [m for m in ann.events_before("whoami") if m["event"] == "told"]
    assert [(m["id"], m["data"]) for m in replayed] == [(last, 2)]


def test_20000_hostile_control_messages_end_nothing(serve: Serve) -> None:
    server = serve(limits=UNHURRIED)
    # Whom no order of the seeds names.
    eve = server.connect("eve")
    rng = random.Random(3)

    async def batch() -> None:
        for _ in range(1000):
            await server.node.backplane.tell(None, make_control(rng))

    for _ in range(20):
        server.call(batch)
    assert server.node.control.dropped > 10_000
    assert eve.request("whoami")["data"]["user"] == "eve"


def test_a_position_of_a_hostile_store_is_dropped_or_told_as_it_is(serve: Serve) -> None:
    server = serve(limits=UNHURRIED)
    ann = server.connect("ann")
    body = write_body("told", b"1")
    for epoch, previous, offset in (("x", 5, 4), ("", 0, 1), ("\r\n", 0, 1), ("e", -1, -5), ("e", 10**30, 10**30 + 1)):
        server.call(server.node.hub.deliver, "chat:general", epoch, previous, offset, body)
    server.call(server.node.hub.deliver, "not:here", "e", 0, 1, body)
    assert ann.request("whoami")["event"] == "ack"
    assert server.connect("bob").request("whoami")["event"] == "ack"
    assert Position.parse(server.publish(1)[0])


@pytest.mark.parametrize(
    "member",
    [
        Member("ghost", "ghost-phone", "c", b"\xff\xfe"),
        Member("ghost", "ghost-phone", "c", b"not json"),
        Member("gh\ud800st", "ghost-phone", "c", b"null"),
    ],
    ids=["info that is no UTF-8", "info that is no JSON", "a user with a lone surrogate"],
)
def test_a_hostile_member_ends_nothing(serve: Serve, member: Member) -> None:
    server = serve(limits=UNHURRIED)
    ann = server.connect("ann")
    ann.receive_until("presence.state")
    backplane = hub_of(server)
    server.call(backplane.enter, "chat:general", member)
    until(server, lambda: "chat:general" in backplane.hub.presence)
    bob = server.connect("bob")
    assert ann.request("whoami")["event"] == bob.request("whoami")["event"] == "ack"
    assert not server.ended.done()
