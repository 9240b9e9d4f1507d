"""`AsyncPublisher`: what it publishes reaches the members of a node, is kept as the configuration says, and is
tried again with one key."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from roomwire import (
    AsyncPublisher,
    BatchFailed,
    ConfigError,
    Draft,
    EventTooLarge,
    LocalError,
    PluginError,
    Publisher,
    PublishFailed,
    Unavailable,
)
from roomwire.backplanes.memory import MemoryBackplane
from roomwire.backplanes.nats import NatsBackplane
from roomwire.config import Settings
from roomwire.core.limits import Limits
from roomwire.core.policy import RoomPolicy
from tests.publisher.support import Faults, HubBackplane, kept, losing
from tests.server.chat import make_app
from tests.server.live import LiveServer, live_server
from tests.servers import NatsServer

CLIENT = "tab-000001"


def on(server: LiveServer, act: Callable[[AsyncPublisher], Awaitable[Any]], **options: Any) -> Any:
    """Let a publisher act in the node's loop, in which its hub lives."""

    async def run() -> Any:
        async with AsyncPublisher(HubBackplane, **options) as publisher:
            return await act(publisher)

    return server.call(run)


class TestWhatMembersGet:
    def test_an_event_bears_its_id_and_its_data(self, server: LiveServer) -> None:
        client = server.connect()
        publication = on(server, lambda p: p.publish("chat:general", "report", {"content": "é"}))
        message = client.receive_until("report")
        assert message == {
            "event": "report",
            "room": "chat:general",
            "id": publication.id,
            "data": {"content": "é"},
        }

    def test_bytes_come_in_a_binary_frame(self, server: LiveServer) -> None:
        client = server.connect()
        on(server, lambda p: p.publish("chat:general", "image", b"\x00\xff"))
        frame = client.receive()
        size = int.from_bytes(frame[:4], "big")
        assert json.loads(frame[4 : 4 + size])["event"] == "image"
        assert frame[4 + size :] == b"\x00\xff"

    def test_who_is_excluded_gets_it_neither_now_nor_in_a_replay(self, server: LiveServer) -> None:
        ann = server.connect("ann", query=f"client={CLIENT}")
        bob = server.connect("bob", query=f"client={CLIENT}")
        since = ann.welcome["rooms"]["chat:general"]["position"]

        async def act(publisher: AsyncPublisher) -> None:
            await publisher.publish("chat:general", "typed", 1, user="ann", exclude=CLIENT)
            await publisher.publish("chat:general", "typed", 2)

        on(server, act)
        assert bob.receive_until("typed")["user"] == "ann"
        assert ann.receive_until("typed")["data"] == 2
        ann.close()
        again = server.connect("ann", query=f"client={CLIENT}&last_event_id=chat%253Ageneral@{since}")
        assert again.welcome["rooms"]["chat:general"]["recovered"] is True
        assert again.receive_until("typed")["data"] == 2

    def test_an_ephemeral_event_has_no_id_and_is_not_kept(self, server: LiveServer) -> None:
        client, before = server.connect(), len(kept("chat:general"))
        publication = on(server, lambda p: p.publish("chat:general", "typing", history=False))
        assert "id" not in client.receive_until("typing")
        assert (publication.id, len(kept("chat:general"))) == (None, before)

    def test_a_user_is_disconnected_added_and_removed_on_the_nodes(self, server: LiveServer) -> None:
        client = server.connect("carl")
        on(server, lambda p: p.add("carl", "chat:more"))
        assert client.receive_until("room.joined")["room"] == "chat:more"
        on(server, lambda p: p.remove("carl", "chat:more", "enough"))
        assert client.receive_until("room.removed")["data"] == {"reason": "enough"}
        on(server, lambda p: p.disconnect("carl", code=4502, reason="bye"))
        assert client.closed() == (4502, "bye")


class TestWhatIsKept:
    def test_it_is_what_the_policy_of_the_room_says(self, server: LiveServer) -> None:
        async def act(publisher: AsyncPublisher) -> None:
            for number in range(5):
                await publisher.publish("short:1", "n", number)
                await publisher.publish("other", "n", number)

        on(server, act, rooms={"short:*": RoomPolicy(history_size=2)})
        assert [publication.data for publication in kept("short:1")] == [b"3", b"4"]
        assert len(kept("other")) == 5

    def test_a_key_is_published_once_by_whoever_has_it(self, server: LiveServer) -> None:
        first = on(server, lambda p: p.publish("keyed", "n", 1, key="k"))
        second = on(server, lambda p: p.publish("keyed", "n", 1, key="k"))
        assert first.id == second.id
        assert len(kept("keyed")) == 1


class TestWithoutAnAnswer:
    def test_it_is_tried_again_with_the_same_key_and_stored_once(self, server: LiveServer) -> None:
        faults = Faults("lost", "refused", "lost")

        async def act() -> str | None:
            async with AsyncPublisher(partial(losing, faults)) as publisher:
                return (await publisher.publish("lost:1", "n", 1)).id

        assert server.call(act) is not None
        assert len(kept("lost:1")) == 1
        assert len(faults.keys) == 4
        assert len(set(faults.keys)) == 1
        assert faults.keys[0]

    @pytest.mark.parametrize(
        ("kinds", "stored"), [(["refused"], False), (["lost"], None), (["lost", "refused", "refused", "refused"], None)]
    )
    def test_the_error_says_what_is_known_and_has_the_key(
        self, server: LiveServer, kinds: list[str], stored: bool | None
    ) -> None:
        faults = Faults(*kinds, *["refused"] * 1000)
        room = f"lost:{'-'.join(kinds)}"

        async def act() -> PublishFailed:
            async with AsyncPublisher(partial(losing, faults), patience=0.4 if len(kinds) > 1 else 0) as publisher:
                with pytest.raises(PublishFailed) as failure:
                    await publisher.publish(room, "n", 1)
            async with AsyncPublisher(HubBackplane) as publisher:
                await publisher.publish(room, "n", 1, key=failure.value.key)
            return failure.value

        error = server.call(act)
        assert (error.stored, isinstance(error, Unavailable)) == (stored, True)
        assert len(kept(room)) == 1

    def test_a_batch_publishes_nothing_of_a_room_behind_what_failed(self, server: LiveServer) -> None:
        faults = Faults("lost", room="batch:bad")
        drafts = [Draft("batch:bad", "n", 1), Draft("batch:good", "n", 2), Draft("batch:bad", "n", 3, key="mine")]

        async def act() -> BatchFailed:
            async with AsyncPublisher(partial(losing, faults), patience=0) as publisher:
                with pytest.raises(BatchFailed) as failure:
                    await publisher.publish_many(drafts)
            return failure.value

        error = server.call(act)
        lost, good, behind = error.results
        assert (lost.stored, good.id is not None, behind.stored, behind.key) == (None, True, False, "mine")
        assert error.stored is None
        assert "2 of 3 events" in str(error)
        assert [publication.data for publication in kept("batch:bad")] == [b"1"]


class TestABatch:
    def test_the_events_of_a_room_keep_their_order_and_results_theirs(self, server: LiveServer) -> None:
        drafts = [Draft(f"many:{number % 40}", "n", number) for number in range(400)]
        publications = on(server, lambda p: p.publish_many(drafts))
        assert [publication.data for publication in publications] == [str(number).encode() for number in range(400)]
        for room in range(40):
            assert [int(publication.data) for publication in kept(f"many:{room}")] == list(range(room, 400, 40))

    def test_none_is_published_where_one_is_wrong(self, server: LiveServer) -> None:
        with pytest.raises(LocalError, match="no event name") as failure:
            on(server, lambda p: p.publish_many([Draft("none", "n", 1), Draft("none", "not a name", 2)]))
        assert failure.value.__notes__ == ["in event 1 of the batch"]
        assert kept("none") == []

    def test_an_empty_one_is_nothing(self, server: LiveServer) -> None:
        assert on(server, lambda p: p.publish_many([])) == []


class TestMisuse:
    @pytest.mark.parametrize(
        ("act", "rule"),
        [
            (lambda p: p.publish("", "n"), "no room name"),
            (lambda p: p.publish("r", "ack"), "belongs to the protocol"),
            (lambda p: p.publish("r", "n", exclude="x"), "no client's id"),
            (lambda p: p.publish("r", "n", user="a\n"), "no user's id"),
            (lambda p: p.disconnect("ann", code=1006), "1006 cannot be sent"),
            (lambda p: p.disconnect("ann", reason="\ud800"), "no reason"),
            (lambda p: p.disconnect(""), "no user's id"),
            (lambda p: p.add("ann", ""), "no room name"),
            (lambda p: p.remove("ann", "r\n"), "no room name"),
            (lambda p: p.open(), "open already"),
        ],
    )
    def test_names_and_codes_are_checked_as_app_does(
        self, server: LiveServer, act: Callable[[AsyncPublisher], Awaitable[Any]], rule: str
    ) -> None:
        with pytest.raises(LocalError, match=rule):
            on(server, act)

    def test_an_event_is_no_larger_than_clients_take(self, server: LiveServer) -> None:
        with pytest.raises(EventTooLarge):
            on(server, lambda p: p.publish("r", "n", "x" * 1000), limits=Limits(max_event_size=1000))

    @pytest.mark.anyio
    async def test_what_is_not_open_says_how_to_open_it(self) -> None:
        publisher = AsyncPublisher(HubBackplane)
        with pytest.raises(LocalError, match="async with"):
            await publisher.publish("r", "n")
        await publisher.aclose()

    @pytest.mark.anyio
    @pytest.mark.parametrize("backplane", ["memory", MemoryBackplane])
    async def test_memory_is_refused_with_what_to_do(self, backplane: Any) -> None:
        with pytest.raises(ConfigError, match=r"nobody would hear.*app\.publish.*POST /api/publish"):
            await AsyncPublisher(backplane).open()

    @pytest.mark.anyio
    async def test_a_backplane_that_is_not_there_is_named(self) -> None:
        with pytest.raises(PluginError, match=r"backplane\.type"):
            await AsyncPublisher("rediss").open()

    def test_a_function_takes_no_options(self) -> None:
        with pytest.raises(ConfigError, match="belong to a backplane that is named"):
            AsyncPublisher(HubBackplane, {"url": "x"})


class TestFromAConfiguration:
    CONFIG = """
[backplane]
type = "tests.publisher.support:HubBackplane"
[auth.options]
secret = "env:NOT_HERE"
[metrics]
token = "env:NOT_HERE"
[limits]
max_event_size = 500
[rooms."short:*"]
history_size = 1
"""

    def write(self, folder: Path) -> Path:
        file = folder / "roomwire.toml"
        file.write_text(self.CONFIG)
        return file

    @pytest.mark.anyio
    async def test_secrets_that_only_a_node_needs_need_not_be_there(self, tmp_path: Path) -> None:
        async with AsyncPublisher.from_config(self.write(tmp_path)) as publisher:
            for number in range(3):
                await publisher.publish("short:configured", "n", number)
            with pytest.raises(EventTooLarge):
                await publisher.publish("r", "n", "x" * 500)
        assert [publication.data for publication in kept("short:configured")] == [b"2"]

    @pytest.mark.anyio
    async def test_the_file_is_looked_for_as_a_node_does(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(tmp_path)
        monkeypatch.chdir(tmp_path)
        async with AsyncPublisher.from_config() as publisher:
            assert (await publisher.publish("looked:for", "n")).id is not None

    @pytest.mark.anyio
    async def test_settings_that_are_there_are_taken(self) -> None:
        settings = Settings.model_validate({"backplane": {"type": "tests.publisher.support:HubBackplane"}})
        async with AsyncPublisher.from_settings(settings) as publisher:
            assert (await publisher.publish("settings", "n")).id is not None

    @pytest.mark.anyio
    async def test_errors_name_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "roomwire.toml"
        file.write_text('[backplane]\ntype = "memory"\n')
        with pytest.raises(ConfigError, match=r'roomwire\.toml: backplane\.type: "memory"'):
            await AsyncPublisher.from_config(file).open()


class TestOnNats:
    def test_rooms_are_kept_in_the_streams_that_the_nodes_have(self, nats_server: NatsServer) -> None:
        """There a room's policy decides where it is kept; who comes first makes the place."""
        options = {"servers": [nats_server.url], "prefix": f"publisher{secrets.token_hex(4)}"}
        rooms = {"chat:*": RoomPolicy(history_size=2, history_ttl=600.0)}
        backplane = NatsBackplane(NatsBackplane.Options.model_validate(options))
        with Publisher("nats", options, rooms=rooms) as publisher:
            since = publisher.publish("chat:general", "told", "before").id
            with live_server(make_app(), backplane=backplane, rooms=rooms) as server:
                client = server.connect("ann", query=f"last_event_id=chat%253Ageneral@{since}")
                assert client.welcome["rooms"]["chat:general"]["recovered"] is True
                for number in range(3):
                    publisher.publish("chat:general", "told", number)
                assert [client.receive_until("told")["data"] for _ in range(3)] == [0, 1, 2]
                late = server.connect("bob", query=f"last_event_id=chat%253Ageneral@{since}")
                assert late.welcome["rooms"]["chat:general"]["reason"] == "too_old"
                # With other policies it would publish into a stream in which no node looks for the room.
                with pytest.raises(LocalError, match="chat:"), Publisher("nats", options) as other:
                    other.publish("chat:general", "told", "nowhere")
