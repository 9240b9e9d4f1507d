"""What works and is yet unsafe or unwise in a configuration, each with the line that changes it.

item.py        what a warning is
access.py      who may connect: authentication, origins, secrets
network.py     where the node listens, who stands before it, how it stops; the backplane; logging
publishing.py  the publish API
limits.py      limits and rooms
machine.py     what this machine has, against what the limits may take

A warning is what a reviewer would raise; the defaults have none. `docs/how-to/check.md` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator

from roomwire.cli._advice import access, limits, machine, network, publishing
from roomwire.cli._advice.item import Advice
from roomwire.config import Loaded

__all__ = ["Advice", "advice"]


def advice(loaded: Loaded) -> list[Advice]:
    """Everything that a reviewer would ask about."""
    return [_placed(loaded, item) for item in _all(loaded)]


def _all(loaded: Loaded) -> Iterator[Advice]:
    yield from access.advice(loaded)
    yield from network.advice(loaded)
    yield from publishing.advice(loaded.settings)
    yield from limits.advice(loaded.settings)
    yield from machine.advice(loaded)


def _placed(loaded: Loaded, item: Advice) -> Advice:
    """With where it is set, unless that is the file, which `Advice.change` is a line of."""
    origin = loaded.origin(*item.path)
    in_file = loaded.source is not None and origin.source == loaded.source.name
    return item if in_file or origin.source == "default" else item._replace(instead=loaded.where(*item.path))
