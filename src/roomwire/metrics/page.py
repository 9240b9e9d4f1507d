"""The answer to ``/metrics``: a collector of prometheus-client that reads a node when it is asked."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from roomwire.config import MetricsSettings
from roomwire.core.envelope import dump
from roomwire.core.errors import ConfigError
from roomwire.core.request import RequestHead
from roomwire.metrics.families import FAMILIES, Family
from roomwire.metrics.port import OwnPort
from roomwire.metrics.reading import Values, read
from roomwire.node import Node
from roomwire.node.counts import Histogram
from roomwire.node.meter import Meter
from roomwire.node.timed import timed
from roomwire.transports.contract import HttpResponse

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["attach"]

_UNAUTHORIZED = HttpResponse(
    401,
    dump({"error": "unauthorized", "detail": "a valid token is required"}),
    headers=(("WWW-Authenticate", "Bearer"),),
)


def attach(node: Node, settings: MetricsSettings | None = None, *, one_of_many: bool = False) -> None:
    """Have a node answer ``/metrics``, before it serves.

    Args:
        node: the node.
        settings: who may ask, and where; by default whoever reaches the node's own port.
        one_of_many: whether it is a worker, whose predecessor may still have its port.

    Raises:
        ConfigError: prometheus-client is not installed.
    """
    settings = settings or MetricsSettings(enabled=True)
    meter = node.meter = Meter(node.clock)
    node.backplane = timed(node.backplane, meter, node.hub.stands_at)
    page = _Page(node, meter, settings)
    if settings.port is None:
        node.metrics = page.answer
    else:
        own = OwnPort(node, page.answer, settings.host, settings.port, patient=one_of_many)
        node.beside.append(own.serve)


class _Page:
    """Answers for one node.

    Raises:
        ConfigError: prometheus-client is not installed.
    """

    def __init__(self, node: Node, meter: Meter, settings: MetricsSettings) -> None:
        try:
            import prometheus_client
        except ModuleNotFoundError:
            raise ConfigError('metrics.enabled: it needs prometheus-client: pip install "roomwire[metrics]"') from None
        self._generate = prometheus_client.generate_latest
        # What every Prometheus takes, whatever it says it prefers.
        self._type = prometheus_client.exposition.CONTENT_TYPE_PLAIN_0_0_4
        self._token = None if settings.token is None else settings.token.get_secret_value().encode()
        registry: CollectorRegistry = prometheus_client.CollectorRegistry(auto_describe=False)
        registry.register(_Collector(node, meter))
        prometheus_client.ProcessCollector(registry=registry)
        prometheus_client.PlatformCollector(registry=registry)
        prometheus_client.GCCollector(registry=registry)
        self._registry = registry

    def answer(self, head: RequestHead) -> HttpResponse:
        """The metrics of this moment, for who shows the token."""
        if self._token is not None and not self._is_allowed(head, self._token):
            return _UNAUTHORIZED
        return HttpResponse(200, self._generate(self._registry), self._type)

    @staticmethod
    def _is_allowed(head: RequestHead, token: bytes) -> bool:
        scheme, _, given = (head.header(b"authorization") or b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token)


class _Collector:
    """See `prometheus_client.registry.Collector`."""

    def __init__(self, node: Node, meter: Meter) -> None:
        self._node = node
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        values = read(self._node, self._meter)
        return (_metric(family, values[family.name]) for family in FAMILIES)


def _metric(family: Family, values: Values) -> Metric:
    from prometheus_client import metrics_core

    labels, text = list(family.labels), family.text.replace("`", "")
    if family.kind == "histogram":
        histogram = metrics_core.HistogramMetricFamily(family.name, text, labels=labels)
        for key, value in values.items():
            assert isinstance(value, Histogram)
            histogram.add_metric(key, _cumulative(value), value.sum)
        return histogram
    if family.kind == "counter":
        counter = metrics_core.CounterMetricFamily(family.name, text, labels=labels)
        for key, value in _numbers(values):
            counter.add_metric(key, value)
        return counter
    gauge = metrics_core.GaugeMetricFamily(family.name, text, labels=labels)
    for key, value in _numbers(values):
        gauge.add_metric(key, value)
    return gauge


def _numbers(values: Values) -> Iterable[tuple[tuple[str, ...], float]]:
    for key, value in values.items():
        assert not isinstance(value, Histogram)
        yield key, value


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(repr, histogram.bounds), "+Inf"]
    return list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))
