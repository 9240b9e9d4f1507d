"""The envelope: one message read, and one event written."""

from __future__ import annotations

import json

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from roomwire.core.envelope import encode, parse

MESSAGE = '{"event":"message.send","room":"chat:general","id":"0123456789abcdef","data":{"content":"' + "x" * 90 + '"}}'


@pytest.mark.benchmark(group="read a message")
def test_roomwire_parse(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse, MESSAGE).event == "message.send"


@pytest.mark.benchmark(group="read a message")
def test_json_loads(benchmark: BenchmarkFixture) -> None:
    """Without any of the envelope's checks."""
    assert benchmark(json.loads, MESSAGE)["event"] == "message.send"


@pytest.mark.benchmark(group="write an event")
def test_roomwire_encode(benchmark: BenchmarkFixture) -> None:
    data = b'{"from":"ann","content":"hello"}'
    assert benchmark(encode, "message.new", room="chat:general", id="e:1", user="ann", data=data)


@pytest.mark.benchmark(group="write an event")
def test_json_dumps(benchmark: BenchmarkFixture) -> None:
    """With data that is no JSON text yet, as others have it."""
    data = {"from": "ann", "content": "hello"}
    event = {"event": "message.new", "room": "chat:general", "id": "e:1", "user": "ann", "data": data}
    assert benchmark(lambda: json.dumps(event).encode())
