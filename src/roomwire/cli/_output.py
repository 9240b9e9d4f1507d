"""Tables and JSON on stdout."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import click

__all__ = ["print_json", "print_table", "printable"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def print_json(value: object) -> None:
    """One JSON document, indented."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(rows: Sequence[Sequence[str]], heading: Sequence[str]) -> None:
    """Columns as wide as their widest cell; the last one is not padded."""
    table = [heading, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(heading))]
    for number, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        line = "  ".join(cells).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)


def printable(text: str) -> str:
    """Text of somebody else's, without what a terminal would obey."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
