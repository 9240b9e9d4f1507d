"""Tables in Markdown."""

from __future__ import annotations

__all__ = ["markdown", "shown"]


def shown(value: float | None) -> str:
    """Three digits; empty where nothing is known."""
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def markdown(heading: list[str], rows: list[list[str]]) -> str:
    """With columns of one width."""
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    table = [heading, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    )
