"""Rows whose fault is the store's, or that of a link to it, on Redis and NATS alike."""

from __future__ import annotations

import asyncio
import time

from tests.cluster.links import Mode
from tests.cluster.records import Present
from tests.cluster.run import Run, row


def _populate(run: Run, *, members: tuple[int, int] = (30, 200), rate: tuple[float, float] = (60.0, 200.0)) -> None:
    """A load, as most rows have it."""
    run.populate(run.size(*members), run.rooms(run.size(2, 4)), run.size(*rate), publishers=run.size(6, 20))


def members_of(run: Run) -> int:
    """Clients that are in a room."""
    return sum(bool(member.rooms) for member in run.crowd.members)


async def each_is_reset(run: Run, times: int = 1) -> None:
    """Every client is told a state, once for each time that the past was lost."""
    run.expected = {"epoch"}
    expected = run.resets = members_of(run) * times
    resets = run.crowd.resets
    await run.crowd.until(lambda: resets().total() >= expected, "each is told a state", patience=30.0, must=False)


@row("cut-link", "cut the live link of a node 8 times under load")
async def cut_link(run: Run) -> None:
    _populate(run)
    await run.start()
    cuts = 0
    for _ in range(run.size(3, 8)):
        link = run.chance.choice(run.cluster.links)
        cuts += await run.blocking(lambda: link.cut(subscribed=True if run.cluster.backplane == "redis" else None))  # noqa: B023
        await run.events(run.chance.randrange(10, run.size(20, 200)))
    run.expect(cuts > 0, "no link was cut")
    run.figures["links cut"] = str(cuts)


@row("silent-drop", "a link loses 0.3 s of what the store sends, and nobody is told")
async def silent_drop(run: Run) -> None:
    _populate(run)
    await run.start()
    link = run.chance.choice(run.cluster.links)
    mode = Mode.LOSE_PUSHES if run.cluster.backplane == "redis" else Mode.LOSE_ANSWERS
    lost = link.lost_bytes
    for _ in range(run.size(1, 4)):
        await run.blocking(lambda: link.set(mode))
        await run.crowd.until(lambda: link.lost_bytes > lost, "something is lost")
        await asyncio.sleep(0.3)
        await run.blocking(lambda: link.set(Mode.PASS))
        await run.events(run.size(20, 200))
    took = await run.crowd.until(lambda: not run.crowd.behind(run.crowd.tops()), "it is healed", must=False)
    run.expect_within(took, 10.0, "healed by a next event after")
    if run.long:
        await _drop_the_last(run, mode)
    run.figures["bytes lost"] = str(link.lost_bytes - lost)


async def _drop_the_last(run: Run, mode: Mode) -> None:
    """The same where no event follows."""
    await run.crowd.hush()
    link = run.chance.choice(run.cluster.links)
    lost = link.lost_bytes
    await run.blocking(lambda: link.set(mode))
    others = [publisher for publisher in run.crowd.publishers if publisher.member.live]
    for publisher in others[:4]:
        await publisher.tell(tries=3)
    await run.blocking(lambda: link.set(Mode.PASS))
    took = await run.crowd.until(lambda: not run.crowd.behind(run.crowd.tops()), "it is healed", must=False)
    run.expect(link.lost_bytes > lost, "nothing was lost")
    run.expect_within(took, 13.0, "healed without a next event after")


@row("stop-store", "SIGSTOP the store: clients stay, readiness is false, publishes fail in time, nobody leaves")
async def stop_store(run: Run) -> None:
    _populate(run)
    (seen,) = run.rooms(1, "seen")
    watchers = [run.crowd.member(f"{run.name}-w{number}", [seen]) for number in range(6)]
    run.crowd.publisher(f"{run.name}-pw", seen, 5.0)
    await run.start()
    closed = sum(len(member.closed) for member in run.crowd.members)
    began = time.monotonic()
    await run.blocking(run.cluster.store.pause)
    run.expect_within(await run.until_readiness(503), 10.0, "found within")
    publishers = run.crowd.publishers
    await run.crowd.until(lambda: all(p.codes for p in publishers), "every publish fails", patience=20.0)
    if run.long:
        await asyncio.sleep(max(0.0, 30.0 - (time.monotonic() - began)))
    codes = {code for publisher in run.crowd.publishers for code in publisher.codes}
    run.expect(codes == {"unavailable"}, f"publishes were answered with {codes}")
    run.cluster.store.resume()
    run.expect_within(await run.until_readiness(200), 10.0, "ready again after")
    run.relieve()
    await run.events(run.size(20, 200))
    run.expect(sum(len(member.closed) for member in run.crowd.members) == closed, "clients were disconnected")
    left = [r for w in watchers for r in w.log.records if isinstance(r, Present) and not r.here]
    run.expect(not left, f"members were told to have left: {left[:3]}")
    run.expect_within(max(publisher.slowest for publisher in run.crowd.publishers), 12.0, "slowest reply")


async def _a_publisher_on_each_node(run: Run) -> None:
    """Where a client connects to is chance, and a refusal or two may leave a node without any that publishes."""
    ports = run.crowd.ports
    for node in run.cluster.nodes:
        run.crowd.ports = lambda: [node.port]  # noqa: B023  all are there before the next one is looked at
        run.crowd.publisher(f"{run.name}-{node.name}", run.crowd.publishers[0].room, 10.0)
        await run.crowd.all_live()
    run.crowd.ports = ports


_PUBLICATION = b'{"e":"told"'
"""How the body of a publication begins, behind its length (`roomwire.core.publication`)."""


@row("broken-publish", "the store's replies to publishes are lost and the link breaks, 10 times")
async def broken_publish(run: Run) -> None:
    _populate(run)
    await _a_publisher_on_each_node(run)
    await run.start()
    mode = Mode.LOSE_REPLIES if run.cluster.backplane == "redis" else Mode.LOSE_ANSWERS
    lost = 0
    links = run.chance.sample(run.cluster.links, len(run.cluster.links))
    for number in range(run.size(3, 10)):
        link = links[number % len(links)]
        before = link.lost_bytes
        await run.blocking(lambda: link.set_at(_PUBLICATION, mode))  # noqa: B023
        await run.crowd.until(lambda: link.lost_bytes > before, "a reply is lost")  # noqa: B023
        await run.blocking(lambda: link.cut(then=Mode.PASS))  # noqa: B023
        lost += link.lost_bytes - before
        run.relieve()
        await run.events(run.size(10, 100))
    run.figures["bytes lost"] = str(lost)


@row("kill-store", "kill -9 the store, without persistence where it has a choice")
async def kill_store(run: Run) -> None:
    _populate(run)
    await run.start()
    for number in range(run.size(1, 3)):
        await run.blocking(run.cluster.store.kill)
        await asyncio.sleep(run.chance.random())
        await run.blocking(run.cluster.store.start)
        await run.events(run.size(20, 200))
        if run.cluster.backplane == "redis":
            await each_is_reset(run, number + 1)
