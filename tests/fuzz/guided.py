"""The same targets under atheris (libFuzzer): inputs are kept that reach code which no other did.

    python -m tests.fuzz --coverage --target frames

Optional: ``pip install atheris``. Nothing else needs it. It runs in a process of its own, since modules are
instrumented while they are imported.
"""

from __future__ import annotations

import importlib
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

SEEDS = 300
"""Inputs that it begins with."""
MAX_SIZE = 4096
"""Bytes of one input."""


def main() -> None:
    """``TARGET INPUTS SEED``. libFuzzer ends the process, with a status that is not 0 at a fault."""
    name, inputs, seed = sys.argv[1:]
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        sys.exit("--coverage needs atheris: pip install atheris")
    with atheris.instrument_imports(include=["roomwire", "wsproto", "h11"]):
        target = importlib.import_module("tests.fuzz.targets").TARGETS[name]
        judge = importlib.import_module("tests.fuzz.harness").judge
    rng = random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory() as corpus, target.open() as read:
        for number in range(SEEDS):
            (Path(corpus) / str(number)).write_bytes(target.make(rng))
        options = [f"-runs={inputs}", f"-seed={seed}", f"-max_len={MAX_SIZE}", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, corpus], lambda data: judge(target, read, data) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
