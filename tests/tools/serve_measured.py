"""Serves the chat of the server's tests in a process of its own, and says what that process holds.

    python -m tests.tools.serve_measured uvloop '{"server": {"port": 0}}'

Prints the address as one line when it accepts connections. Then each line on stdin is an order, answered by one
line of JSON: ``look`` gives a `Look`; ``release`` lets the handlers that hang go on. It ends with its input. With
``--trace`` every allocation of Python's is counted. The kernel holds little for its sockets.
"""

from __future__ import annotations

import argparse
import gc
import json
import socket
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import anyio

from roomwire import App, Connection
from roomwire.config import Settings
from roomwire.node import Node
from roomwire.serving import build_node
from roomwire.transports.anyio import AnyioTransport
from roomwire.transports.anyio.carrier import Carrier, Phase
from roomwire.transports.anyio.opening import Opening
from tests.server.chat import Log, make_app
from tests.server.live import SECRET

SEND_BUFFER = 4096
TURNS = 10
"""Turns of the loop in which what was cut comes to its end."""


class Look(TypedDict):
    """What a server holds: bytes, or counts of connections and messages.

    traced is what Python's allocators gave out and have not got back, where that is counted; peak the most
    that the process ever had in memory; heads is bytes of incomplete request heads; unread the fewest bytes that
    wait for any one reader.
    """

    traced: int
    peak: int
    links: int
    heads: int
    one_byte_missing: int
    paused: int
    queued: int
    hanging: int
    unread: int


def make_measured_app(log: Log) -> App:
    """The chat, with a handler that keeps its data as long as it hangs, and one that sends as much as it is told to."""
    app = make_app(log)

    @app.on("keep")
    async def keep(connection: Connection, data: Any) -> int:
        log.handled.append((connection.user, "keep"))
        await log.release.wait()
        return len(data)

    @app.on("fill")
    async def fill(connection: Connection, sizes: list[int]) -> None:
        for size in sizes:
            await connection.send("filled", "x" * size)

    return app


def look(node: Node, log: Log) -> Look:
    """See `Look`."""
    gc.collect()
    assert isinstance(node.transport, AnyioTransport)
    carriers = list(node.transport.carriers)
    connections = list(node.connections.values())
    return Look(
        traced=tracemalloc.get_traced_memory()[0],
        peak=_peak(),
        links=len(carriers),
        heads=sum(map(_head, carriers)),
        one_byte_missing=sum(map(_misses_one_byte, carriers)),
        paused=sum(connection._paused for connection in connections),
        queued=sum(len(connection._inbox or ()) for connection in connections),
        hanging=len(log.handled),
        unread=min(map(_waiting, carriers), default=0),
    )


def _peak() -> int:
    # Not `getrusage`: there a child begins with what its parent had.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _head(carrier: Carrier) -> int:
    """Bytes of a request head that is not complete."""
    opening = carrier._opening
    return len(opening._parser._buffer) if isinstance(opening, Opening) and carrier.phase is Phase.HEAD else 0


def _misses_one_byte(carrier: Carrier) -> bool:
    assembler = None if carrier._ws is None else carrier._ws._assembler
    return assembler is not None and assembler._missing == 1


def _waiting(carrier: Carrier) -> int:
    return carrier._held() + (carrier._outbox.bytes if carrier._outbox is not None else 0)


async def _obey(order: Sequence[str], node: Node, log: Log) -> object:
    match order:
        case ["look"]:
            for _ in range(TURNS):
                await anyio.lowlevel.checkpoint()
            return look(node, log)
        case ["release"]:
            log.release.set()
            await node.workers.finished()
            log.release = anyio.Event()
            log.handled.clear()
            log.disconnected.clear()
        case _:
            raise ValueError(f"no such order: {order}")
    return None


async def _serve(settings: Settings, trace: bool) -> None:
    log = Log()
    node = build_node(make_measured_app(log), settings)
    serving = anyio.Event()

    def ready(addresses: Sequence[str]) -> None:
        assert isinstance(node.transport, AnyioTransport)
        assert node.transport._listeners is not None
        for sock in node.transport._listeners.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        print(*addresses, flush=True)
        serving.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: node.serve(ready=ready))
        await serving.wait()
        # Modules, types and the node's own parts stay: each look has only what came since to go through.
        gc.collect()
        gc.freeze()
        if trace:
            tracemalloc.start()
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            print(json.dumps(await _obey(line.split(), node, log)), flush=True)
        log.release.set()
        await node.drain.run()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("backend", choices=["asyncio", "uvloop", "trio"])
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()
    auth = {"type": "jwt", "options": {"algorithms": ["HS256"], "secret": SECRET}}
    settings = Settings.model_validate({"auth": auth, **given.settings})
    backend = "trio" if given.backend == "trio" else "asyncio"
    options = {} if backend == "trio" else {"use_uvloop": given.backend == "uvloop"}
    anyio.run(_serve, settings, given.trace, backend=backend, backend_options=options)


if __name__ == "__main__":
    main()
