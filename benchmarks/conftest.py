"""Options of the benchmarks over sockets, and their table at the end of the run."""

from __future__ import annotations

import pytest

from benchmarks.cluster.comparison import ClusterResults
from benchmarks.cluster.versions import versions
from benchmarks.comparison import Results

NOTES = """\
Servers are loaded in turns by one generator in {rounds} rounds, each with a fresh server on a processor of its own
where there are two; the figures are medians. CPU is user and system time of the server's process for one delivery,
one echo or one accept. Messages to the server have 128 bytes; all is plain TCP on the loopback interface.
roomwire: a token and a user for each connection, validated messages, ids and acks in an echo, history, every limit
checked (their values raised: benchmarks/server/roomwire.toml), access log off. floor: uvloop, one os.write of a ready
frame, nothing else. The others: JSON in and out, one encode for a message, and no users, tokens, schemas, history,
limits or acks.
Left out: TLS, compression, slow readers, real networks."""

CLUSTER_NOTES = """\
Two nodes and a store on one processor, the generator on another, where there are two; {rounds} rounds in turns, each
with fresh processes; medians. One connection to node A publishes messages of 128 bytes, {subscribers} on node B get
them. Server CPU is user and system time of both nodes for one delivery.
roomwire: a token and a user for each connection, validated messages, events that are numbered and kept for a replay,
every limit checked (their values raised: benchmarks/cluster/roomwire.toml). socket.io and python-socketio: their
defaults over WebSocket alone; no users, tokens, schemas, history or limits, and nothing is stored or numbered.
One publish: nobody listens; one after the other, then 64 at a time.
{versions}"""

RESULTS = pytest.StashKey[Results]()
CLUSTER = pytest.StashKey[ClusterResults]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("roomwire")
    group.addoption("--rounds", type=int, default=3, help="Rounds of the comparison over sockets.")
    group.addoption("--seconds", type=float, default=1.5, help="How long each of its measurements counts.")
    group.addoption("--members", type=int, default=1000, help="Connections of its fan-out.")
    group.addoption("--subscribers", type=int, default=500, help="Connections to node B of a cluster.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = Results()
    config.stash[CLUSTER] = ClusterResults()


@pytest.fixture
def results(request: pytest.FixtureRequest) -> Results:
    return request.config.stash[RESULTS]


@pytest.fixture
def cluster_results(request: pytest.FixtureRequest) -> ClusterResults:
    return request.config.stash[CLUSTER]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    option = config.getoption
    notes = NOTES.format(rounds=option("--rounds"))
    _show(terminalreporter, "over sockets", config.stash[RESULTS].tables(), notes)
    notes = CLUSTER_NOTES.format(
        rounds=option("--rounds"), subscribers=option("--subscribers"), versions=", ".join(versions())
    )
    _show(terminalreporter, "two nodes", config.stash[CLUSTER].tables(), notes)


def _show(reporter: pytest.TerminalReporter, title: str, tables: list[str], notes: str) -> None:
    if tables:
        reporter.section(title)
        for table in tables:
            reporter.write_line(table + "\n")
        reporter.write_line(notes)
