"""Node processes: started by the real command line, ended, stopped and continued by their ids."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.cluster.ledger import LEDGER
from tests.servers import free_port

__all__ = ["SECRET", "NodeProcess", "toml"]

ROOT = Path(__file__).parents[2]
SECRET = "the secret of a cluster that lives for a minute"
START_TIMEOUT = 30.0
_EXPECTED = re.compile(r"^roomwire\.core\.errors\.Unavailable\b", re.M)
END_TIMEOUT = 40.0


def toml(sections: dict[str, dict[str, Any]]) -> str:
    """Sections of plain values as TOML."""
    lines = ['app = "tests.cluster.app:app"']
    for name, values in sections.items():
        lines.append(f"\n[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


class NodeProcess:
    """A node, which keeps its port and its name's first part over restarts.

    Args:
        name: of the node; each start adds its number, as a restarted node is another one.
        directory: for its configuration and log.
        sections: of the configuration, by their TOML names.
        ledger: the ledger of all nodes.
    """

    def __init__(self, name: str, directory: Path, sections: dict[str, dict[str, Any]], ledger: Path) -> None:
        self.name = name
        self.port = free_port()
        self._directory = directory
        self._sections = sections
        self._ledger = ledger
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._paused = False
        self._judged = 0
        self.log_path = directory / f"{name}.log"

    @property
    def up(self) -> bool:
        """Whether the process exists and is not stopped."""
        return self._process is not None and self._process.poll() is None and not self._paused

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it and those before it have written."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def new_tracebacks(self) -> list[str]:
        """The tracebacks in its log since the last call; `Unavailable` is a fault of the store's."""
        found = []
        log = self.log
        end = log.rfind("\n") + 1  # the rest is being written
        for line in log[self._judged : end].splitlines():
            if '"exception"' in line:
                record = json.loads(line)
                if not _EXPECTED.search(record["exception"]):
                    found.append(f"{self.name}: {record['message']}\n{record['exception']}")
            elif line.startswith("Traceback"):
                found.append(f"{self.name}: {line}")
        self._judged = end
        return found

    def launch(self) -> None:
        """Start it; it is not ready yet."""
        self._starts += 1
        server = {"port": self.port, "node": f"{self.name}-{self._starts}", **self._sections.get("server", {})}
        config = self._directory / f"{self.name}.toml"
        config.write_text(toml({**self._sections, "server": server}))
        with self.log_path.open("a+b") as log:
            log.seek(0)
            log.truncate(log.read().rfind(b"\n") + 1)  # half a line of one that was killed
            self._process = subprocess.Popen(
                [sys.executable, "-m", "roomwire.cli", "run", "--config", str(config), "--app-dir", str(ROOT)],
                cwd=self._directory,
                env={**os.environ, LEDGER: str(self._ledger), "PYTHONWARNINGS": "default"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until it says that it is ready."""
        deadline = time.monotonic() + START_TIMEOUT
        while self.status() != 200:
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not start; its log ends:\n{self.log[-3000:]}")
            time.sleep(0.02)  # a poll of a foreign process, with a deadline

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        self.wait_ready()

    def status(self) -> int:
        """What ``/readyz`` answers; 0 where nobody does."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1.0)
        try:
            link.request("GET", "/readyz")
            return link.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            link.close()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._paused = False

    def terminate(self) -> None:
        """SIGTERM: a drain begins."""
        assert self._process is not None
        self._process.terminate()

    def join(self) -> int:
        """Wait for its end: the exit code."""
        assert self._process is not None
        code = self._process.wait(END_TIMEOUT)
        self._process = None
        return code

    def stop(self) -> None:
        """SIGTERM, and wait; SIGKILL where that does not help."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def pause(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT after a `pause`, else nothing."""
        if self._paused and self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)
        self._paused = False

    def reap(self) -> bool:
        """Whether it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
            return True
        return False
