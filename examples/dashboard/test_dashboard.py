"""The dashboard end to end: the server of roomwire.toml on a free port, a viewer, and the routes of FastAPI beside."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import main as dashboard
import pytest

from roomwire.testing.kit import Client, RequestFailed, Server, TokenMaker


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http_url, trust_env=False) as http:
        yield http


def test_a_viewer_sees_the_hosts(client: Client) -> None:
    ann = client.connect("ann")
    ann.join(dashboard.ROOM)
    for host in ("fra-1", "iad-2", "sin-2"):
        while ann.expect("host", room=dashboard.ROOM).data["name"] != host:
            pass


def test_viewers_publish_nothing(client: Client) -> None:
    ann = client.connect("ann")
    ann.join(dashboard.ROOM)
    with pytest.raises(RequestFailed):
        ann.send("host", {"name": "fra-1"}, room=dashboard.ROOM)


def test_an_operator_injects_a_spike_that_all_are_told_of(
    client: Client, http: httpx.Client, token: TokenMaker
) -> None:
    ann = client.connect("ann")
    ann.join(dashboard.ROOM)

    def asked(user: str) -> int:
        return http.post("/api/spike", json={}, headers={"Authorization": f"Bearer {token(user)}"}).status_code

    assert [asked("ann"), asked("ben")] == [403, 200]
    assert ann.expect("note").data["text"] == "2.1 times the load, by ben"
    assert http.get("/api/metrics").status_code in (401, 403)
