"""The chat end to end: the server of roomwire.toml on a free port, and clients that talk to it."""

from __future__ import annotations

from pathlib import Path

import app as chat
import pytest
from database import Database

from roomwire.testing.kit import Client, Refused, RequestFailed


@pytest.fixture(autouse=True)
def empty_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "database", Database(tmp_path / "chat.sqlite3"))


def test_a_message_reaches_the_others(client: Client) -> None:
    ann, ben = client.connect("ann"), client.connect("ben")
    ann.send("message.send", {"content": "hello"}, room="chat:general")
    message = ben.expect("message.new", room="chat:general")
    assert (message.data["from"], message.data["content"]) == ("ann", "hello")
    ann.assert_silent("message.new")  # she has the ack


def test_an_empty_message_is_refused(client: Client) -> None:
    ann, ben = client.connect("ann"), client.connect("ben")
    with pytest.raises(RequestFailed, match="invalid"):
        ann.send("message.send", {"content": ""}, room="chat:general")
    ben.assert_silent("message.new")


def test_nothing_is_lost_over_a_break(client: Client) -> None:
    ann, ben = client.connect("ann"), client.connect("ben")
    ben.drop()
    ann.send("message.send", {"content": "while you were away"}, room="chat:general")
    ben = client.reconnect(ben)
    assert ben.welcome["rooms"]["chat:general"]["recovered"] is True
    assert ben.expect("message.new").data["content"] == "while you were away"


def test_nobody_comes_in_without_a_token(client: Client) -> None:
    with pytest.raises(Refused, match="401"):
        client.connect(token=None)
