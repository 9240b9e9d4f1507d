"""What is compared: how two nodes of each are started, and how they are talked to."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import NODE, NatsServer, RedisServer, Server

from benchmarks.cluster.load import Cluster, Figures, Plan, load
from benchmarks.machine import ROOT, SECRET, pinned, processors, tokens_of
from roomwire.bench.load import run_loop
from roomwire.bench.native import SAY, SECRET_VARIABLE, native_target, user_of
from roomwire.bench.server import ServerProcess
from roomwire.bench.target import BenchFailed, Expect, Send, Target

__all__ = ["OURS", "STACKS", "Stack", "play"]

OURS = "roomwire, Redis"

Approach = Callable[[str, int, int, Plan], Target]
"""How a node is talked to: its host, port and process id in, with the plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Servers on one library, and the store between them.

    Attributes:
        command: of a node, see `ServerProcess`.
        folder: where it runs.
        store: what joins the nodes.
        environment: tells a node where the store is; ``{url}`` is its address.
        publisher: how node A is talked to.
        subscribers: how node B is.
    """

    command: tuple[str, ...]
    folder: Path = ROOT
    store: type[Server] = RedisServer
    environment: Mapping[str, str]
    publisher: Approach
    subscribers: Approach


def _native(users: Callable[[Plan], list[str]]) -> Approach:
    def approach(host: str, port: int, pid: int, plan: Plan) -> Target:
        return native_target(host, port, "/ws", message=SAY, tokens=tokens_of(users(plan)), pids=(pid,))

    return approach


def _socketio(role: str) -> Approach:
    """Engine.IO 4 on a WebSocket: ``0`` opens, ``2`` asks and ``3`` answers; ``40`` connects, ``42`` is an event."""

    def approach(host: str, port: int, pid: int, plan: Plan) -> Target:
        return Target(
            host,
            port,
            '42["say",{"content":"@@$stamp$pad"}]',
            f"/socket.io/?EIO=4&transport=websocket&role={role}",
            (Expect('0{"sid"'), Send("40"), Expect('40{"sid"')),
            pids=(pid,),
            answers={"2": "3"},
        )

    return approach


def _roomwire(store: type[Server], kind: str, address: str) -> Stack:
    return Stack(
        command=(
            *(sys.executable, "-m", "roomwire.cli", "run"),
            *("--config", "roomwire.toml", "--fd", "{fd}", "--log-level", "warning"),
        ),
        folder=ROOT / "benchmarks" / "cluster",
        store=store,
        environment={
            SECRET_VARIABLE: SECRET,
            "ROOMWIRE_BACKPLANE__TYPE": kind,
            f"ROOMWIRE_BACKPLANE__OPTIONS__{address}": "{url}",
        },
        publisher=_native(lambda plan: ["publisher"]),
        subscribers=_native(lambda plan: [user_of(index) for index in range(plan.subscribers)]),
    )


def _on_socketio(*command: str) -> Stack:
    return Stack(
        command=command,
        environment={"REDIS_URL": "{url}"},
        publisher=_socketio("publisher"),
        subscribers=_socketio("subscriber"),
    )


STACKS: Mapping[str, Stack] = {
    OURS: _roomwire(RedisServer, "redis", "URL"),
    "roomwire, NATS": _roomwire(NatsServer, "nats", "SERVERS"),
    "socket.io, Redis adapter": _on_socketio(
        str(NODE.find() or "node"), str(ROOT / "benchmarks" / "peers" / "socketio" / "server.js"), "{fd}"
    ),
    "python-socketio, Redis manager": _on_socketio(sys.executable, "-m", "benchmarks.peers.on_python_socketio", "{fd}"),
}


def play(stack: Stack, plan: Plan) -> Figures:
    """One measurement: a fresh store, two fresh nodes, and the load on them.

    The store and the nodes have one processor, the generator another, where there are two.
    """
    own, other = processors()
    with tempfile.TemporaryDirectory() as folder, _started(stack.store(Path(folder)), other) as store:
        found = {name: value.replace("{url}", store.url) for name, value in stack.environment.items()}
        environment = os.environ | found | {"PYTHONPATH": str(ROOT)}

        def node() -> ServerProcess:
            return ServerProcess(stack.command, environment=environment, folder=stack.folder, cpus=other)

        with node() as node_a, node() as node_b, pinned(own):
            cluster = Cluster(
                publisher=stack.publisher(node_a.host, node_a.port, node_a.pid, plan),
                subscribers=stack.subscribers(node_b.host, node_b.port, node_b.pid, plan),
                store=store.pid,
            )
            try:
                return run_loop(load(cluster, plan))
            except BenchFailed as error:
                raise node_a.explain(node_b.explain(error)) from error


@contextmanager
def _started(store: Server, processors: set[int]) -> Iterator[Server]:
    with pinned(processors):
        store.start()
    try:
        yield store
    finally:
        store.stop()
