"""Requests to an application behind roomwire's raw port, and behind uvicorn with h11 and with httptools.

    python -m benchmarks.fallback [--rounds 3] [--seconds 3] [--connections 32]

Each server is a fresh process on uvloop without an access log, on one processor, the generator on another where there
are two; in turns, so that the ratios hold where absolute times drift with the machine. A connection asks again when
it has its answer. CPU is the process's, user and system.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
REQUEST = b"GET /items/7 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nUser-Agent: bench\r\n\r\n"
TICK = os.sysconf("SC_CLK_TCK")


def command(server: str, application: str, port: int) -> tuple[list[str], dict[str, str]]:
    python = [sys.executable, "-m"]
    if server == "roomwire":
        options = {
            "ROOMWIRE_SERVER__FALLBACK": f"api:{application}",
            "ROOMWIRE_AUTH__TYPE": "anonymous",
            "ROOMWIRE_LOGGING__LEVEL": "warning",
        }
        return [*python, "roomwire.cli", "run", "chat:app", "--port", str(port)], options
    http = server.rpartition(" ")[2]
    options_of = ["--http", http, "--loop", "uvloop", "--no-access-log", "--log-level", "warning"]
    return [*python, "uvicorn", f"api:{application}", "--port", str(port), *options_of], {}


def cpu_of(pid: int) -> float:
    """Seconds of user and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def ask(port: int, until: list[float], count: list[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < until[0]:
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        size = re.search(rb"content-length: (\d+)", head)
        assert size is not None, head
        await reader.readexactly(int(size[1]))
        count[0] += 1
    writer.close()


async def load(port: int, pid: int, seconds: float, connections: int) -> tuple[float, float]:
    """Requests a second, and microseconds of the server's CPU for each."""
    await asyncio.gather(*(ask(port, [time.monotonic() + seconds / 4], [0]) for _ in range(connections)))
    count, began, cpu = [0], time.monotonic(), cpu_of(pid)
    await asyncio.gather(*(ask(port, [began + seconds], count) for _ in range(connections)))
    return count[0] / (time.monotonic() - began), (cpu_of(pid) - cpu) / count[0] * 1e6


def measure(server: str, application: str, seconds: float, connections: int) -> tuple[float, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments, options = command(server, application, port)
    cpus = sorted(os.sched_getaffinity(0))
    process = subprocess.Popen(
        arguments, cwd=HERE, env=os.environ | options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        os.sched_setaffinity(process.pid, cpus[:1])
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        return asyncio.run(load(port, process.pid, seconds, connections))
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cpus[1:] or cpus)
    servers = ("uvicorn, h11", "uvicorn, httptools", "roomwire")
    for application, title in (("api", "FastAPI, one JSON route"), ("bare", "no framework")):
        found: dict[str, list[tuple[float, float]]] = {server: [] for server in servers}
        for _ in range(options.rounds):
            for server in servers:
                found[server].append(measure(server, application, options.seconds, options.connections))
        medians = {
            server: [statistics.median(column) for column in zip(*found[server], strict=True)] for server in servers
        }
        rate, cpu = medians["uvicorn, h11"]
        print(f"\n{title}: {options.connections} connections, {options.rounds} rounds of {options.seconds:g} s")
        print(f"{'server':<20}{'requests/s':>12}{'ratio':>8}{'CPU us each':>14}{'ratio':>8}")
        for server, (its_rate, its_cpu) in medians.items():
            print(f"{server:<20}{its_rate:>12,.0f}{its_rate / rate:>8.2f}{its_cpu:>14.0f}{its_cpu / cpu:>8.2f}")


if __name__ == "__main__":
    main()
