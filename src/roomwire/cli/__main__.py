"""``python -m roomwire.cli``: the command without its script, as the reloader starts it."""

from __future__ import annotations

from roomwire.cli import main

__all__: list[str] = []

main(prog_name="roomwire")
