"""The parent of the workers: starts them, starts them anew, and ends them together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from roomwire.cli._group import StartFailed
from roomwire.cli._workers.exchange import Exchange, Line
from roomwire.cli._workers.role import READY

__all__ = ["Supervisor", "pause_before"]

logger = logging.getLogger("roomwire")

_SETTLED = 10.0
"""Seconds that a worker has to live for its end not to count as one at once."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_HANDSHAKES = 1.0
"""Seconds from the last connection that a worker was handed to its drain, which refuses handshakes under way."""
_GRACE = 5.0
"""Seconds beyond the time of a drain, after which a worker that hangs is killed."""
_LAST_GRACE = 3.0
"""The same from a second signal on: `roomwire.node.drain` takes two for what is given back to the store."""
# The service manager talks with us, and what it hands over is ours.
_NOT_FOR_WORKERS = {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}


class _WrongInput(StartFailed):
    """What a worker says of its configuration; it has said what."""

    exit_code = 2


def pause_before(failures: int) -> float:
    """Seconds before a worker is started anew that ended at once so many times in a row."""
    return 0.0 if failures <= 1 else min(_FIRST_PAUSE * 2.0 ** (failures - 2), _LONGEST_PAUSE)


class _Process:
    """One process of a worker.

    Attributes:
        number: which worker it is.
        popen: the process.
        line: its way of connections.
        status: the descriptor by which it says that it is ready; -1 when that is closed.
        ready_at: when it said so, in the loop's seconds.
        retiring: whether it was told to end, since there is a successor.
    """

    def __init__(self, number: int, popen: subprocess.Popen[bytes], line: Line, status: int) -> None:
        self.number = number
        self.popen = popen
        self.line = line
        self.status = status
        self.ready_at: float | None = None
        self.retiring = False

    @property
    def fields(self) -> dict[str, object]:
        """For the log."""
        return {"worker": self.number, "pid": self.popen.pid}


class Supervisor:
    """Keeps the workers running until a signal.

    SIGTERM and SIGINT drain all, the second one ends them at once. SIGHUP starts one after the other anew, each of
    which serves before the one that it replaces is drained.

    Args:
        command: the arguments of ``roomwire``.
        workers: how many.
        exchange: hands connections over to them.
        patience: seconds that a drain takes at most.
        on_ready: called once, when all of them serve.
        on_stop: called once, when they are about to end.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        exchange: Exchange,
        *,
        patience: float,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        self._command = command
        self._workers = workers
        self._exchange = exchange
        self._patience = patience
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._loop = asyncio.get_running_loop()
        # Its other end is closed when we are gone, however that came about.
        self._lifeline = os.pipe()
        self._processes: list[_Process] = []
        self._serial = 0
        self._failures: Counter[int] = Counter()
        self._serving = False
        self._signals = 0
        self._to_renew: list[int] = []
        self._fault: BaseException | None = None
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Until all have ended.

        Raises:
            StartFailed: one of them ended before it was ready for the first time; with its exit code, where
                its configuration was wrong.
            Exception: whatever failed in here; the workers are killed then.
        """
        self._loop.set_exception_handler(self._failed)
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._renew,
            signal.SIGCHLD: self._reap,
        }
        for number, handler in handlers.items():
            self._loop.add_signal_handler(number, handler)
        try:
            # The others follow when it is ready: what is wrong is said once.
            self._start(1)
            await self._ended.wait()
        finally:
            for process in self._processes:
                process.popen.kill()
                process.popen.wait()
            self._exchange.close()
            for end in self._lifeline:
                os.close(end)
            for number in handlers:
                self._loop.remove_signal_handler(number)
        if self._fault is not None:
            raise self._fault

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._end(context.get("exception") or RuntimeError(context["message"]))

    def _end(self, fault: BaseException | None = None) -> None:
        self._fault = self._fault or fault
        self._ended.set()

    # --- starting

    def _start(self, number: int) -> None:
        """Start a process of a worker.

        Raises:
            StartFailed: this machine cannot, and it is the first start; else it is tried again, unless it
                was to replace one, which stays.
        """
        try:
            process = self._spawn(number)
        except OSError as error:  # no memory, no descriptor, too many processes
            if not self._serving:
                raise StartFailed(f"worker {number} cannot be started: {error.strerror}") from error
            fields: dict[str, object] = {"event": "worker_failed", "worker": number, "error": error.strerror}
            if self._has(number):
                self._renew_no_more(number)
            else:
                fields["again_in"] = _LONGEST_PAUSE
                self._loop.call_later(_LONGEST_PAUSE, self._restart, number)
            logger.error("a worker cannot be started", extra={"roomwire": fields})
            return
        self._processes.append(process)
        self._loop.add_reader(process.status, self._heard, process)

    def _restart(self, number: int) -> None:
        """Where there is none meanwhile, and none is to be."""
        if not self._signals and not self._has(number):
            self._start(number)

    def _has(self, number: int) -> bool:
        """Whether this worker has a process that serves, or is about to; one that retires is none."""
        return any(process.number == number and not process.retiring for process in self._processes)

    def _spawn(self, number: int) -> _Process:
        with ExitStack() as undo:
            line = Line()
            undo.callback(line.close)
            status, told = os.pipe()
            undo.callback(os.close, status)
            descriptors = (self._lifeline[0], told, line.far.fileno())
            arguments = [str(argument) for argument in (*descriptors, number, self._serial + 1)]
            try:
                popen = subprocess.Popen(  # noqa: S603  the command that we are
                    [sys.executable, "-m", "roomwire.cli._workers.child", *arguments, *self._command],
                    env={name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS},
                    # In a group of its own: a Ctrl-C of the terminal reaches it through us, and only once.
                    process_group=0,
                    pass_fds=descriptors,
                )
            finally:
                os.close(told)
            undo.pop_all()
        self._serial += 1
        return _Process(number, popen, line, status)

    def _heard(self, process: _Process) -> None:
        ready = os.read(process.status, len(READY)) == READY
        self._close_status(process)
        if ready:
            process.ready_at = self._loop.time()
            logger.info("worker ready", extra={"roomwire": {"event": "worker_ready", **process.fields}})
            self._exchange.add(process.line)
            if self._serving:
                self._succeed(process)
            else:
                self._begin()

    def _close_status(self, process: _Process) -> None:
        if process.status >= 0:
            self._loop.remove_reader(process.status)
            os.close(process.status)
            process.status = -1

    def _begin(self) -> None:
        if len(self._processes) < self._workers:
            for number in range(2, self._workers + 1):
                self._start(number)
        elif all(process.ready_at is not None for process in self._processes) and not self._signals:
            self._serving = True
            self._exchange.open()
            self._on_ready()

    # --- one after the other anew

    def _renew(self) -> None:
        if not self._serving or self._signals or self._to_renew:
            logger.warning("not starting the workers anew: they start or end", extra={"roomwire": {"event": "renew"}})
            return
        logger.info("starting the workers anew", extra={"roomwire": {"event": "renew"}})
        self._to_renew = list(range(1, self._workers + 1))
        self._start(self._to_renew[0])

    def _succeed(self, successor: _Process) -> None:
        for process in self._processes:
            if process is not successor and process.number == successor.number and not process.retiring:
                process.retiring = True
                self._exchange.remove(process.line)
                self._loop.call_later(_HANDSHAKES, self._drain, process)
                return
        self._renewed(successor.number)

    def _renewed(self, number: int) -> None:
        """The turn of the next worker, where this was the one whose turn it was."""
        if self._to_renew[:1] == [number]:
            del self._to_renew[0]
            if self._to_renew:
                self._start(self._to_renew[0])
            else:
                logger.info("all workers are new", extra={"roomwire": {"event": "renewed"}})

    def _renew_no_more(self, number: int) -> None:
        """The worker whose turn it was has no successor that serves: the others stay as they are."""
        if self._to_renew[:1] == [number]:
            self._to_renew = []
            logger.warning("no further worker is started anew", extra={"roomwire": {"event": "renew"}})

    # --- ending

    def _stop(self) -> None:
        self._signals += 1
        if self._signals == 1:
            fields = {"event": "drain", "workers": len(self._processes)}
            logger.info("draining all workers", extra={"roomwire": fields})
            self._exchange.close()
            self._on_stop()
            for process in self._processes:
                self._drain(process)
            self._reap()
        else:
            for process in self._processes:
                process.popen.send_signal(signal.SIGINT)  # a second SIGTERM says nothing new to a worker
                self._loop.call_later(_LAST_GRACE, self._kill, process)

    def _drain(self, process: _Process) -> None:
        if process in self._processes:
            process.popen.terminate()
            self._loop.call_later(self._patience + _GRACE, self._kill, process)

    def _kill(self, process: _Process) -> None:
        if process in self._processes:
            logger.error("a worker hangs", extra={"roomwire": {"event": "worker_killed", **process.fields}})
            process.popen.kill()

    def _reap(self) -> None:
        for process in list(self._processes):
            if process.popen.poll() is not None:
                self._processes.remove(process)
                self._close_status(process)
                self._exchange.remove(process.line)
                self._after(process)
        if self._signals and not self._processes:
            self._end()

    def _after(self, process: _Process) -> None:
        code = process.popen.returncode
        if self._signals:
            return
        if not self._serving:
            kind = _WrongInput if code == _WrongInput.exit_code else StartFailed
            self._end(kind(f"worker {process.number} ended before it was ready, {_how(code)}"))
        elif process.retiring:
            self._renewed(process.number)
        else:
            fields: dict[str, object] = {"event": "worker_ended", **process.fields, "how": _how(code)}
            if not self._has(process.number):
                pause = self._count_end(process)
                logger.error("a worker ended", extra={"roomwire": fields | {"again_in": pause}})
                self._renew_no_more(process.number)
                self._loop.call_later(pause, self._restart, process.number)
            elif process.ready_at is None:
                logger.error("a worker cannot be replaced: it stays", extra={"roomwire": fields})
                self._renew_no_more(process.number)
            else:  # its successor is about to serve
                logger.error("a worker ended", extra={"roomwire": fields})

    def _count_end(self, process: _Process) -> float:
        lived = 0.0 if process.ready_at is None else self._loop.time() - process.ready_at
        self._failures[process.number] = self._failures[process.number] + 1 if lived < _SETTLED else 0
        return pause_before(self._failures[process.number])


def _how(code: int) -> str:
    return f"with exit code {code}" if code >= 0 else f"by signal {-code}"
