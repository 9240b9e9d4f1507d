"""``python -m roomwire``: the command line, where its script is not on the PATH."""

from __future__ import annotations

from roomwire.cli import main

__all__: list[str] = []

main(prog_name="roomwire")
