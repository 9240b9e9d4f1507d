"""Options of the benchmarks over sockets, and their table at the end of the run."""

from __future__ import annotations

import pytest

from benchmarks.comparison import Results

NOTES = """\
Servers are loaded in turns by one generator in {rounds} rounds, each with a fresh server on a processor of its own
where there are two; the figures are medians. CPU is user and system time of the server's process for one delivery,
one echo or one accept. Messages to the server have 128 bytes; all is plain TCP on the loopback interface.
roomwire: a token and a user for each connection, validated messages, ids and acks in an echo, history, every limit
checked (their values raised: benchmarks/server/roomwire.toml), access log off. floor: uvloop, one os.write of a ready
frame, nothing else. The others: JSON in and out, one encode for a message, and no users, tokens, schemas, history,
limits or acks.
Left out: TLS, compression, more than one node, slow readers, real networks."""

RESULTS = pytest.StashKey[Results]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("roomwire")
    group.addoption("--rounds", type=int, default=3, help="Rounds of the comparison over sockets.")
    group.addoption("--seconds", type=float, default=1.5, help="How long each of its measurements counts.")
    group.addoption("--members", type=int, default=1000, help="Connections of its fan-out.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = Results()


@pytest.fixture
def results(request: pytest.FixtureRequest) -> Results:
    return request.config.stash[RESULTS]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tables = config.stash[RESULTS].tables()
    if not tables:
        return
    terminalreporter.section("over sockets")
    for table in tables:
        terminalreporter.write_line(table + "\n")
    terminalreporter.write_line(NOTES.format(rounds=config.getoption("--rounds")))
