"""Holds the public surface to known types, as pyright sees it through ``py.typed``.

pyright's own verdict also counts what it calls ambiguous: an attribute that is assigned from an
annotated parameter, whose type every checker infers alike. Those are told and do not fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any


def unknown_symbols(completeness: dict[str, Any]) -> Iterator[str]:
    """The public symbols whose type pyright does not know, with what it says of them."""
    for symbol in completeness["symbols"]:
        if not symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]:
            messages = [diagnostic["message"] for diagnostic in symbol["diagnostics"]]
            yield f"{symbol['name']}: {'; '.join(messages) or 'its type is unknown'}"


def main(package: str) -> int:
    """Returns the exit status."""
    command = ["pyright", "--verifytypes", package, "--ignoreexternal", "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own arguments
    try:
        completeness = json.loads(done.stdout)["typeCompleteness"]
    except (ValueError, KeyError):
        sys.stderr.write(done.stdout + done.stderr)
        return 2
    counts = completeness["exportedSymbolCounts"]
    sys.stdout.write(f"{package}: {sum(counts.values())} public symbols, {counts['withUnknownType']} of unknown type\n")
    unknown = list(unknown_symbols(completeness))
    sys.stderr.write("".join(f"{line}\n" for line in unknown))
    # No symbol at all means that pyright did not find the package.
    return 1 if unknown or counts["withUnknownType"] or not counts["withKnownType"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
