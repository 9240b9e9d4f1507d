"""Real scrapes: a server with metrics on, asked over HTTP, and its answer read by prometheus-client's own parser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio.from_thread
from prometheus_client.parser import text_string_to_metric_families

from roomwire.config import MetricsSettings
from roomwire.core.limits import Limits
from roomwire.metrics import attach
from roomwire.node.fallback import Fallback
from roomwire.testing.clock import VirtualClock
from tests.server.chat import Log, make_app
from tests.server.conftest import ROOMS
from tests.server.live import SHELLS, LiveServer, Shell, make_node, serving
from tests.server.raw import Response, exchange
from tests.server.watching import until

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]

ROOM = "chat:general"
LIMITS = Limits(outbox_bytes=100_000, connections_per_user=2)
BOTH = [SHELLS["callback-uvloop"], SHELLS["portable-trio"]]
"""Each shell once, on the loop that it is mostly on."""


@contextmanager
def measured_server(
    shell: Shell = SHELLS["callback-asyncio"], *, metrics: MetricsSettings | None = None, **options: Any
) -> Iterator[LiveServer]:
    """A node with metrics, on a clock that the test moves; `options` are those of `make_node`, and `fallback`."""
    app, fallback = options.pop("app", None) or make_app(), options.pop("fallback", None)
    node = make_node(app, shell, **{"rooms": ROOMS, "clock": VirtualClock(), **options})
    attach(node, metrics)
    if fallback is not None:
        node.fallback = Fallback(node, fallback)
    with (
        anyio.from_thread.start_blocking_portal(shell.backend, dict(shell.backend_options)) as portal,
        serving(node, portal) as server,
    ):
        yield server


def ask(port: int, *headers: str, path: str = "/metrics", method: str = "GET") -> Response:
    """An HTTP request that Prometheus could have sent."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    return exchange(port, ("\r\n".join(lines) + "\r\n\r\n").encode())


def series_of(response: Response) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of an answer."""
    assert response.status == 200, response
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(response.body.decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} stands there twice"
            found[key] = sample.value
    return found


class Scrape:
    """The values of one moment."""

    def __init__(self, server: LiveServer) -> None:
        self.series = series_of(ask(server.port))

    def __call__(self, name: str, **labels: object) -> float:
        """The value of a series, which has to be there; `labels` are all that it has."""
        return self.series["roomwire_" + name, frozenset((key, str(value)) for key, value in labels.items())]

    def since(self, before: Scrape) -> dict[str, float]:
        """What grew or shrank, as in a query; without what Python itself tells, and without times."""
        grown = {}
        for (name, labels), value in self.series.items():
            change = value - before.series.get((name, labels), 0.0)
            if change and name.startswith("roomwire_") and not name.endswith(("_bucket", "_sum")):
                text = ",".join(f"{key}={value}" for key, value in sorted(labels))
                grown[name.removeprefix("roomwire_") + (f"{{{text}}}" if text else "")] = change
        return grown


def log_of(server: LiveServer) -> Log:
    log: Log = server.node.app.log  # type: ignore[attr-defined]
    return log


def ended(server: LiveServer, user: str) -> None:
    """Wait until the connections of a user are gone."""
    until(server, lambda: not [c for c in server.node.connections.values() if c.user == user])
