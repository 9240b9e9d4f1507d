"""The support matrix, docs/reference/transports.md: what its cells say is what the tests expect."""

from __future__ import annotations

from pathlib import Path

__all__ = ["COLUMNS", "PAGE", "matrix", "says"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "transports.md"
COLUMNS = ("anyio", "uvicorn-sansio", "uvicorn-wsproto", "hypercorn", "hypercorn-trio", "granian")


def matrix() -> dict[str, dict[str, str]]:
    """The cells, by feature and column."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    table: dict[str, dict[str, str]] = {}
    for line in rows:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == len(COLUMNS) + 1 and cells[0] != "feature":
            assert cells[0] not in table, f"the row {cells[0]!r} stands there twice"
            table[cells[0]] = dict(zip(COLUMNS, cells[1:], strict=True))
    return table


def says(feature: str, column: str) -> str:
    """What the page says of a transport or host."""
    return matrix()[feature][column]
