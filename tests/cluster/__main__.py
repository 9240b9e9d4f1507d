"""The long version of the rows, with the sizes that the promises name, and a table at the end."""

# ruff: noqa: T201 - a command line

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.cluster import BACKPLANES, cluster_of
from tests.cluster.rows import ROWS
from tests.cluster.run import Report, perform

_COUNTS = ("lost", "doubled", "reordered", "forked", "misacked", "unreported")


def _line(report: Report) -> str:
    counts = " ".join(f"{getattr(report.findings, name):>{max(6, len(name))}}" for name in _COUNTS)
    resets = ", ".join(f"{count} {reason}" for reason, count in sorted(report.findings.resets.items())) or "none"
    verdict = "FAULT" if report.faults else "slow" if report.slow else "ok"
    return (
        f"{report.row:<22}{report.backplane:<7}{counts} {report.findings.events:>10,} {report.findings.acked:>8,} "
        f"{report.seconds:>6.0f} s  {verdict:<6}resets: {resets}"
    )


def _show(report: Report) -> None:
    print(_line(report), flush=True)
    for name, value in report.figures.items():
        print(f"    {name}: {value}")
    for line in [*report.faults, *report.slow]:
        print(f"    ! {line}")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; may be given several times")
    parser.add_argument("--backplane", choices=BACKPLANES, action="append", help="only this one")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="of the schedule of faults")
    parser.add_argument("--short", action="store_true", help="with the sizes of the test suite")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--times", type=int, default=1, help="runs of each row, each with the next seed")
    parser.add_argument("--logs", type=Path, help="keep the nodes' logs in this folder")
    parser.add_argument("--list", action="store_true", help="list the rows")
    given = parser.parse_args()
    if given.list:
        for row in ROWS.values():
            print(f"{row.name:<22}{', '.join(row.backplanes):<13}{row.what}")
        return 0
    print(f"seed {given.seed}; the same one makes the same schedule")
    reports: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="cluster-") as temporary:
        for seed in range(given.seed, given.seed + given.times):
            for backplane in given.backplane or BACKPLANES:
                folder = (given.logs or Path(temporary)) / f"{backplane}-{seed}"
                with cluster_of(backplane, folder, nodes=given.nodes, seed=seed) as cluster:
                    for name in given.row or ROWS:
                        if backplane in ROWS[name].backplanes:
                            reports.append(perform(ROWS[name], cluster, long=not given.short))
                            _show(reports[-1])
    print(f"\n{'row':<22}{'':<7}{' '.join(f'{name:>6}' for name in _COUNTS)} {'events':>10} {'acked':>8}")
    for report in reports:
        print(_line(report))
    return any(report.faults for report in reports)


if __name__ == "__main__":
    sys.exit(main())
