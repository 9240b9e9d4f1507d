"""Every row of faults in its short version, on Redis and on NATS: what each client saw is checked after the run.

For each store a process of its own runs all its rows on one cluster of three nodes, both at once, since most of the
time is spent waiting for leases and time-outs. A row has rooms of its own, and mends what it broke. To see one row
closer: ``python -m tests.cluster --short --backplane redis --row NAME --seed 1``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import BACKPLANES
from tests.cluster.rows import ROWS
from tests.cluster.run import Report

ROOT = Path(__file__).parents[2]
SEED = 1
# The first row that is asked for waits for those before it, too.
pytestmark = pytest.mark.timeout(240)


class Lane:
    """The process that runs the rows of one store."""

    def __init__(self, backplane: str, rows: list[str], folder: Path) -> None:
        words = ["--short", "--json", "--seed", str(SEED), "--backplane", backplane, "--logs", str(folder)]
        words += [word for row in rows for word in ("--row", row)]
        self._errors = (folder / "stderr").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._reports: dict[str, Report] = {}

    def report(self, row: str) -> Report:
        """What came of a row, waiting for it."""
        assert self._process.stdout is not None
        while row not in self._reports:
            line = self._process.stdout.readline()
            if not line:
                self._errors.seek(0)
                pytest.fail(f"it ended before it came to {row}:\n{self._errors.read().decode()[-4000:]}")
            report = Report.from_json(line)
            self._reports[report.row] = report
        return self._reports[row]

    def end(self) -> None:
        """Wait for its end, which is near: it ends its nodes and its store itself."""
        self._process.communicate(timeout=120.0)
        self._errors.close()


@pytest.fixture(scope="module")
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Lane]]:
    """A lane for each store, with the rows that this run of the tests has asked for."""
    wanted: dict[str, list[str]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module:
            backplane, row = (str(item.callspec.params[name]) for name in ("backplane", "row"))
            wanted.setdefault(backplane, []).append(row)
    found = {name: Lane(name, rows, tmp_path_factory.mktemp(f"cluster-{name}")) for name, rows in wanted.items()}
    try:
        yield found
    finally:
        for lane in found.values():
            lane.end()


CASES = [
    pytest.param(backplane, row.name, id=f"{backplane}-{row.name}")
    for backplane in BACKPLANES
    for row in ROWS.values()
    if backplane in row.backplanes and not row.long_only
]


@pytest.mark.parametrize(("backplane", "row"), CASES)
def test_nothing_is_lost_that_is_not_told(lanes: dict[str, Lane], backplane: str, row: str) -> None:
    report = lanes[backplane].report(row)
    assert not report.faults, f"seed {report.seed}, {report.figures}\n" + "\n".join(report.faults)
