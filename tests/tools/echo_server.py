"""An echo server on the carrier layer alone: what conformance suites and load generators talk to.

    python -m tests.tools.echo_server --shell callback --port 9001

Text comes back as text and bytes as bytes. Limits are raised as far as the suites need: messages of 16 MiB in
65,536 fragments.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence

import anyio
import anyio.abc

from roomwire.core.closing import CloseCode, Closing
from roomwire.core.errors import Refusal
from roomwire.core.limits import Limits
from roomwire.core.request import RequestHead
from roomwire.core.wheel import TimerWheel
from roomwire.runtime import AsyncioRuntime, PortableRuntime, open_runtime
from roomwire.transports.anyio import AnyioTransport
from roomwire.transports.contract import (
    Admission,
    Fallback,
    HttpResponse,
    Link,
    ListenOptions,
    Message,
    Receiver,
    Upload,
)

__all__ = ["EchoHost", "EchoReceiver"]

TICK = 0.05
RAISED = Limits(
    max_message_size=16_777_216,
    max_fragments=1_000_000,
    outbox_bytes=268_435_456,
    outbox_messages=1_000_000,
)


class EchoReceiver:
    """Answers every message with itself. Tests subclass it.

    Attributes:
        link: the way out, from `opened` on.
        ended: the close code, reason, and whether the peer began; None while the link lasts.
    """

    def __init__(self) -> None:
        self.link: Link | None = None
        self.ended: tuple[int, str, bool] | None = None
        self.cause: BaseException | None = None

    def opened(self, link: Link) -> None:
        self.link = link

    def received(self, messages: Sequence[Message], frames: int, size: int) -> None:
        assert self.link is not None
        for message in messages:
            self.link.write(self.link.framing.block([message]), 1)

    def overflowed(self) -> None:
        self.close(CloseCode.TOO_SLOW)

    def failed(self) -> None:
        self.close(CloseCode.INTERNAL_ERROR)

    def starved(self) -> None:
        self.close(CloseCode.RATE_LIMITED)

    def close(self, code: CloseCode) -> None:
        assert self.link is not None
        self.link.close(Closing.of(code))

    def lost(self, code: int, reason: str, *, by_peer: bool, cause: BaseException | None = None) -> None:
        assert self.ended is None, "told once"
        self.ended = code, reason, by_peer
        self.cause = cause

    def next_deadline(self) -> float:
        return math.inf

    def poll(self, now: float) -> None:
        pass


class EchoHost:
    """The least node that a transport can serve; every path is the WebSocket's.

    Args:
        make_receiver: what a connection is received by.
        limits: the limits.
        clock: monotonic seconds.

    Attributes:
        receivers: of all connections so far, in order.
        refusals: all refusals so far.
        faults: what went wrong in the transport's own callbacks.
    """

    subprotocols: Sequence[str] = ()
    fallback: Fallback | None = None

    def __init__(
        self,
        make_receiver: Callable[[], Receiver] = EchoReceiver,
        limits: Limits = RAISED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.wheel = TimerWheel()
        self.runtime: AsyncioRuntime | PortableRuntime
        self.receivers: list[Receiver] = []
        self.abandoned: list[Admission] = []
        self.refusals: list[Refusal] = []
        self.faults: list[BaseException] = []
        self._make_receiver = make_receiver
        self._clock = clock

    async def serve(self, transport: AnyioTransport, ready: Callable[[Sequence[str]], None]) -> None:
        """Until the transport is closed."""
        async with open_runtime(self.fault, self._clock) as self.runtime, anyio.create_task_group() as tasks:
            tasks.start_soon(self._tick)
            await transport.serve(self, ready=ready)
            tasks.cancel_scope.cancel()

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(TICK)
            self.wheel.advance(self._clock())

    def path_is_stream(self, path: str) -> bool:
        return False

    async def admit_stream(self, head: RequestHead) -> Admission | HttpResponse:
        raise AssertionError("no path is a stream here")

    def path_is_socket(self, path: str) -> bool:
        return True

    def respond(self, head: RequestHead) -> HttpResponse | None:
        return None

    def wants_body(self, head: RequestHead) -> Upload | None:
        return None

    def at_the_door(self) -> Refusal | None:
        return None

    async def admit(self, head: RequestHead, subprotocol: str | None) -> Admission:
        receiver = self._make_receiver()
        self.receivers.append(receiver)
        return Admission(receiver)

    def abandon(self, admission: Admission) -> None:
        self.abandoned.append(admission)

    def refused(self, head: RequestHead | None, refusal: Refusal, peer: str) -> None:
        self.refusals.append(refusal)

    def fault(self, error: BaseException, where: str) -> None:
        self.faults.append(error)


async def _end_on_signal(transport: AnyioTransport) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            await transport.aclose()
            return


async def _main(options: ListenOptions) -> None:
    transport = AnyioTransport(options)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_on_signal, transport)
        await EchoHost().serve(transport, lambda addresses: print(*addresses, flush=True))
        tasks.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--shell", choices=["callback", "portable"], default="callback")
    parser.add_argument("--backend", choices=["asyncio", "uvloop", "trio"], default="uvloop")
    parser.add_argument("--compression", action="store_true")
    given = parser.parse_args()
    if given.backend == "uvloop" and importlib.util.find_spec("uvloop") is None:
        sys.exit("uvloop is not installed; choose --backend asyncio")
    options = ListenOptions(host=given.host, port=given.port, shell=given.shell, compression=given.compression)
    loop = {"use_uvloop": given.backend == "uvloop"} if given.backend != "trio" else {}
    anyio.run(_main, options, backend="trio" if given.backend == "trio" else "asyncio", backend_options=loop)


if __name__ == "__main__":
    main()
