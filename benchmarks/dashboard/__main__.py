"""Five hundred viewers of twenty metrics that change ten times a second: `python -m benchmarks.dashboard --rounds 5`.

Each round has every server in turn, a fresh process on a processor of its own where there are two; this process has
the viewers. A value is one measurement for one viewer; what is owed is what the feed has published in the time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.dashboard.feed import EVERY_SECOND, METRICS
from benchmarks.machine import ROOT, SECRET, pinned, processors, tokens_of
from benchmarks.tables import markdown, shown
from roomwire.bench.figures import percentile
from roomwire.bench.links import Member, Opening, Tally
from roomwire.bench.load import run_loop
from roomwire.bench.native import SECRET_VARIABLE, user_of
from roomwire.bench.processes import Processes, allow_open_files
from roomwire.bench.server import ServerProcess
from roomwire.bench.target import BenchFailed, Expect, Target

PATIENCE = 60.0
WARM_UP = 1.5
CONFLATED = f'\nconflate_rate = {EVERY_SECOND}\nconflate_key = "name"\nlatest = true\n'
_RAW = (sys.executable, "-m", "roomwire.cli", "run", "--fd", "{fd}", "--log-level", "warning")
_HOSTED = (sys.executable, "-m", "benchmarks.dashboard.hosted", "{fd}")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server: its command, whether its room conflates, and how many values a marked frame stands for."""

    command: tuple[str, ...]
    policy: str | None
    values: int = 1


CONTESTANTS = {
    "roomwire, raw": Contestant(_RAW, ""),
    "roomwire, raw, conflated": Contestant(_RAW, CONFLATED),
    "roomwire, uvicorn": Contestant((*_HOSTED, "roomwire"), ""),
    "roomwire, uvicorn, conflated": Contestant((*_HOSTED, "roomwire"), CONFLATED),
    "FastAPI loop": Contestant((*_HOSTED, "each"), None),
    "FastAPI loop, newest of each": Contestant((*_HOSTED, "newest"), None, METRICS),
}


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement; `lost` says why there is none."""

    core: float = 0.0
    """Seconds of the server's CPU time in a second."""
    value_us: float = 0.0
    """Microseconds of it for a value that came."""
    share: float = 0.0
    """Of the values that were owed, those that came."""
    p50: float = 0.0
    p99: float = 0.0
    own: float = 0.0
    lost: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--viewers", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    found: dict[str, list[Round]] = {name: [] for name in CONTESTANTS}
    for number in range(options.rounds):
        for name, contestant in CONTESTANTS.items():
            found[name].append(play(contestant, options.viewers, options.seconds))
            print(f"round {number + 1}: {name}: {found[name][-1]}", file=sys.stderr)
    print(table(found))
    packages = ", ".join(f"{name} {version(name)}" for name in ("uvloop", "fastapi", "uvicorn", "websockets"))
    print(
        f"\n{options.viewers} viewers, {METRICS} metrics, each {EVERY_SECOND} times a second; {options.rounds} rounds"
        f" of {options.seconds:g} s in turns, medians; Python {platform.python_version()}, {packages}"
    )


def play(contestant: Contestant, viewers: int, seconds: float) -> Round:
    """One fresh server, and the viewers on it."""
    own, other = processors()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "roomwire.toml"
        base = (
            (ROOT / "benchmarks" / "server" / "roomwire.toml")
            .read_text()
            .replace('"app:app"', '"benchmarks.dashboard.app:app"')
        )
        rooms = f'\n[rooms."metrics:*"]\nbroadcast_only = true\nhistory_size = 500{contestant.policy}\n'
        config.write_text(base + rooms)
        environment = os.environ | {
            SECRET_VARIABLE: SECRET,
            "ROOMWIRE_CONFIG": str(config),
            "PYTHONPATH": str(ROOT),
        }
        allow_open_files(viewers)
        with ServerProcess(contestant.command, environment=environment, folder=ROOT, cpus=other) as server, pinned(own):
            try:
                return run_loop(watch(target_of(contestant, server, viewers), contestant, viewers, seconds))
            except BenchFailed as error:
                return Round(lost=str(server.explain(error)))


def target_of(contestant: Contestant, server: ServerProcess, viewers: int) -> Target:
    if contestant.policy is None:
        return Target(server.host, server.port, "@@$stamp", "/ws", pids=(server.pid,))
    tokens = tokens_of(user_of(index) for index in range(viewers))
    path, steps = "/ws?client=client-$index&token=$token", (Expect('"session.welcome"'),)
    return Target(server.host, server.port, "@@$stamp", path, steps, tokens=tokens, pids=(server.pid,))


async def watch(target: Target, contestant: Contestant, viewers: int, seconds: float) -> Round:
    """Connect all, warm up, and count."""
    tally = Tally(target.marker)
    members: list[Member] = []
    count = 0
    came = asyncio.Event()

    def delivered(member: Member, hits: int) -> None:
        nonlocal count
        count += hits * contestant.values
        came.set()

    tally.delivered = delivered
    try:
        indexes = iter(range(viewers))

        async def come() -> None:
            for index in indexes:
                member = await connected(target, index, tally)
                members.append(member)

        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
            for _ in range(16):
                tasks.create_task(come())
        await asyncio.sleep(WARM_UP)
        tally.arrivals, count = [], 0
        came.clear()
        server = Processes(target.pids)
        before, own, begin = server.cpu(), time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        try:
            async with asyncio.timeout(PATIENCE):
                await came.wait()  # no value has no figures
        except TimeoutError:
            raise BenchFailed(tally.lost or f"no value came within {PATIENCE:g} s") from None
        spent, passed = server.cpu() - before, time.monotonic() - begin
        if tally.lost:
            raise BenchFailed(tally.lost)
        latencies = tally.latencies()
        return Round(
            core=spent / passed,
            value_us=spent / max(count, 1) * 1e6,
            share=count / (passed * METRICS * EVERY_SECOND * viewers),
            p50=percentile(latencies, 0.5) / 1e6,
            p99=percentile(latencies, 0.99) / 1e6,
            own=(time.process_time() - own) / passed,
        )
    except (TimeoutError, ExceptionGroup) as error:
        raise BenchFailed(f"not all viewers could be served: {error!r}") from error
    finally:
        tally.closing = True
        for member in members:
            member.abort()
        await asyncio.sleep(0)


async def connected(target: Target, index: int, tally: Tally) -> Member:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[Member] = loop.create_future()
    await loop.create_connection(lambda: Opening(target, index, 0, tally, ready), target.host, target.port)
    return await ready


def table(found: dict[str, list[Round]]) -> str:
    """Medians of the rounds that have figures."""
    rows = []
    for name, rounds in found.items():
        good = [each for each in rounds if not each.lost]
        if not good:
            rows.append([name, "none: " + rounds[0].lost.splitlines()[0], "", "", "", "", ""])
            continue

        def median(attribute: str, good: list[Round] = good) -> float:
            return float(statistics.median(getattr(each, attribute) for each in good))

        rows.append(
            [
                name,
                f"{median('core') * 100:.0f} %",
                shown(median("value_us")),
                f"{min(median('share'), 1) * 100:.0f} %",
                shown(median("p50")),
                shown(median("p99")),
                f"{median('own') * 100:.0f} %",
            ]
        )
    heading = [
        "server",
        "CPU of one core",
        "CPU a value, µs",
        "came in time",
        "ms, median",
        "99th percentile",
        "viewers' core",
    ]
    return markdown(heading, rows)


if __name__ == "__main__":
    main()
