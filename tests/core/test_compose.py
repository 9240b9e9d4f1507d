"""A publication is composed from whatever a program gives: correct names and size, or an error that says the rule."""

from __future__ import annotations

import pytest

from roomwire.core.envelope import encode, encode_binary
from roomwire.core.errors import EventTooLarge, LocalError
from roomwire.core.publication import Publication, compose, read_body

CLIENT = "tab-000001"


def fields(publication: Publication) -> list[object]:
    return [getattr(publication, name) for name in Publication.__slots__]


@pytest.mark.parametrize("data", [None, {"a": ["é", 1.5]}, "text", b"", b"\x00\xff", 10**30])
def test_the_body_is_read_as_the_publication(data: object) -> None:
    publication, body = compose(
        "chat:é", "message.new", data, max_size=1000, user="ann", exclude=CLIENT, exclude_user="ann"
    )
    assert fields(read_body("chat:é", body, None)) == fields(publication)
    assert publication.binary is isinstance(data, bytes)


def test_who_is_not_excluded_excludes_no_user() -> None:
    publication, _ = compose("r", "e", 1, max_size=1000, user="ann", exclude_user="ann")
    assert (publication.exclude, publication.exclude_user) == (None, None)


@pytest.mark.parametrize(
    ("room", "event", "exclude", "rule"),
    [
        ("", "e", None, "no room name"),
        ("a\n", "e", None, "no room name"),
        ("x" * 129, "e", None, "no room name"),
        ("\ud800", "e", None, "no room name"),
        ("r", "", None, "no event name"),
        ("r", "a b", None, "no event name"),
        ("r", "room.join", None, "belongs to the protocol"),
        ("r", "ack", None, "belongs to the protocol"),
        ("r", "e", "short", "no client's id"),
    ],
)
def test_a_wrong_name_is_refused_with_its_rule(room: str, event: str, exclude: str | None, rule: str) -> None:
    with pytest.raises(LocalError, match=rule):
        compose(room, event, None, max_size=1000, exclude=exclude)


def test_what_is_larger_than_a_client_gets_is_refused() -> None:
    compose("r", "e", "x" * 900, max_size=1000, user="ann")
    with pytest.raises(EventTooLarge, match=r"e is \d+ bytes; limits\.max_event_size is 1000"):
        compose("r", "e", "x" * 1000, max_size=1000, user="ann")


@pytest.mark.parametrize("binary", [False, True])
def test_what_is_accepted_fits_with_the_longest_event_id(binary: bool) -> None:
    longest = f"{'e' * 24}:{10**16 - 1}"
    accepted = 0
    for size in range(800, 1000):
        data: object = b"x" * size if binary else "x" * size
        try:
            publication, _ = compose("r", "e", data, max_size=1000, user="ann")
        except EventTooLarge:
            break
        frame = (
            encode_binary("e", publication.data, room="r", id=longest, user="ann")
            if binary
            else encode("e", room="r", id=longest, user="ann", data=publication.data)
        )
        assert len(frame) <= 1000
        accepted += 1
    assert accepted > 50
