"""Progress on stderr: a bar where rich is installed and somebody looks, else a line for each thing that is begun."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

__all__ = ["progress"]

Report = Callable[[str, float], None]


@contextmanager
def progress() -> Iterator[Report]:
    """Gives what is to be called with the thing that is being done, and the share of it that is done, 0 to 1."""
    if importlib.util.find_spec("rich") is not None and sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _lines()


def _lines() -> Report:
    latest = ""

    def report(what: str, share: float) -> None:
        nonlocal latest
        if what != latest:
            latest = what
            click.echo(what, err=True)

    return report


@contextmanager
def _bar() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    # rich reads NO_COLOR itself.
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    # Drawn when told only, without the thread that would take its turns from the generator.
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=1.0)
        latest, shown = "", 0.0

        def report(what: str, share: float) -> None:
            nonlocal latest, shown
            if what == latest and share < 1.0 and share - shown < 0.02:
                return
            latest, shown = what, share
            bar.update(task, description=what, completed=share)
            bar.refresh()

        yield report
