"""Every row of faults in its short version, on Redis and on NATS: what each client saw is checked after the run.

A test is a cluster of three nodes and the rows of one kind, one after the other; a row has rooms of its own, and mends
what it broke. Most of the time is spent waiting for leases and time-outs, so that these tests run well beside others.
To see one row closer: ``python -m tests.cluster --short --backplane redis --row NAME --seed 1``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.cluster import BACKPLANES, Backplane, cluster_of
from tests.cluster.rows import KINDS, ROWS
from tests.cluster.run import perform

SEED = 1
pytestmark = pytest.mark.timeout(300)  # half a minute of waiting, and a dozen processes that share the processors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backplane", BACKPLANES)
def test_nothing_is_lost_that_is_not_told(backplane: Backplane, kind: str, tmp_path: Path) -> None:
    rows = [row for row in ROWS.values() if row.kind == kind and backplane in row.backplanes and not row.long_only]
    faults: dict[str, list[str]] = {}
    with cluster_of(backplane, tmp_path, seed=SEED) as cluster:
        for row in rows:
            report = perform(row, cluster, long=False)
            if report.faults:
                faults[row.name] = [*report.faults, str(report.figures)]
    text = "\n".join(f"{name}:\n  " + "\n  ".join(lines) for name, lines in faults.items())
    assert not faults, f"seed {SEED}\n{text}"
