"""``python -m roomwire``: the command line, where its script is not on the PATH."""

from __future__ import annotations

from roomwire.cli import main

__all__: list[str] = []

if __name__ == "__main__":  # a process that multiprocessing spawns from here imports it again
    main(prog_name="roomwire")
