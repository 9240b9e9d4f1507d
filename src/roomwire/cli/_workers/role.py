"""What a process knows that is one worker of several."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from roomwire.config import Loaded

__all__ = ["READY", "Worker"]

READY = b"r"
"""What a worker writes to its parent, once it serves."""


@dataclass(frozen=True, slots=True)
class Worker:
    """The object of the command's context in a worker.

    Attributes:
        number: which of the workers, from 1.
        serial: of this process, the how manieth that the parent started, from 1.
        handover: the descriptor by which connections come.
        status: the descriptor by which the parent hears that it is ready.
    """

    number: int
    serial: int
    handover: int
    status: int

    def configured(self, loaded: Loaded) -> Loaded:
        """The configuration of this worker: a node's name that was set becomes one of its own, as does `metrics.port`.

        A successor serves while the one before still drains, so that it is the serial that makes the name so.
        """
        settings = loaded.settings
        # It is one of several though the file, which was read anew, should say something else by now.
        server: dict[str, object] = {"workers": max(settings.server.workers, 2)}
        if loaded.origin("server", "node").source != "default":  # else made at the start: another one in each process
            server["node"] = f"{settings.server.node}-{self.serial}"
        update = {
            "metrics": settings.metrics.of_worker(self.number),
            "server": settings.server.model_copy(update=server),
        }
        return replace(loaded, settings=settings.model_copy(update=update))

    def tell_ready(self) -> None:
        """Tell the parent that connections are served."""
        os.write(self.status, READY)
        os.close(self.status)
