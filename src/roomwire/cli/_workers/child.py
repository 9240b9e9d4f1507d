"""A worker's process: the command line with a `Worker`, and gone when the parent is.

    python -m roomwire.cli._workers.child LIFELINE STATUS HANDOVER NUMBER SERIAL ARGUMENTS...

The first three are descriptors; the lifeline is that of `roomwire.cli._child`.
"""

from __future__ import annotations

import os
import sys
import threading

from roomwire.cli import main
from roomwire.cli._child import end_with
from roomwire.cli._workers.role import Worker

__all__: list[str] = []


if __name__ == "__main__":
    lifeline, status, handover, number, serial = (int(sys.argv.pop(1)) for _ in range(5))
    for descriptor in (lifeline, status, handover):
        os.set_inheritable(descriptor, False)  # what the application starts has no part in this
    threading.Thread(target=end_with, args=(lifeline,), name="lifeline", daemon=True).start()
    main(prog_name="roomwire", obj=Worker(number, serial, handover, status))
