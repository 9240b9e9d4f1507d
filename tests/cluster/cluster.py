"""A cluster: a store, links to it, and nodes. Started once for many rows; what a row breaks it mends."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tests.cluster.links import Link, Links, Mode
from tests.cluster.nodes import SECRET, NodeProcess
from tests.servers import NatsServer, RedisServer

__all__ = ["BACKPLANES", "BRIEF_TTL", "Backplane", "Cluster", "cluster_of"]

Backplane = Literal["redis", "nats"]
BACKPLANES: tuple[Backplane, ...] = ("redis", "nats")

OPTIONS: dict[Backplane, Callable[[str], dict[str, Any]]] = {
    "redis": lambda url: {"url": url},
    "nats": lambda url: {"servers": [url]},
}

BRIEF_TTL = 2.0
"""Seconds that rooms of the kind "brief" keep their events."""

# By kind of the room; `tests.cluster.app` declares the same.
ROOMS: dict[str, dict[str, Any]] = {
    'rooms."big:*"': {"history_size": 20_000},
    'rooms."small:*"': {"history_size": 50},
    'rooms."brief:*"': {"history_size": 1000, "history_ttl": BRIEF_TTL},
    'rooms."seen:*"': {"history_size": 1000, "presence": True, "leave_grace": 0.5},
}
# All clients come from one address, and do much in little time.
LIMITS: dict[str, Any] = {
    "max_pending_per_ip": 1000,
    "messages_per_second": 10_000.0,
    "message_burst": 10_000,
    "frames_per_second": 10_000.0,
    "frame_burst": 10_000,
    "heartbeat_interval": 2.0,
    "replay_events": 20_000,
    "connections_per_user": 5,
}


class Cluster:
    """Nodes on one store.

    Attributes:
        backplane: which kind of store.
        store: its server.
        nodes: the node processes.
        links: from each node to the store.
        rng: for whatever a row leaves to chance.
    """

    def __init__(
        self, backplane: Backplane, directory: Path, *, nodes: int, seed: int, server: dict[str, Any], persist: bool
    ) -> None:
        self.backplane = backplane
        self.directory = directory
        self.seed = seed
        self.store: RedisServer | NatsServer
        if backplane == "redis":
            arguments = ("--appendonly", "yes", "--appendfsync", "always") if persist else ()
            self.store = RedisServer(directory / "store", *arguments)
        else:
            self.store = NatsServer(directory / "store")
        self._links = Links()
        self.target: Callable[[], int] = lambda: self.store.port
        self.links = [self._links.open(lambda: self.target()) for _ in range(nodes)]
        self.nodes = [
            NodeProcess(
                f"node-{number}",
                directory,
                {
                    "server": {"reconnect_spread": 1.0, "drain_timeout": 20.0, **server},
                    "auth": {"type": "jwt"},
                    "auth.options": {"algorithms": ["HS256"], "secret": SECRET},
                    "backplane": {"type": backplane},
                    "backplane.options": OPTIONS[backplane](f"{backplane}://127.0.0.1:{link.port}"),
                    "limits": LIMITS,
                    "logging": {"format": "json"},
                    **ROOMS,
                },
                directory / "ledger",
            )
            for number, link in enumerate(self.links, start=1)
        ]

    def start(self) -> None:
        """The store, then all nodes at once."""
        self.store.start()
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_ready()

    def chance(self, name: str) -> random.Random:
        """A row's own randomness: the same for the same seed, whatever ran before."""
        return random.Random(f"{self.seed} {name}")

    def open_link(self, target: Callable[[], int]) -> Link:
        """A further link, such as a balancer for clients that know one address."""
        return self._links.open(target)

    def ports(self) -> list[int]:
        """Where clients may connect to."""
        return [node.port for node in self.nodes]

    def mend(self) -> None:
        """Everything runs and every link passes."""
        for link in self.links:
            if link.mode is not Mode.PASS:
                link.set(Mode.PASS)
        self.store.heal()
        for node in self.nodes:
            node.resume()
            node.reap()
        down = [node for node in self.nodes if not node.up]
        for node in down:
            node.launch()
        for node in self.nodes:
            node.wait_ready()

    def new_tracebacks(self) -> list[str]:
        """What nodes have logged with a traceback since the last call, but for a store that could not be reached."""
        return [line for node in self.nodes for line in node.new_tracebacks()]

    def stop(self) -> None:
        """End everything."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(NodeProcess.stop, self.nodes))
        self.store.stop()
        self._links.close()


@contextmanager
def cluster_of(
    backplane: Backplane,
    directory: Path,
    *,
    nodes: int = 3,
    seed: int = 1,
    server: dict[str, Any] | None = None,
    persist: bool = False,
) -> Iterator[Cluster]:
    """A running cluster until the end of the block.

    Args:
        backplane: which store.
        directory: for all its files.
        nodes: how many.
        seed: of whatever is left to chance.
        server: further keys of the ``[server]`` section.
        persist: whether Redis writes to a file; NATS always does.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(backplane, directory, nodes=nodes, seed=seed, server=server or {}, persist=persist)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
