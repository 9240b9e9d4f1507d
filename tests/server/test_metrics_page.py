"""The page ``/metrics``: what stands in it and what never does, who may read it and where; it is off by default."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus

from roomwire import App, Connection, EventError
from roomwire.backplanes.contract import Backplane
from roomwire.config import MetricsSettings, Settings
from roomwire.core.errors import ConfigError, Refusal
from roomwire.core.replay import Outcome
from roomwire.metrics import FAMILIES, attach
from roomwire.metrics.port import OwnPort
from roomwire.node.counts import Counts
from roomwire.node.timed import OPERATIONS
from roomwire.serving import build_node
from roomwire.testing.clock import VirtualClock
from tests.server.chat import make_app
from tests.server.conftest import ROOMS, Serve
from tests.server.live import SHELLS, TIMEOUT, LiveServer, Shell, make_node, serving
from tests.server.raw import Response, connect
from tests.server.scraping import BOTH, Scrape, ask, measured_server, series_of
from tests.server.watching import until

TOKEN = "a token of the tests for scrapes"
HOSTILE = 'h0st1le"} 1\n\\'
"""What would end a label's value, a line or a page where somebody forgot to escape it."""
UNSET = {"auth": {"type": "anonymous"}}
ACCEPT = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


@pytest.fixture(params=BOTH, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest) -> Shell:
    found: Shell = request.param
    return found


@pytest.fixture
def server(shell: Shell) -> Iterator[LiveServer]:
    with measured_server(shell) as server:
        yield server


def own_port(server: LiveServer) -> OwnPort:
    own: OwnPort = server.node.beside[0].__self__  # type: ignore[attr-defined]
    return own


# --- the page


def test_it_is_prometheus_text_whatever_is_asked_for(server: LiveServer) -> None:
    plain = ask(server.port)
    assert plain.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    for accept in (ACCEPT, "Accept: x/y;version=NaN;q=zzz,,;=", "Accept: "):
        assert ask(server.port, accept).header("content-type") == plain.header("content-type")
    assert ask(server.port, method="HEAD").body == b""
    assert ask(server.port, method="POST").status == ask(server.port, path="/metrics/").status == 404


def test_it_has_what_the_table_says_and_nothing_else(server: LiveServer) -> None:
    server.connect("ann").request("whoami")
    families = {family.name: family for family in text_string_to_metric_families(ask(server.port).body.decode())}
    ours = {name: family for name, family in families.items() if name.startswith("roomwire_")}
    assert set(ours) == {family.name.removesuffix("_total") for family in FAMILIES}
    for family in FAMILIES:
        found = ours[family.name.removesuffix("_total")]
        assert found.type == ("gauge" if family.kind == "info" else family.kind), family
        assert found.documentation == family.text.replace("`", "")
        labels = {label for sample in found.samples for label in sample.labels} - {"le"}
        assert labels == set(family.labels), family


def test_every_metric_is_moved_by_a_test() -> None:
    folder = Path(__file__).parent
    tests = "".join(path.read_text() for path in folder.glob("test_metrics*.py"))
    names = [family.name.removeprefix("roomwire_") for family in FAMILIES]
    assert [name for name in names if not re.search(rf'["(]{name}(_count|_sum)?["{{]', tests)] == []


def test_buckets_are_cumulative_and_end_with_the_count(server: LiveServer) -> None:
    server.connect("ann")
    found = series_of(ask(server.port))
    buckets: dict[Any, list[tuple[float, float]]] = {}
    for (name, labels), value in found.items():
        if name.endswith("_bucket"):
            bound = float(dict(labels)["le"])
            buckets.setdefault((name, labels - {("le", dict(labels)["le"])}), []).append((bound, value))
    assert len(buckets) > 20
    for (name, labels), pairs in buckets.items():
        values = [value for _, value in sorted(pairs)]
        assert values == sorted(values)
        assert values[-1] == found[name.replace("_bucket", "_count"), labels]


# --- what never stands in it


def hostile_visit(server: LiveServer, number: int) -> None:
    """All names that others can choose, another one each time."""
    name = f"{HOSTILE}{number}".replace("\n", "")
    app: Any = server.node.app
    app.log.auto[name] = [f"chat:{name}"]
    ann = server.connect(name, query=f"client=h0st1le-{number}")
    ann.send(f"h0st1le.{number}", room=name)
    ann.request("message.send", {"content": name}, room=f"chat:{name}")
    ann.request("room.join", room=name)
    ann.request("refuse.with", name)
    server.publish(1, room=f"chat:{name}", data=name)
    ann.connection.close(3000 + number, name)
    until(server, lambda: server.node.connections_of(name) == [])
    until(server, lambda: not server.node.connections)
    for path in (f"/h0st1le{number}", f"/ws?h0st1le={number}"):
        ask(server.port, f"X-H0st1le: {number}", f"Origin: https://h0st1le{number}.example", path=path)
    with suppress(InvalidStatus):
        server.connect(token=f"h0st1le{number}")


def make_hostile_app() -> App:
    app = make_app()

    @app.on("refuse.with", joined=False)
    async def refuse(connection: Connection, data: str) -> None:
        raise EventError(data, data)

    return app


def test_names_of_others_are_not_in_it_and_add_no_series(shell: Shell) -> None:
    with measured_server(shell, app=make_hostile_app()) as server:
        hostile_visit(server, 0)
        first = Scrape(server).series.keys()
        for number in range(1, 6):
            hostile_visit(server, number)
        assert Scrape(server).series.keys() == first
        page = ask(server.port).body.decode()
    assert "h0st1le" not in page
    assert 'event="refuse.with"' in page


def test_what_plugins_make_up_is_counted_under_a_name_of_ours() -> None:
    counts = Counts()
    for number in range(100):
        counts.refused(Refusal(400 + number * 50, f"made-up-{number}", ""))
        counts.failure(f"made-up-{number}")
        counts.entered(False, f"made-up-{number}", 0)
        counts.reset(f"made-up-{number}")
    counts.entered(*Outcome(None, None)[1:3], 0)
    assert set(counts.refusals) == {(0, "other"), (400, "other"), (450, "other"), (500, "other"), (550, "other")}
    assert (counts.failed, counts.resets) == ({"application": 100}, {"other": 100})
    assert counts.replays == {("state", "other"): 100}


# --- who may read it


def test_with_a_token_only_who_shows_it_reads(shell: Shell) -> None:
    with measured_server(shell, metrics=MetricsSettings(enabled=True, token=TOKEN)) as server:  # type: ignore[arg-type]
        for headers in (
            [],
            ["Authorization: Bearer x"],
            [f"Authorization: Basic {TOKEN}"],
            [f"Authorization: {TOKEN}"],
        ):
            refused = ask(server.port, *headers)
            assert (refused.status, refused.header("www-authenticate")) == (401, "Bearer")
            assert b"roomwire_" not in refused.body
        assert ask(server.port, path=f"/metrics?token={TOKEN.replace(' ', '+')}").status == 401
        for scheme in ("Bearer", "bearer"):
            assert ask(server.port, f"Authorization: {scheme} {TOKEN}").status == 200
        assert ask(server.port, path="/healthz").status == 200


def test_on_a_port_of_its_own_nothing_else_is_answered(shell: Shell) -> None:
    with measured_server(shell, metrics=MetricsSettings(enabled=True, port=0), drain_timeout=30.0) as server:
        port = own_port(server).address[1]
        assert ask(server.port).status == 404
        before = server.node.counts.refusals.copy()
        assert {path: ask(port, path=path).status for path in ("/ws", "/roomwire.js", "/")} == dict.fromkeys(
            ("/ws", "/roomwire.js", "/"), 404
        )
        assert server.node.counts.refusals == before
        assert series_of(ask(port))["roomwire_connections", frozenset()] == 0
        assert {path: ask(port, path=path).status for path in ("/healthz", "/readyz")} == {
            "/healthz": 200,
            "/readyz": 200,
        }


def test_a_drain_can_be_watched_on_the_port_of_its_own(shell: Shell) -> None:
    with measured_server(shell, metrics=MetricsSettings(enabled=True, port=0), drain_timeout=30.0) as server:
        port = own_port(server).address[1]
        ready = series_of(ask(port))
        assert (ready["roomwire_ready", frozenset()], ready["roomwire_draining", frozenset()]) == (1, 0)
        with connect(server.port, server.upgrade_request("ann")) as held:
            held.upgraded()
            held.event("session.welcome")
            server.call(server.node.runtime.spawn, server.node.drain.run)
            held.event("session.closing")
            draining = series_of(ask(port))
            assert (draining["roomwire_ready", frozenset()], draining["roomwire_draining", frozenset()]) == (0, 1)
            assert ask(port, path="/readyz").json == {"status": "draining"}
        server.ended.result(TIMEOUT)
    with pytest.raises(OSError, match="refused"):
        ask(port)


def test_a_port_that_is_taken_stops_the_start_and_a_worker_says_so_and_waits(caplog: pytest.LogCaptureFixture) -> None:
    shell = SHELLS["callback-asyncio"]
    with measured_server(shell, metrics=MetricsSettings(enabled=True, port=0)) as first:
        port = own_port(first).address[1]
        settings = MetricsSettings(enabled=True, port=port)
        node = make_node(make_app(), shell)
        attach(node, settings)
        with (
            pytest.raises(ConfigError, match=f"metrics.port = {port}: cannot listen there"),
            anyio.from_thread.start_blocking_portal() as portal,
            serving(node, portal),
        ):
            pass
        successor = make_node(make_app(), shell)
        attach(successor, settings, one_of_many=True)
        with anyio.from_thread.start_blocking_portal() as portal, serving(successor, portal) as second:
            assert own_port(second).address[1] == 0
            first.call(first.node.drain.run)
            first.ended.result(TIMEOUT)
            until_bound(own_port(second), second)
            waits = [record for record in caplog.records if record.message.startswith("the port of metrics is taken")]
            assert [record.roomwire for record in waits] == [{"event": "metrics_wait", "port": port}]  # type: ignore[attr-defined]
            assert series_of(ask(port))["roomwire_connections", frozenset()] == 0


def until_bound(own: OwnPort, server: LiveServer) -> None:
    """Until the port is bound; from then on the kernel keeps what connects."""
    for _ in range(400):
        if own.address[1]:
            return
        server.call(anyio.sleep, 0.05)
    raise AssertionError("it is not bound")


def test_workers_have_ports_side_by_side() -> None:
    metrics = MetricsSettings(enabled=True, port=9400)
    assert [metrics.of_worker(number).port for number in (1, 2, 3)] == [9400, 9401, 9402]
    assert MetricsSettings(enabled=True, port=0).of_worker(2).port == 0
    assert MetricsSettings(enabled=True).of_worker(2).port is None


# --- off


def test_off_is_404(shell: Shell, serve: Serve) -> None:
    server = serve(shell)
    response = ask(server.port)
    assert (response.status, response.json["error"]) == (404, "not_found")
    assert server.node.meter is None
    assert type(server.node.backplane).__name__ == "MemoryBackplane"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


BUILD = """
import sys
from roomwire import App, Connection, EventError
from roomwire.config import Settings
from roomwire.core.errors import ConfigError
from roomwire.serving import build_node

def build(**metrics):
    return build_node(App(), Settings.model_validate({"auth": {"type": "anonymous"}, "metrics": metrics}))
"""


def test_prometheus_client_is_imported_when_metrics_are_on_and_an_error_says_what_to_install() -> None:
    program = BUILD + (
        "build()\nprint('prometheus_client' in sys.modules, 'roomwire.metrics' in sys.modules)\n"
        "sys.modules['prometheus_client'] = None\n"
        "try:\n    build(enabled=True)\nexcept ConfigError as error:\n    print(error)\n"
    )
    assert run(program).splitlines() == [
        "False False",
        'metrics.enabled: it needs prometheus-client: pip install "roomwire[metrics]"',
    ]


def test_the_settings_turn_it_on() -> None:
    settings = Settings.model_validate({**UNSET, "server": {"port": 0}, "metrics": {"enabled": True}})
    with anyio.from_thread.start_blocking_portal() as portal:
        with serving(build_node(make_app(), settings), portal) as server:
            assert series_of(ask(server.port))["roomwire_backplane_up", frozenset()] == 1


# --- the backplane that is timed


def test_every_operation_of_the_contract_is_timed(server: LiveServer) -> None:
    lifecycle = {"capabilities", "start", "aclose"}
    assert set(OPERATIONS) == {name for name in vars(Backplane) if not name.startswith("_")} - lifecycle
    found = {dict(labels).get("operation") for _, labels in Scrape(server).series} - {None}
    assert found == set(OPERATIONS)
    assert server.node.backplane.capabilities.multi_node is False


def test_a_publication_that_is_not_heard_of_again_makes_way() -> None:
    """A delivery that was lost comes by the history: the room's later publications are followed again after a while."""
    clock = VirtualClock()
    with measured_server(clock=clock, rooms=ROOMS) as server:
        server.connect("ann")
        backplane: Any = server.node.backplane
        server.call(lambda: backplane._followed.__setitem__("chat:general", (b"lost", clock())))
        server.publish(1)
        assert Scrape(server)("backplane_lag_seconds_count") == 0
        server.call(clock.advance, 61.0)
        server.publish(1)
        assert Scrape(server)("backplane_lag_seconds_count") == 1
        assert backplane._followed == {}


def test_the_lag_of_the_loop_is_on_healthz_too(server: LiveServer) -> None:
    response: Response = ask(server.port, path="/healthz")
    assert response.json["loop_lag"] == Scrape(server)("loop_lag_seconds") == 0


# --- the pages


def test_queries_and_alerts_of_the_page_ask_for_what_there_is(server: LiveServer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "monitor.md").read_text()
    server.connect("ann").request("add", [1, 2])
    there: dict[str, list[dict[str, str]]] = {}
    for name, labels in Scrape(server).series:
        there.setdefault(name, []).append(dict(labels))
    queries = re.findall(r"\b(roomwire_\w+)(?:\{([^}]*)\})?", page)
    assert len(queries) > 20
    for name, selector in queries:
        wanted = re.findall(r'(\w+)(=|!=)"(\w*)"', selector)
        assert bool(wanted) == bool(selector)
        for label, _, value in wanted:
            assert value in [labels[label] for labels in there[name]], (name, selector)
    for labels, name in re.findall(r"sum by \(([^)]*)\) \((?:rate|increase)\((roomwire_\w+)", page):
        assert set(labels.split(", ")) - {"instance"} <= set(there[name][0]), (labels, name)
