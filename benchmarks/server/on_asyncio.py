"""The ``roomwire`` command as it is where uvloop is not installed."""

import sys

sys.modules["uvloop"] = None  # type: ignore[assignment]  # to the import system: there is none

from roomwire.cli import main  # noqa: E402

main(prog_name="roomwire")
