"""Rows whose fault is on the clients' side: cut links, joins in a storm, resumes of every kind, races for slots."""

from __future__ import annotations

import asyncio

from roomwire.core.positions import Position
from tests.cluster.clients import Member
from tests.cluster.cluster import BRIEF_TTL
from tests.cluster.crowd import percentile
from tests.cluster.links import Mode
from tests.cluster.run import Run, row


@row("jitter", "every client's link is cut every 15 s and stays down for 2 s, 2 events a second")
async def jitter(run: Run) -> None:
    every, offline, seconds = run.size((1.0, 0.3, 3.0), (15.0, 2.0, 60.0))
    run.populate(run.size(100, 1000), run.rooms(1), run.size(10.0, 2.0))
    await run.start()
    loop = asyncio.get_running_loop()
    members = [member for member in run.crowd.members if member.rooms]
    until = loop.time() + seconds

    def cut(member: Member) -> None:
        if loop.time() < until:
            member.cut(offline)
            loop.call_later(every, cut, member)

    for member in members:
        loop.call_later(run.chance.random() * every, cut, member)
    await run.crowd.until(lambda: loop.time() >= until + offline, "the time is up", patience=seconds + 30)
    await run.crowd.all_live()
    replayed = run.crowd.times("replayed")
    run.expect(run.crowd.recovered() > 0, "nobody resumed")
    run.figures["cuts"] = str(sum(len(member.closed) for member in members))
    run.figures["replay p99"] = f"{percentile(replayed, 0.99):.3f} s"


@row("join-storm", "joins against load, each from a random position")
async def join_storm(run: Run) -> None:
    (room,) = run.rooms(1)
    publishers = run.size(5, 20)
    run.populate(0, [room], run.size(50.0, 200.0), publishers=publishers)
    await run.start()
    await run.events(run.size(50, 1000))
    joiners = [run.crowd.member(f"{run.name}-j{number:04}", ()) for number in range(run.size(50, 1000))]
    await run.crowd.all_live()

    def position() -> Position:
        """Of one of the last thousand events: as many as one resume may replay by default."""
        acks = sorted((acked for log in run.crowd.logs for acked in log.acked), key=lambda acked: acked.at)
        return run.chance.choice(acks[-1000:]).position

    async def join(member: Member) -> None:
        member.rooms = [room]
        since = position()
        reply = await member.join(room, since)
        # More may come while it reads than a join may hold back: then it is told a state instead.
        proven = reply["event"] == "ack" and (reply["data"]["recovered"] or reply["data"]["reason"] == "too_far")
        run.expect(proven, f"join since {since}: {reply}")

    for start in range(0, len(joiners), 50):
        await asyncio.gather(*map(join, joiners[start : start + 50]))
    run.expected = {"too_far"}
    run.figures["joins"] = f"{len(joiners)}, of these {run.crowd.reasons()['too_far']} too far"


@row("resumes", "resumes after trimming, after a silence, fifty in a row, and with nothing received yet")
async def resumes(run: Run) -> None:
    (small,), (brief,) = run.rooms(1, "small"), run.rooms(1, "brief")
    away = [run.crowd.member(f"{run.name}-away{number}", [small]) for number in range(run.size(5, 50))]
    silent = [run.crowd.member(f"{run.name}-silent{number}", [brief]) for number in range(run.size(5, 50))]
    one, two = (run.crowd.publisher(f"{run.name}-p-{room[:5]}", room, 1.0) for room in (small, brief))
    await run.crowd.all_live()
    await two.tell()
    top = await two.tell()
    assert top is not None
    await run.crowd.until(lambda: not run.crowd.behind({brief: top}), "all have it")
    for member in silent:
        member.cut()
    # With nothing received: these have the position of their welcome alone.
    for member in away:
        member.cut()
    for _ in range(10):
        await one.tell()
    for member in away:
        member.release()
    await run.crowd.until(lambda: all(member.live for member in away), "all are back")
    run.expect(run.crowd.recovered() == len(away), "not all were recovered that had received nothing")
    # Trimmed: more was missed than the room keeps.
    for member in away:
        member.cut()
    for _ in range(60):
        await one.tell()
    for member in away:
        member.release()
    await run.crowd.until(lambda: all(m.live and not m.waiting for m in away), "all have a state")
    reasons = run.crowd.reasons()
    run.expect(reasons == {"too_old": len(away)}, f"after trimming: {reasons}")
    # The silence: every event has expired, and nothing is missing.
    await asyncio.sleep(BRIEF_TTL + 0.5)
    before = run.crowd.recovered()
    for member in silent:
        member.release()
    await run.crowd.until(lambda: all(member.live for member in silent), "all are back")
    run.expect(run.crowd.recovered() - before == len(silent), "not all were recovered after the silence")
    # Fifty resumes in a row.
    restless = away[0]
    before = run.crowd.recovered()
    for _ in range(50):
        restless.cut()
        await run.crowd.until(lambda: not restless.live, "it is gone")
        restless.release()
        await run.crowd.until(lambda: restless.live, "it is back")
        await one.tell()
    run.expect(run.crowd.recovered() - before == 50, "not all of fifty were recovered")
    run.expected = {"too_old"}


@row("slots", "fifty racing connects of one user on two nodes; an old link that is half open")
async def slots(run: Run) -> None:
    (room,) = run.rooms(1)
    racing = [run.crowd.member(f"{run.name}-race{number:02}", [room], user=f"{run.name}-u") for number in range(50)]
    await run.crowd.until(lambda: all(m.live or 429 in m.refused for m in racing), "each has an answer")
    live = [member for member in racing if member.live]
    run.expect(len(live) == 5, f"{len(live)} were let in, and not 5")
    statuses = {status for member in racing for status in member.refused}
    run.expect(statuses == {429}, f"refused with {statuses}")
    for member in racing:
        if not member.live:
            member.end()
    # One of the five loses its network: the server cannot know it, and its other device's id is in at once.
    lucky = live[0]
    lucky.end()
    await run.crowd.until(lambda: not lucky.linked, "its link is closed")
    first, second = run.cluster.nodes[:2]
    link = run.cluster.open_link(lambda: first.port)
    ports = run.crowd.ports
    run.crowd.ports = lambda: [link.port]
    old = run.crowd.member(f"{run.name}-phone", [room], user=f"{run.name}-u")
    await run.crowd.until(lambda: old.live, "the fifth is there again")
    await run.blocking(lambda: link.set(Mode.STALL))
    run.crowd.ports = lambda: [second.port]
    new = run.crowd.member(f"{run.name}-phone", [room], user=f"{run.name}-u")
    took = await run.crowd.until(lambda: new.live, "the same client comes back")
    run.expect(not new.refused, f"refused with {new.refused}")
    run.expect_within(took, 2.0, "back with its id after")
    run.crowd.ports = ports
    await run.blocking(link.cut)
    old.end()
    for member in live[1:]:
        run.expect(member.live, "another one of the five was closed")


@row("slots-after-kill", "kill -9 a node: its users' slots are free within 90 s", long_only=True)
async def slots_after_kill(run: Run) -> None:
    first, *others = run.cluster.nodes
    (room,) = run.rooms(1)
    run.crowd.ports = lambda: [first.port]
    held = [run.crowd.member(f"{run.name}-old{number}", [room], user=f"{run.name}-u") for number in range(5)]
    await run.crowd.all_live()
    for member in held:
        member.held = True
    await run.blocking(first.kill)
    for member in held:
        member.end()
    run.crowd.ports = lambda: [node.port for node in others]
    run.crowd.backoff = 0.0
    late = run.crowd.member(f"{run.name}-new", [room], user=f"{run.name}-u")
    took = await run.crowd.until(lambda: late.live, "a slot is free", patience=120.0)
    run.expect_within(took, 90.0, "a slot is free after")
    run.expect(took > 10.0, "the slots were not held")
