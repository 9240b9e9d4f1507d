"""The generator against servers that nobody of ours wrote, and against peers that say what a test makes them say."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from websockets.asyncio.server import ServerConnection, broadcast, serve

from roomwire.bench import load
from roomwire.bench.figures import Figures
from roomwire.bench.links import Member
from roomwire.bench.load import Connect, Echo, Fanout, Idle, Workload, _pace, measure, run_loop
from roomwire.bench.pace import Pace
from roomwire.bench.target import BenchFailed, Expect, Send, Target
from roomwire.core.errors import LocalError
from roomwire.core.frames import PING, Opcode, build_frame, text_frame
from roomwire.core.handshake import accept_token

MESSAGE = '{"content":"@@$stamp$pad"}'
# The generator's own key is a constant: its answer too.
HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + accept_token(b"AAAAAAAAAAAAAAAAAAAAAA==") + b"\r\n\r\n"
)

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def chat() -> AsyncIterator[Target]:
    """A server on websockets: a room where all get what one says, and an echo on a path of its own."""
    members: set[ServerConnection] = set()

    async def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        echo = connection.request.path.startswith("/echo")
        if not echo:
            members.add(connection)
        await connection.send("welcome")
        async for text in connection:
            if echo:
                await connection.send(text)
            else:
                broadcast(members, text)

    async with serve(handle, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield Target("127.0.0.1", port, MESSAGE, "/room", (Expect("welcome"),), pids=(os.getpid(),))


@asynccontextmanager
async def peer(script: Script) -> AsyncIterator[Target]:
    """A server that reads the request's head and then does what the script says."""
    failures: list[BaseException] = []
    handled: list[asyncio.Future[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the generator has ended
        except Exception as error:  # noqa: BLE001  raised below
            if "the handler is closed" not in str(error):  # uvloop's word for the same
                failures.append(error)
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handled.append(asyncio.ensure_future(handle(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        async with server:
            yield Target("127.0.0.1", server.sockets[0].getsockname()[1], MESSAGE, steps=(Expect("welcome"),))
    finally:
        await asyncio.gather(*handled)  # the generator is gone: each script comes to its end
    assert failures == []


def run(place: Callable[[], object], workload: Workload, change: Callable[[Target], Target] = lambda t: t) -> Figures:
    async def main() -> Figures:
        async with place() as target:  # type: ignore[attr-defined]  # one of the two above
            return await measure(change(target), workload)

    return run_loop(main())


def run_peer(script: Script, workload: Workload) -> Figures:
    return run(lambda: peer(script), workload)


def echo_path(target: Target) -> Target:
    return Target(target.host, target.port, target.message, "/echo", target.steps, pids=target.pids)


class TestAgainstAServerOfOthers:
    @pytest.mark.parametrize("pace", [{"window": 1}, {"window": 4}, {"rate": 2000.0}], ids=str)
    def test_fan_out_counts_every_delivery(self, pace: dict[str, float]) -> None:
        figures = run(chat, Fanout(connections=5, concurrency=2, messages=7, **pace))  # type: ignore[arg-type]
        assert figures.traffic is not None
        assert (figures.traffic.messages, figures.traffic.deliveries) == (7, 35)
        assert 0 < figures.traffic.p50 <= figures.traffic.p99

    @pytest.mark.parametrize("pipeline", [1, 3])
    def test_echo_counts_every_reply(self, pipeline: int) -> None:
        figures = run(chat, Echo(connections=4, messages=20, pipeline=pipeline), echo_path)
        assert figures.traffic is not None
        assert (figures.traffic.messages, figures.traffic.deliveries) == (20, 20)

    def test_for_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """That of a clock which goes on with the deliveries: in a moment of the real one there may be none."""
        paces: list[Pace] = []

        def pace_of(workload: Fanout | Echo, members: list[Member]) -> Pace:
            paces.append(_pace(workload, members))
            return paces[0]

        clock = SimpleNamespace(
            monotonic=lambda: sum(pace.deliveries for pace in paces) / 100, process_time=time.process_time
        )
        monkeypatch.setattr(load, "_pace", pace_of)
        monkeypatch.setattr(load, "time", clock)
        monkeypatch.setattr(load, "_LOOK", 0.01)
        figures = run(chat, Fanout(connections=2, seconds=0.3, warmup=0.1))
        assert figures.traffic is not None
        assert figures.traffic.messages > 0
        assert figures.traffic.deliveries > 0

    def test_what_a_connection_costs(self) -> None:
        figures = run(chat, Idle(connections=20, hold=0.05))
        assert figures.opened.connections == 20
        assert figures.opened.cpu is not None
        assert figures.opened.memory is not None
        assert figures.traffic is None
        assert json.loads(json.dumps(figures.as_json()))["connections"] == 20

    def test_progress_is_told(self) -> None:
        told: list[tuple[str, float]] = []

        async def main() -> None:
            async with chat() as target:
                await measure(target, Echo(connections=2, messages=4), lambda *what: told.append(what))

        run_loop(main())
        whats = list(dict.fromkeys(what for what, _ in told))
        assert whats == ["waiting for the server", "opening 2 connections", "measuring"]
        assert all(0 <= share <= 1 for _, share in told)

    def test_large_messages(self) -> None:
        figures = run(chat, Fanout(connections=2, messages=3, size=70_000))
        assert figures.traffic is not None
        assert figures.traffic.deliveries == 6


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The opcode and the payload, of at most 125 bytes, of a client's frame."""
    first, second = await reader.readexactly(2)
    key = await reader.readexactly(4)
    payload = await reader.readexactly(second & 0x7F)
    return first & 0x0F, bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chunk: int) -> None:
    """An echo whose every answer comes behind a ping and a stranger's message, in pieces."""

    async def send(data: bytes) -> None:
        for start in range(0, len(data), chunk):
            writer.write(data[start : start + chunk])
            await writer.drain()
            await asyncio.sleep(0)

    await send(HEAD + PING + text_frame("something else") + text_frame("welcome") + PING)
    pongs, owed = 0, 1  # it may speak once it has the welcome: before it has the ping behind that
    while True:
        opcode, payload = await read_frame(reader)
        if opcode == Opcode.PONG:
            pongs += 1
        else:
            assert pongs >= owed
            owed = max(owed, 2) + 1
            await send(build_frame(Opcode.PING, b"are you there") + text_frame("not this") + text_frame(payload))


class TestReading:
    @pytest.mark.parametrize("chunk", [1, 3, 1_000_000])
    def test_whatever_the_pieces(self, chunk: int) -> None:
        figures = run_peer(
            lambda reader, writer: answer(reader, writer, chunk), Echo(connections=2, messages=6, size=100)
        )
        assert figures.traffic is not None
        assert figures.traffic.deliveries == 6

    def test_heartbeats_of_a_protocol_above_are_answered(self) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(HEAD + text_frame("2"))
            assert await read_frame(reader) == (Opcode.TEXT, b"3")
            writer.write(text_frame("welcome"))
            _, message = await read_frame(reader)
            writer.write(text_frame("22") + text_frame("2"))
            assert await read_frame(reader) == (Opcode.TEXT, b"3")
            writer.write(text_frame(message))
            await reader.read()

        async def main() -> Figures:
            async with peer(script) as target:
                target = replace(target, answers={"2": "3"})
                return await measure(target, Echo(connections=1, messages=1, size=100))

        figures = run_loop(main())
        assert figures.traffic is not None
        assert figures.traffic.deliveries == 1

    def test_steps_are_taken_in_order(self) -> None:
        heard: list[bytes] = []

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(HEAD)
            head = await reader.readexactly(6)
            payload = await reader.readexactly(head[1] & 0x7F)
            heard.append(bytes(byte ^ head[2 + place % 4] for place, byte in enumerate(payload)))
            writer.write(text_frame("joined"))
            await reader.read()

        async def main() -> None:
            async with peer(script) as target:
                steps = (Send("join $index $token $$"), Expect("joined"))
                tokens = ["one", "two"]
                target = Target(target.host, target.port, MESSAGE, steps=steps, tokens=tokens)
                await measure(target, Connect(connections=3, concurrency=1))

        run_loop(main())
        # The first connection is not counted: it waits for the server.
        assert heard == [b"join 0 one $", b"join 0 one $", b"join 1 two $", b"join 2 one $"]


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{"')
    await reader.read()


async def answer_another_key(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD.replace(b"Accept: ", b"Accept: x"))
    await reader.read()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The script ends, and so does the connection."""


async def hang_up_in_the_steps(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + text_frame("go away"))


async def close_in_the_steps(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + build_frame(Opcode.CLOSE, (4004).to_bytes(2, "big")))
    await reader.read()


async def close_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + text_frame("welcome"))
    await reader.readexactly(1)
    writer.write(build_frame(Opcode.CLOSE, (4004).to_bytes(2, "big") + b"too fast"))
    await reader.read()


async def hang_up_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + text_frame("welcome"))
    await reader.readexactly(1)


async def say_something_else(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Only when that has been read is the generator to lose its patience."""
    writer.write(HEAD + text_frame("welcome"))
    await read_frame(reader)
    writer.write(text_frame("rate_limited") + PING)
    assert (await read_frame(reader))[0] == Opcode.PONG
    load.SILENCE = 0.1
    await reader.read()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


class TestWhatIsNoFigure:
    @pytest.mark.parametrize(
        ("script", "why"),
        [
            (refuse, "connection 0: the upgrade was refused: HTTP/1.1 401 Unauthorized"),
            (answer_another_key, "connection 0: the server's 101 does not answer our key"),
            (hang_up, "connection 0 broke: the server ended it"),
            (hang_up_in_the_steps, "it waited for .*welcome.*, and the last message was go away"),
            (close_in_the_steps, "connection 0: the server closed with 4004"),
            (close_later, "the server closed a connection: 4004 too fast"),
            (hang_up_later, "a connection broke: the server ended it"),
        ],
    )
    def test_a_connection_that_ends(self, script: Script, why: str) -> None:
        with pytest.raises(BenchFailed, match=why):
            run_peer(script, Echo(connections=1, messages=1))

    def test_deliveries_that_stop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(load, "_LOOK", 0.05)
        for workload in (Echo(connections=1, messages=1, size=100), Echo(connections=1, size=100, warmup=60)):
            monkeypatch.setattr(load, "SILENCE", 60)
            with pytest.raises(BenchFailed, match="0 of 1 came; the last message that was none: rate_limited"):
                run_peer(say_something_else, workload)

    @pytest.mark.parametrize("constant", ["START_TIMEOUT", "READY_TIMEOUT"])
    def test_a_server_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch, constant: str) -> None:
        monkeypatch.setattr(load, constant, 0.1)
        answered = constant == "START_TIMEOUT"

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal answered
            if not answered:
                answered = True
                writer.write(HEAD + text_frame("welcome"))
            await reader.read()

        with pytest.raises(BenchFailed, match=r"connection 0: not ready within 0\.1 s"):
            run_peer(script, Connect(connections=1))

    def test_nobody_listens(self) -> None:
        async def main() -> None:
            async with peer(hang_up) as target:
                pass
            await measure(target, Connect(connections=1))

        with pytest.raises(BenchFailed, match="connection 0: "):
            run_loop(main())

    def test_a_wrong_template_shows_before_anything_is_opened(self) -> None:
        with pytest.raises(LocalError, match=r"expected a text whose fields are \$index, \$pad, \$stamp, \$token"):
            run_loop(measure(Target("127.0.0.1", 1, "@@$stemp"), Fanout(connections=1)))
