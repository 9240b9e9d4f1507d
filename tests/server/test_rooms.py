"""Rooms and events, over every shell."""

from __future__ import annotations

from tests.server.live import LiveServer


def test_a_message_reaches_the_others_and_its_sender_gets_the_ack(server: LiveServer) -> None:
    ann, bob = server.connect("ann"), server.connect("bob")
    ack = ann.request("message.send", {"content": "hi"}, room="chat:general", id="m1")
    event = bob.receive_until("message.new")
    assert event["data"] == {"from": "ann", "content": "hi"}
    assert event["room"] == "chat:general"
    assert event["user"] == "ann"
    assert ack["data"] == {"id": event["id"]}
    # Excluded: nothing but presence came to the sender.
    assert {message["event"] for message in ann.events_before("whoami")} <= {"presence.state", "presence.join"}
