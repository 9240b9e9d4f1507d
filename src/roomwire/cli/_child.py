"""The process that a supervisor starts anew: the command line, and gone when the supervisor is.

    python -m roomwire.cli._child DESCRIPTOR ARGUMENTS...

The descriptor is the reading end of a pipe whose other end the supervisor holds and never writes to. Whoever kills
the supervisor means the server; left behind, that would keep the port, and no signal would reach it any more.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from roomwire.cli import main

__all__: list[str] = []


def end_with(lifeline: int) -> None:
    """Wait for the end of the supervisor, and end at once."""
    os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    descriptor = int(sys.argv.pop(1))
    os.set_inheritable(descriptor, False)  # what the application starts need not end with us
    threading.Thread(target=end_with, args=(descriptor,), name="lifeline", daemon=True).start()
    main(prog_name="roomwire")
