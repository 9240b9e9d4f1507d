"""Alone under each host, as its command line starts it: from the first connection to the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.asgi.processes import COMMANDS, HostProcess
from tests.asgi.support import says
from tests.server.live import TIMEOUT, Client, make_token
from tests.server.streaming import Stream, ask

HOSTS = list(COMMANDS)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, HostProcess]]:
    """All of them at once: most of their start is waiting."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(HostProcess(name, tmp_path_factory.mktemp(name))) for name in HOSTS}


@pytest.mark.parametrize("name", HOSTS)
def test_the_life_of_a_host(name: str, hosts: dict[str, HostProcess]) -> None:
    host = hosts[name]
    host.wait_until_it_serves()
    ann, bob, eve = (host.connect(user, way) for user, way in (("ann", "query"), ("bob", "header"), ("eve", "bearer")))
    for client in (ann, bob, eve):
        assert client.receive()["event"] == "session.welcome"
    viewer = view(host)
    ann.request("message.send", {"content": "hello"}, room="chat:general")
    for client in (bob, eve):
        assert client.receive()["data"] == {"from": "ann", "content": "hello"}
    assert viewer.until("message.new")["data"] == {"from": "ann", "content": "hello"}
    check_refusal(host, name)
    # The node cannot end before this is handled.
    eve.send("keep")
    eve.receive_until("kept")
    host.terminate()
    check_end(name, bob)
    check_end_of_stream(viewer)
    check_connect_while_it_drains(host, name)
    host.release()
    assert str(host.process.wait(TIMEOUT)) == (
        "0" if name == "hypercorn-worker" else says("exit code after SIGTERM", name)
    )
    for client in (ann, bob, eve):
        client.close()
    check_output(host, name)


def check_refusal(host: HostProcess, name: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        host.connect("nobody", token="wrong")
    assert caught.value.response.status_code == 401
    assert json.loads(caught.value.response.body or b"")["error"] == "unauthorized"
    assert caught.value.response.headers["WWW-Authenticate"] == "Bearer"


def check_end(name: str, client: Client) -> None:
    """The client is told when to come back, and then why the link is closed."""
    closing = client.receive_until("session.closing")["data"]
    assert (closing["code"], closing["reconnect"]) == (1012, True)
    assert 0 <= closing["retry_after"] <= 5
    with pytest.raises(ConnectionClosed) as closed:
        client.receive()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    if name != "hypercorn-worker":
        assert says("told to come back, before the host closes", name) == "yes"


def view(host: HostProcess) -> Stream:
    host.tokens.append(make_token("viewer"))
    stream = ask(host.port, f"room=chat:general&token={host.tokens[-1]}")
    assert stream.status == 200
    return stream


def check_end_of_stream(viewer: Stream) -> None:
    """The same, and the response is whole."""
    *_, last = viewer.rest()
    assert (last.event, json.loads(last.data)["data"]["code"]) == ("session.closing", 1012)
    assert viewer.reader.retry is not None and 1000 <= viewer.reader.retry <= 6000
    viewer.close()


def check_connect_while_it_drains(host: HostProcess, name: str) -> None:
    if name == "hypercorn-worker":
        return  # its parent still has the socket, and nobody accepts: who connects waits for the next process
    with pytest.raises(InvalidStatus) as caught:
        host.connect("late")
    assert str(caught.value.response.status_code) == says("who connects during a drain gets", name)
    assert caught.value.response.headers["Retry-After"]
    # An event stream is told to ask again: a browser gives up for good on any other status.
    late = ask(host.port, "room=chat:general")
    told = "200 and `retry:`" if late.status == 200 and late.body().startswith(b"retry: ") else str(late.status)
    assert told == says("who asks for a stream during a drain gets", name)
    late.close()


def check_output(host: HostProcess, name: str) -> None:
    output = host.output
    assert "/ws" in output  # the host did log the connections
    assert "[token]" in output
    # No host sets up our loggers: the refusal is there all the same, with its cause, and once.
    refusals = [line for line in output.splitlines() if "roomwire.security: refuse status=401" in line]
    assert [line for line in refusals if "cause=malformed" in line or 'cause="no token"' in line] == refusals != []
    assert "\nrefuse\n" not in output
    shown = [token for token in host.tokens if token in output or token.partition(".")[2] in output]
    assert shown == []
    if name != "hypercorn-worker":
        assert says("tokens in the host's own log", name) == "hidden"
    noted = "ASGI callable returned without completing handshake" in output
    if name != "hypercorn-worker":
        assert noted == (says("logs a fault for each refusal", name) == "yes")
