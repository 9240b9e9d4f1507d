"""Limits of a user hold whatever the number of nodes and of connects at once."""

from __future__ import annotations

import threading
from collections import Counter

from websockets.exceptions import InvalidStatus

from roomwire.core.limits import Limits
from tests.server.chat import make_app
from tests.server.live import LiveServer, live_cluster


def test_50_connects_at_once_on_two_nodes_open_5() -> None:
    outcomes: list[int] = []
    start = threading.Barrier(50)

    def connect(server: LiveServer) -> None:
        start.wait(20)
        try:
            server.connect("ann")
        except InvalidStatus as error:
            outcomes.append(error.response.status_code)
        else:
            outcomes.append(101)

    with live_cluster([make_app(), make_app()], limits=Limits(connections_per_user=5)) as nodes:
        threads = [threading.Thread(target=connect, args=(nodes[number % 2],)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Counter(outcomes) == {101: 5, 429: 45}
        assert sum(len(node.node.connections) for node in nodes) == 5
        # Another user is not concerned.
        nodes[0].connect("bob")


def test_reconnecting_again_and_again_never_passes_the_limit() -> None:
    with live_cluster([make_app(), make_app()], limits=Limits(connections_per_user=2)) as nodes:
        for number in range(60):
            client = nodes[number % 2].connect("ann")
            if number % 3 == 0:
                client.connection.socket.close()
            else:
                client.close()
            open_now = sum(len(node.node.connections_of("ann")) for node in nodes)
            assert open_now <= 2
