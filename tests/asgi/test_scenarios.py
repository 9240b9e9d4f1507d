"""The clients' scenarios over a break, with an ASGI host in the server's place: see `tests.client.test_scenarios`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anyio.to_thread
import pytest

from roomwire.core.policy import RoomPolicy
from tests.client import test_scenarios as scenarios
from tests.client.players import PLAYERS
from tests.server.chat import make_app
from tests.server.live import ASGI_HOSTS, LiveServer, live_server

pytestmark = pytest.mark.anyio

play = scenarios.play

test_a_cut_in_the_middle_of_a_message_of_the_clients = scenarios.test_a_cut_in_the_middle_of_a_message_of_the_clients
test_a_cut_in_the_middle_of_an_event = scenarios.test_a_cut_in_the_middle_of_an_event
test_a_reply_that_is_lost_is_given_again = (
    scenarios.test_a_reply_that_is_lost_is_given_again_and_the_message_handled_once
)
test_messages_wait_for_the_link = scenarios.test_messages_wait_for_the_link_and_go_out_in_order_and_once
test_a_cursor_that_is_too_old = scenarios.test_a_cursor_that_is_too_old_is_answered_with_the_state


@pytest.fixture(params=[kind for kind in PLAYERS if "trio" not in kind])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(kind: str) -> str:
    return PLAYERS[kind][0]


@pytest.fixture
def serve() -> Iterator[scenarios.Serve]:
    with ExitStack() as stack:

        async def start(**policy: Any) -> LiveServer:
            return await anyio.to_thread.run_sync(enter, policy)

        def enter(policy: dict[str, Any]) -> LiveServer:
            rooms = {"chat:*": RoomPolicy(**policy)}
            host = ASGI_HOSTS["asgi-granian"]  # the others compress, and the proxy could not look into frames
            return stack.enter_context(live_server(make_app(), host, rooms=rooms, reconnect_spread=1.0))

        yield start
