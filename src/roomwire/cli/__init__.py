"""The command line. `main` is its door; each command has a module of its own, imported when it is called."""

from __future__ import annotations

from roomwire.cli._group import main

__all__ = ["main"]
