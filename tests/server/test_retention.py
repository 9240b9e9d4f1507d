"""What has expired is not replayed, whoever else is in the room (docs/reference/protocol.md section 5)."""

from __future__ import annotations

import pytest

from roomwire.core.policy import RoomPolicy
from roomwire.testing.clock import VirtualClock
from tests.server.conftest import Serve
from tests.server.live import Shell


@pytest.mark.parametrize("keeper", [False, True])
def test_events_beyond_their_ttl_are_too_old_also_where_a_member_stayed(
    shell: Shell, serve: Serve, keeper: bool
) -> None:
    server = serve(shell, clock=VirtualClock(), rooms={"chat:*": RoomPolicy(history_ttl=30.0)})
    if keeper:
        server.connect("bob")
    since = server.publish(3)[0]
    server.advance(31.0)
    client = server.connect("ann", query=f"last_event_id=chat%253Ageneral%40{since}")
    status = client.welcome["rooms"]["chat:general"]
    assert (status["recovered"], status.get("reason")) == (False, "too_old")
