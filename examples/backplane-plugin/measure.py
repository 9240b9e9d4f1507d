"""What the backplane does on this machine and this disk: `python measure.py [FOLDER]`.

Each node is a process. Events have 200 bytes and are stored; the nodes are all subscribed to the one room.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import anyio

from roomwire.backplanes.contract import HistoryPolicy
from roomwire_sqlite import SqliteBackplane, SqliteOptions

SECONDS = 3.0
AT_ONCE = 64
"""Publishes under way at a time on each node, where the most is wanted."""
PACE = 200
"""Events a second, where the delay is wanted."""


class Stopwatch:
    """A sink that looks at the time in the events, by the clock that all processes of a machine share."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def deliver(self, room: str, epoch: str, previous: int, offset: int, body: bytes) -> None:
        self.delays.append(time.monotonic() - float(body.split()[0]))

    def ephemeral(self, room: str, body: bytes) -> None: ...
    def interrupted(self, rooms: Collection[str] | None) -> None: ...
    def changed(self, room: str) -> None: ...
    def available(self, up: bool) -> None: ...
    def told(self, body: bytes) -> None: ...


async def run_node(path: Path, name: str, tasks: int, pause: float) -> None:
    """Publish for `SECONDS`; print how many, how long each took, and how long each took to come here."""
    sink = Stopwatch()
    backplane = SqliteBackplane(SqliteOptions(path=path))
    await backplane.start(sink, name)
    await backplane.subscribe("room")
    took: list[float] = []
    end = time.monotonic() + SECONDS

    async def publish() -> None:
        while (begin := time.monotonic()) < end:
            body = b"%.6f %s" % (begin, b"x" * 180)
            await backplane.publish("room", body, key=None, policy=HistoryPolicy())
            took.append(time.monotonic() - begin)
            await anyio.sleep(pause)

    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(publish)
    await anyio.sleep(0.5)  # what others publish last is still to come
    await backplane.aclose()
    sys.stdout.write(" ".join(str(figure) for figure in (len(took), *spread(took), *spread(sink.delays))))


def spread(seconds: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    if len(seconds) < 2:
        return (0.0, 0.0)
    parts = statistics.quantiles(seconds, n=100)
    return (parts[49] * 1000, parts[98] * 1000)


def measure(title: str, nodes: int, publishing: int, tasks: int, pause: float) -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        commands = [
            [
                sys.executable,
                __file__,
                "--node",
                f"{folder}/db",
                str(number),
                str(tasks * (number < publishing)),
                str(pause),
            ]
            for number in range(nodes)
        ]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]  # noqa: S603
        figures = [[float(figure) for figure in process.communicate()[0].split()] for process in running]
    published = sum(figure[0] for figure in figures) / SECONDS
    ack, slow_ack = figures[0][1:3]
    delay, slow_delay = figures[-1][3:5]
    sys.stdout.write(
        f"{title:42} {published:8.0f}/s   ack {ack:6.2f} {slow_ack:7.2f}   delivery {delay:6.2f} {slow_delay:7.2f}\n"
    )


def main() -> None:
    if sys.argv[1:2] == ["--node"]:
        _, _, path, name, tasks, pause = sys.argv
        anyio.run(run_node, Path(path), name, int(tasks), float(pause))
        return
    sys.stdout.write(f"{'':42} published   median and p99, in ms\n")
    measure(f"1 node, {PACE}/s", 1, 1, 1, 1 / PACE)
    measure(f"2 nodes, {PACE}/s on one, seen on the other", 2, 1, 1, 1 / PACE)
    for nodes in (1, 2, 4):
        measure(f"{nodes} nodes, {AT_ONCE} at once on each", nodes, nodes, AT_ONCE, 0.0)


if __name__ == "__main__":
    main()
