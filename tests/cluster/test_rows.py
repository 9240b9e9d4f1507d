"""Every row of faults in its short version, on Redis and on NATS: what each client saw is checked after the run.

One cluster of three node processes for each store serves all its rows; a row has rooms of its own, and mends what
it broke. The seed is printed with what was found. ``python -m tests.cluster --short --row NAME --seed N`` runs a
row once more.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import BACKPLANES, Cluster, cluster_of
from tests.cluster.rows import ROWS
from tests.cluster.run import Row, perform

SEED = 1


@pytest.fixture(scope="module", params=BACKPLANES)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes on a store of their own."""
    backplane = request.param
    with cluster_of(backplane, tmp_path_factory.mktemp(f"cluster-{backplane}"), seed=SEED) as running:
        yield running


def _cases() -> Iterator[object]:
    for backplane in BACKPLANES:
        for row in ROWS.values():
            if backplane in row.backplanes and not row.long_only:
                yield pytest.param(backplane, row, id=f"{backplane}-{row.name}")


@pytest.mark.parametrize(("cluster", "row"), list(_cases()), indirect=["cluster"])
def test_nothing_is_lost_that_is_not_told(cluster: Cluster, row: Row) -> None:
    report = perform(row, cluster, long=False)
    assert not report.faults, f"seed {report.seed}, {report.figures}\n" + "\n".join(report.faults)
    assert report.findings.events > 0
