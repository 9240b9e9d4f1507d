"""A link between a host's two calls: what waits, what is stuck, who ends it, and that nothing stays behind."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from roomwire.core.limits import Limits
from roomwire.testing.clock import VirtualClock
from tests.asgi.playing import eventually, stage
from tests.server.chat import Log, make_app

pytestmark = pytest.mark.anyio

ROOM = "chat:general"


async def turns(count: int = 50) -> None:
    """Let everything happen that is going to."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


class TestWriting:
    async def test_a_send_that_is_stuck_has_a_time_and_the_link_ends_without_the_host(self) -> None:
        limits = Limits(heartbeat_interval=1000, heartbeat_timeout=3000, write_timeout=30, close_timeout=5)
        async with stage(clock=VirtualClock(), limits=limits) as server:
            ann = await server.welcomed()
            link = server.link_of("ann")
            ann.stops_taking()
            await server.node.app.publish(ROOM, "told", 1)
            await eventually(lambda: link.queued() and server.is_watched(link))
            server.advance(29)
            assert server.node.connections_of("ann")
            server.advance(2)
            assert not server.node.connections_of("ann")  # the slot is free: 4002
            await turns()
            assert not ann.ended.is_set()  # it may still read why
            server.advance(6)
            await ann.ended.wait()
            assert (ann.raised, ann.close) == (None, None)
            await eventually(lambda: server.tasks == 0)
            assert not server.transport._links

    async def test_a_write_that_is_cancelled_loses_no_event_in_silence(self) -> None:
        async with stage() as server:
            ann = await server.welcomed()
            link = server.link_of("ann")
            ann.stops_taking()
            await server.node.app.publish(ROOM, "told", 1)
            await eventually(lambda: link._in_flight)
            assert link._cancel_writing is not None
            link._cancel_writing()  # of the event that is on its way nobody knows any more
            await eventually(lambda: not server.node.connections_of("ann"))  # it comes back, and resumes before it
            await ann.ended.wait()

    async def test_the_time_is_each_messages_own(self) -> None:
        limits = Limits(heartbeat_interval=1000, heartbeat_timeout=3000, write_timeout=30)
        async with stage(clock=VirtualClock(), limits=limits) as server:
            ann = await server.welcomed()
            link = server.link_of("ann")
            for number in range(4):
                ann.stops_taking()
                await server.node.app.publish(ROOM, "told", number)
                await eventually(lambda: link.queued() and server.is_watched(link))
                server.advance(20)
                ann.taking.set()
                await eventually(lambda: not link.queued())
            assert server.node.connections_of("ann")

    async def test_what_a_slow_reader_may_have_waiting_is_bounded_and_the_others_get_everything(self) -> None:
        async with stage(limits=Limits(outbox_bytes=10_000)) as server:
            slow, quick = await server.welcomed("slow"), await server.welcomed("quick")
            link = server.link_of("slow")
            slow.stops_taking()
            most = 0
            while server.node.connections_of("slow"):
                await server.node.app.publish(ROOM, "told", "x" * 1000)
                await turns(5)
                most = max(most, link.queued())
            assert 8_000 < most <= 10_000
            assert link.queued() <= 1200  # what the host has; the rest was dropped
            count = len(quick.told("told"))
            await server.node.app.publish(ROOM, "told", "more")
            await eventually(lambda: len(quick.told("told")) == count + 1)
            slow.taking.set()
            await eventually(lambda: slow.close is not None)
            assert slow.close == (4002, "too slow")
            assert not slow.told("session.closing")

    async def test_a_fan_out_is_one_task_and_where_the_host_suspends_one_for_each(self) -> None:
        async with stage(limits=Limits(connections_per_user=100)) as server:
            members = [await server.welcomed() for _ in range(20)]
            await eventually(lambda: server.tasks == 0)
            found = []
            for suspends in (False, True):
                if suspends:
                    for member in members:
                        member.stops_taking()
                await server.node.app.publish(ROOM, "told", 1)
                most = 0
                for _ in range(50):
                    most = max(most, server.tasks)
                    await anyio.lowlevel.checkpoint()
                found.append(most)
            # The one may have ended before it is looked for.
            assert found in ([0, 20], [1, 20])
            for member in members:
                member.taking.set()
            await eventually(lambda: all(len(member.told("told")) == 2 for member in members))

    async def test_one_who_is_slow_holds_up_nobody(self) -> None:
        async with stage(limits=Limits(connections_per_user=100)) as server:
            members = [await server.welcomed() for _ in range(10)]
            for slow in members[::3]:
                slow.stops_taking()
            for number in range(5):
                await server.node.app.publish(ROOM, "told", number)
            quick = [member for number, member in enumerate(members) if number % 3]
            await eventually(lambda: all(len(member.told("told")) == 5 for member in quick))
            assert [len(slow.told("told")) for slow in members[::3]] == [0, 0, 0, 0]

    @pytest.mark.parametrize(("error", "logged"), [(ConnectionResetError(), False), (RuntimeError("odd"), True)])
    async def test_a_send_that_fails_ends_the_link(
        self, error: Exception, logged: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with stage() as server:
            ann = await server.welcomed()
            ann.failure = error
            with caplog.at_level(logging.INFO, "roomwire"):
                await server.node.app.publish(ROOM, "told", 1)
                await ann.ended.wait()
            assert not server.node.connections
            fields = [vars(record)["roomwire"] for record in caplog.records if record.getMessage() == "disconnect"]
            assert [field["code"] for field in fields] == [1006]
            assert ["cause" in field for field in fields] == [logged]


class TestReading:
    async def test_it_pauses_and_goes_on(self) -> None:
        log = Log()
        async with stage(app=make_app(log), limits=Limits(inbox_messages=4, message_burst=1000)) as server:
            ann = await server.welcomed()
            for number in range(40):
                ann.says("wait", id=f"wait-{number}", room=ROOM)
            await turns()
            asked = ann.asked
            assert asked < 12
            await turns()
            assert ann.asked == asked
            log.release.set()
            await eventually(lambda: len(ann.told("ack")) == 40)

    async def test_a_paused_link_can_be_closed(self) -> None:
        log = Log()
        async with stage(app=make_app(log), limits=Limits(inbox_messages=2, message_burst=1000)) as server:
            ann = await server.welcomed()
            for number in range(10):
                ann.says("wait", id=f"wait-{number}", room=ROOM)
            await turns()
            await server.node.app.disconnect("ann")
            await eventually(lambda: ann.close is not None)
            await ann.ended.wait()
            log.release.set()

    async def test_a_fault_in_a_message_closes_with_1011(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with stage() as server:
            ann = await server.welcomed()

            def broken(*_: Any) -> None:
                raise ZeroDivisionError

            with monkeypatch.context() as patch:
                patch.setattr(server.node.workers, "start", broken)
                ann.says("everyone", 1, room=ROOM)
                await eventually(lambda: ann.close is not None)
            assert ann.close == (1011, "internal error")


class TestTheEnd:
    async def test_a_close_waits_for_what_was_sent_before_it(self) -> None:
        async with stage() as server:
            ann = await server.welcomed()
            link = server.link_of("ann")
            ann.stops_taking()
            for number in range(50):
                before = link.sent
                await server.node.app.publish(ROOM, "told", number)
                await eventually(lambda: link.sent > before)  # noqa: B023  called within the turn
            await server.node.app.disconnect("ann", reason="enough")
            await server.node.app.publish(ROOM, "told", "too late")
            await turns()
            ann.taking.set()
            await eventually(lambda: ann.close is not None)
            assert [message["data"] for message in ann.told("told")] == list(range(50))
            assert ann.messages[-1]["event"] == "session.closing"
            assert ann.close == (4503, "enough")
            await ann.ended.wait()

    async def test_what_the_host_cancels_is_closed_as_the_application_says(self) -> None:
        async with stage() as server:
            server.transport.cancelled = lambda receiver: receiver.failed()
            ann = await server.welcomed()
            ann.stops_taking()
            await server.node.app.publish(ROOM, "told", 1)
            await turns()
            ann.holds.cancel()
            await turns()
            assert not ann.ended.is_set()
            ann.taking.set()
            await ann.ended.wait()
            assert ann.told("told")
            assert ann.told("session.closing")
            assert ann.close == (1011, "internal error")
            assert not server.node.connections

    async def test_a_host_that_cancels_and_takes_nothing_is_not_held_up(self) -> None:
        async with stage() as server:
            ann = await server.welcomed()
            ann.stops_taking()
            await server.node.app.publish(ROOM, "told", 1)
            await turns()
            ann.holds.cancel()
            with anyio.fail_after(10):
                await ann.ended.wait()
            assert not server.node.connections
            await eventually(lambda: server.tasks == 0)

    async def test_a_peer_that_leaves_while_it_is_decided_takes_no_slot(self) -> None:
        async with stage() as server:
            gone = server.connect()
            gone.failure = ConnectionResetError()
            await gone.ended.wait()
            assert gone.raised is None
            assert not server.node.connections
            assert not server.node.connections_of("ann")

    async def test_a_fault_in_the_opening_closes_with_1011(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with stage() as server:

            def broken(connection: object) -> None:
                raise ZeroDivisionError

            with monkeypatch.context() as patch:
                patch.setattr(server.node.joining, "open", broken)
                ann = server.connect()
                await eventually(lambda: ann.close is not None)
            assert ann.close == (1011, "internal error")
            await ann.ended.wait()

    async def test_what_is_lost_while_it_is_written_leaves_nothing_behind(self) -> None:
        async with stage() as server:
            for moment in range(12):
                ann = await server.welcomed()
                if moment % 2:
                    ann.stops_taking()
                await server.node.app.publish(ROOM, "told", "x" * 1000)
                await turns(moment // 2)
                ann.leaves()
                await ann.ended.wait()
            await eventually(lambda: server.tasks == 0)
            assert not server.transport._links
            assert not server.node.connections
            assert not any(server.node.wheel._slots.values())

    async def test_what_is_accepted_while_the_node_ends_is_ended(self) -> None:
        async with stage(drain_timeout=0.05) as server:
            ann = server.connect()
            ann.stops_taking()  # the accept itself
            await eventually(lambda: server.node.connections)
            await server.transport.aclose()
            await turns()
            ann.taking.set()
            await ann.ended.wait()
            assert not server.node.connections
