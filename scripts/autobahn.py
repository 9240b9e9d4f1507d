"""Runs the Autobahn testsuite against the echo server of the tests, on every shell, and sums it up.

    scripts/autobahn.py [core|quick|deflate|all] [--only callback-uvloop ...]

    core      sections 1 to 7, 9 and 10: frames, control frames, UTF-8, closing, large messages; half a minute a shell
    quick     core without section 9, and a few cases of each group of 12 and 13; a minute
    deflate   sections 12 and 13: permessage-deflate; half an hour
    all       core and deflate

Its exit status is 1 where a case failed or passed only non-strictly, and 2 where the suite could not run.

The suite is a program of Python 2.7, which is looked for as $PYTHON2, on the PATH and among pyenv's versions. Where
there is none, it is unpacked from packages of Debian 11, without root and beside the system; that needs apt and dpkg.
All of it is installed once, into $AUTOBAHN_CACHE or ~/.cache/roomwire/autobahn, where the reports stay, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("AUTOBAHN_CACHE") or Path.home() / ".cache" / "roomwire" / "autobahn")
SUITE = "autobahntestsuite==25.10.1"
VIRTUALENV = "virtualenv<20.22"  # the last that makes environments of Python 2.7
RELEASE = "bullseye"  # the last Debian with Python 2.7
PACKAGES = (
    "python2.7-minimal",
    "libpython2.7-minimal",
    "libpython2.7-stdlib",
    "libpython2.7",
    "libpython2.7-dev",
    "libssl1.1",
    "libffi7",
)

CORE = [f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 9, 10)]
DEFLATE = ["12.*", "13.*"]
SOME_DEFLATE = [f"12.{group}.{case}" for group in range(1, 6) for case in (1, 2, 3, 11)]
SOME_DEFLATE += [f"13.{group}.{case}" for group in range(1, 8) for case in (1, 2, 11)]
SETS = {
    "core": CORE,
    "quick": [section for section in CORE if section != "9.*"] + SOME_DEFLATE,
    "deflate": DEFLATE,
    "all": CORE + DEFLATE,
}
TARGETS = {
    "callback-asyncio": ("callback", "asyncio"),
    "callback-uvloop": ("callback", "uvloop"),
    "portable-asyncio": ("portable", "asyncio"),
    "portable-trio": ("portable", "trio"),
}
LONGEST = 7200
"""Seconds for the cases of one server."""


class CannotRunError(Exception):
    """The suite cannot be installed or run; says why and what to do."""


class Tally(NamedTuple):
    """The outcome of one server's cases.

    Attributes:
        passed: how many did what they should.
        counts: how many by the suite's word for it.
        bad: those that did not, or not strictly, each with that word.
    """

    passed: int
    counts: Counter[str]
    bad: list[str]


# --- the suite


def _run(command: Sequence[str | Path], log: Path, environ: Mapping[str, str] | None = None, **options: Any) -> None:
    """A command whose output goes to a log; CannotRunError, with the end of it, where it fails."""
    with log.open("ab") as out:
        try:
            done = subprocess.run(  # noqa: S603  our own arguments
                list(map(str, command)), stdout=out, stderr=out, env=environ, check=False, **options
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotRunError(f"{command[0]}: {error}") from None
    if done.returncode:
        last = "\n  ".join(log.read_text(errors="replace").splitlines()[-5:])
        raise CannotRunError(f"{Path(command[0]).name} failed, {log} has more:\n  {last}")


def _old_python() -> Path | None:
    """A Python 2.7 of this machine; None where there is none."""
    asked = os.environ.get("PYTHON2")
    if asked == "debian":
        return None
    found: list[str | Path | None] = (
        [asked] if asked else [shutil.which("python2.7"), *Path.home().glob(".pyenv/versions/2.7.*/bin/python2.7")]
    )
    for path in (path for path in found if path is not None):
        probe = [str(path), "-c", "import ssl, zlib, sys; sys.exit(sys.version_info[:2] != (2, 7))"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:  # noqa: S603
            return Path(path)
    if asked:
        raise CannotRunError(f"PYTHON2={asked} is no Python 2.7 with ssl and zlib")
    return None


def _unpacked_python(log: Path) -> Path:
    """Python 2.7 out of Debian's packages."""
    root = CACHE / "debian"
    python = root / "usr" / "bin" / "python2.7"
    if python.exists():
        return python
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise CannotRunError("there is no Python 2.7: name one as PYTHON2=/path/to/python2.7")
    apt = CACHE / "apt"
    for name in ("lists/partial", "archives/partial", "packages"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    # The mirror that this machine uses already has the old release, too.
    listed = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]
    sites = subprocess.run(listed, capture_output=True, text=True, check=False).stdout.split()  # noqa: S603
    site = next((site for site in sites if not site.rstrip("/").endswith("security")), None)
    if site is None:
        raise CannotRunError("apt knows no mirror: name a Python 2.7 as PYTHON2=/path/to/python2.7")
    (apt / "sources.list").write_text(f"deb {site} {RELEASE} main\n")
    own = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt,
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",
    }
    options = [word for key, value in own.items() for word in ("-o", f"{key}={value}")]
    _run(["apt-get", *options, "update"], log)
    _run(["apt-get", *options, "download", *PACKAGES], log, cwd=apt / "packages")
    for package in (apt / "packages").glob("*.deb"):
        _run(["dpkg", "-x", package, root], log)
    return python


def _environment() -> dict[str, str]:
    """The variables under which an unpacked Python finds what belongs to it."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    root = CACHE / "debian" / "usr"
    if root.exists():
        libraries = next(root.glob("lib/*/libpython2.7.so*"), root / "lib").parent
        headers = [root / "include" / "python2.7", *root.glob("include/*-linux-gnu*"), root / "include"]
        environ["LD_LIBRARY_PATH"] = str(libraries)
        environ["CPATH"] = ":".join(map(str, headers))
    return environ


def install() -> Path:
    """The suite's program, installed where that is not done yet."""
    program = CACHE / "suite" / "bin" / "wstest"
    ready = CACHE / f"{SUITE}.ready"
    if ready.exists():
        return program
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / "install.log"
    python = _old_python() or _unpacked_python(log)
    _say(f"installing {SUITE} into {CACHE}, with {python}")
    _run([sys.executable, "-m", "venv", CACHE / "maker"], log)
    _run([CACHE / "maker" / "bin" / "pip", "install", "--quiet", VIRTUALENV], log)
    shutil.rmtree(CACHE / "suite", ignore_errors=True)
    environ = _environment()
    _run([CACHE / "maker" / "bin" / "virtualenv", "--python", python, CACHE / "suite"], log, environ)
    _run([CACHE / "suite" / "bin" / "pip", "install", SUITE], log, environ)
    _run([program, "-a"], log, environ)
    ready.touch()
    return program


# --- one server


@contextmanager
def serving(shell: str, backend: str, *, compression: bool) -> Iterator[str]:
    """The address of an echo server, until the end of the block."""
    command = [sys.executable, "-m", "tests.tools.echo_server", "--shell", shell, "--backend", backend, "--port", "0"]
    command += ["--compression"] if compression else []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        assert server.stdout is not None
        try:
            address = server.stdout.readline().strip()
            if not address:
                raise CannotRunError(f"the echo server ended: {' '.join(command)}")
            yield address
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def attack(program: Path, name: str, address: str, wanted: str) -> Tally:
    """Run the cases of a set."""
    reports = CACHE / "reports" / f"{wanted}-{name}"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    spec: dict[str, object] = {
        "outdir": str(reports),
        "servers": [{"agent": name, "url": address}],
        "cases": SETS[wanted],
    }
    spec |= {"exclude-cases": [], "exclude-agent-cases": {}}
    (reports / "spec.json").write_text(json.dumps(spec))
    command: list[str | Path] = [program, "--mode", "fuzzingclient", "--spec", reports / "spec.json"]
    _run(command, reports / "run.log", _environment(), cwd=reports, timeout=LONGEST)
    index = reports / "index.json"
    if not index.exists():
        raise CannotRunError(f"no report came; {reports / 'run.log'} may say why")
    return tally(json.loads(index.read_text())[name])


def tally(cases: Mapping[str, Mapping[str, str]]) -> Tally:
    """Sum up a report: by case, the behaviour in the case and in the closing handshake."""
    counts = Counter(case["behavior"] for case in cases.values())
    bad = []
    for number, case in sorted(cases.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        words = {case["behavior"], case["behaviorClose"]}
        if not words <= {"OK", "INFORMATIONAL"}:
            bad.append(f"{number} {'/'.join(sorted(words))}")
    return Tally(len(cases) - len(bad), counts, bad)


# --- all of them


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", nargs="?", choices=SETS, default="core")
    parser.add_argument(
        "--only", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="SHELL", help="of: %(choices)s"
    )
    given = parser.parse_args()
    good = True
    try:
        program = install()
        for name in given.only:
            shell, backend = TARGETS[name]
            began = time.monotonic()
            with serving(shell, backend, compression=given.set != "core") as address:
                found = attack(program, name, address, given.set)
            count = sum(found.counts.values())
            words = ", ".join(f"{number} {word}" for word, number in sorted(found.counts.items()))
            took = time.monotonic() - began
            _say(f"{name}: {given.set}: {found.passed} of {count} passed ({words}) in {took:.0f} s")
            for case in found.bad:
                _say(f"  {case}")
            good = good and count > 0 and not found.bad
    except CannotRunError as error:
        sys.stderr.write(f"autobahn: {error}\n")
        return 2
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
