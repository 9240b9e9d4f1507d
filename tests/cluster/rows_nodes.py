"""Rows whose fault is a node's: killed, stalled, drained, restarted."""

from __future__ import annotations

import asyncio
import statistics

from tests.cluster.crowd import percentile
from tests.cluster.run import Run, row


@row("kill-node", "kill -9 a node in mid-broadcast, again and again")
async def kill_node(run: Run) -> None:
    rooms = run.rooms(run.size(2, 3))
    run.populate(run.size(60, 300), rooms, run.size(60.0, 200.0), publishers=run.size(6, 20))
    run.use_products(run.size(2, 15), rooms)
    await run.start()
    for _ in range(run.size(2, 20)):
        node = run.chance.choice(run.cluster.nodes)
        await run.blocking(node.kill)
        await run.crowd.all_live()
        await run.blocking(node.start)
        await run.events(run.chance.randrange(*run.size((10, 30), (100, 300))))
    run.expect_within(percentile(run.crowd.times("resumed"), 0.99), 2.0, "resume p99")


@row("die-before-ack", "kill -9 the node between store and ack; the message is sent again to another one")
async def die_before_ack(run: Run) -> None:
    run.populate(run.size(10, 30), run.rooms(1), 20.0, publishers=run.size(1, 3))
    for publisher in run.crowd.publishers:
        publisher.die_at = 5
    await run.crowd.all_live()
    run.crowd.publish()
    # The message is nobody else's until the lease of the node that died has ended.
    died = 0
    publishers = run.crowd.publishers
    async with asyncio.timeout(120.0):
        while not all(p.told > 6 for p in publishers):
            for node in run.cluster.nodes:
                if node.reap():
                    died += 1
                    await run.blocking(node.start)
            await asyncio.sleep(0.05)
    run.expect(died == len(publishers), f"{died} nodes died")


@row("stall-node", "SIGSTOP a node for a while; it heals from the history")
async def stall_node(run: Run) -> None:
    rooms = run.rooms(2)
    run.populate(run.size(30, 200), rooms, run.size(60.0, 200.0), publishers=run.size(6, 20))
    await run.start()
    node = run.chance.choice(run.cluster.nodes)
    node.pause()
    if run.long:
        await asyncio.sleep(10.0)
    else:
        await run.events(30)
    node.resume()
    took = await run.crowd.until(lambda: not run.crowd.behind(run.crowd.tops()), "all have what was missed", must=False)
    run.expect_within(took, 10.0, "caught up after")


@row("sigterm", "SIGTERM a node with all clients under load")
async def sigterm(run: Run) -> None:
    first, *others = run.cluster.nodes
    ports = run.crowd.ports
    run.crowd.ports = lambda: [first.port]
    rooms = run.rooms(run.size(2, 10))
    run.populate(run.size(150, 1000), rooms, run.size(40.0, 100.0), publishers=run.size(4, 10))
    await run.crowd.all_live()
    run.crowd.ports = lambda: [node.port for node in others]
    await run.start()
    first.terminate()
    code = await run.blocking(first.join)
    run.expect(code == 0, f"exit code {code}")
    await run.crowd.all_live()
    run.crowd.ports = ports
    codes = [code for member in run.crowd.members for code in member.closed]
    run.expect(set(codes) == {1012}, f"close codes {sorted(set(codes))}")
    hints = run.crowd.times("hints")
    run.expect(len(hints) == len(run.crowd.members), f"{len(hints)} retry hints for {len(run.crowd.members)} clients")
    run.expect(len(set(hints)) > len(hints) / 20, "the retry hints are not spread")
    run.figures["retry hints"] = f"{min(hints):.2f} to {max(hints):.2f} s, mean {statistics.mean(hints):.2f}"


@row("rolling-restart", "restart one node after the other under load")
async def rolling_restart(run: Run) -> None:
    rooms = run.rooms(run.size(2, 10))
    run.populate(run.size(100, 1000), rooms, run.size(30.0, 50.0), publishers=run.size(2, 10))
    run.use_products(run.size(2, 10), rooms)
    await run.start()
    run.crowd.welcomes.clear()
    for node in run.cluster.nodes[:2]:
        node.terminate()
        code = await run.blocking(node.join)
        run.expect(code == 0, f"exit code {code}")
        await run.blocking(node.start)
        await run.crowd.all_live()
        await run.events(10)
    refused = [status for member in run.crowd.members for status in member.refused]
    run.expect(not refused, f"refused handshakes: {refused[:5]}")
    back = run.crowd.times("back")
    run.expect(all(member.live for member in run.crowd.members), "some never came back")
    run.expect_within(percentile(back, 0.95), 2.0, "back p95")
    run.figures["handshakes"] = f"at most {run.crowd.handshakes_per_second():.0f} in a second, none refused"
