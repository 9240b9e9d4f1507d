"""Feed every parser what no stranger would think of; the package's docstring has the parts."""

# ruff: noqa: T201 - a command line

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

from tests.fuzz.harness import Fault, Grown, fuzz, judge
from tests.fuzz.targets import TARGETS, plan


def _progress(name: str, inputs: int) -> Callable[[int], None]:
    """A line that is written over, where a person looks on."""
    began = last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < 0.2 or not sys.stderr.isatty():
            return
        last = now
        rate = done / (now - began)
        left = (inputs - done) / rate if rate else 0
        line = f"{name:<18}{done:>10,} of {inputs:,}   {rate:,.0f}/s   {left:.0f} s left"
        print(f"\r{line}\x1b[K", end="", file=sys.stderr)

    return show


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="over all targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; may be given several times")
    parser.add_argument("--input", metavar="HEX", help="feed one input to the target, and nothing else")
    parser.add_argument("--coverage", action="store_true", help="under atheris, one target; needs: pip install atheris")
    parser.add_argument("--list", action="store_true", help="list the targets")
    given = parser.parse_args()
    targets = [TARGETS[name] for name in given.target or TARGETS]
    if given.list:
        for target in targets:
            print(f"{target.name:<18}{target.what}")
            for error, reason in target.allowed.items():
                print(f"{'':<18}  {error.__name__}: {reason}")
        return 0
    if given.input is not None:
        with targets[0].open() as read:
            print(judge(targets[0], read, b"" if given.input == "-" else bytes.fromhex(given.input)) or "accepted")
        return 0
    if given.coverage:
        words = [targets[0].name, str(given.inputs), str(given.seed)]
        return subprocess.call([sys.executable, "-m", "tests.fuzz.guided", *words])
    print(f"seed {given.seed}")
    total = 0
    for target, inputs in plan(targets, given.inputs):
        try:
            report = fuzz(target, inputs, given.seed, _progress(target.name, inputs))
        except (Fault, Grown) as fault:
            print(f"\r\x1b[K{fault}" if sys.stderr.isatty() else fault, file=sys.stderr)
            return 1
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)
        print(report, flush=True)
        total += report.inputs
    print(f"{total:,} inputs, no fault")
    return 0


if __name__ == "__main__":
    sys.exit(main())
