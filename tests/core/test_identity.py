"""Who a connection belongs to."""

from __future__ import annotations

import pytest

from roomwire.core.identity import Identity, is_user


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ("u", True),
        ("ü" * 255, True),
        ("u" * 256, False),
        ("user@example.com/auth0|7 ", True),
        ("", False),
        ("a\nb", False),
        ("a\n", False),
        ("\x7f", False),
        ("\x85", False),
        ("\ud800", False),
        (7, False),
        (None, False),
        (b"u", False),
    ],
)
def test_what_can_be_a_user(value: object, valid: bool) -> None:
    assert is_user(value) is valid


def test_an_identity_expires_never_unless_it_says_so() -> None:
    assert Identity("u") == Identity("u", {}, None)
