from __future__ import annotations

import pytest
from pydantic import ValidationError

from roomwire.auth.contract import Authenticator
from roomwire.auth.none import AnonymousAuthenticator, AnonymousOptions
from tests.auth.support import request


@pytest.mark.anyio
async def test_every_connection_is_a_user_of_its_own() -> None:
    authenticator: Authenticator = AnonymousAuthenticator()
    await authenticator.start()
    identities = [await authenticator.authenticate(request()) for _ in range(100)]
    await authenticator.aclose()
    assert len({identity.user for identity in identities}) == 100
    assert all(identity.user.startswith("anonymous-") and len(identity.user) == 26 for identity in identities)
    assert all(identity.expires_in is None and not identity.claims for identity in identities)


@pytest.mark.anyio
async def test_nobody_chooses_a_name() -> None:
    authenticator = AnonymousAuthenticator(AnonymousOptions(prefix="guest:"))
    identity = await authenticator.authenticate(request("alice", query="user=alice&token=alice"))
    assert identity.user.startswith("guest:")
    assert "alice" not in identity.user


@pytest.mark.parametrize("prefix", ["", "a b", "\n", "é", "a" * 65, "a\n"])
def test_a_prefix_is_never_empty_and_plain(prefix: str) -> None:
    with pytest.raises(ValidationError, match="prefix"):
        AnonymousAuthenticator.Options(prefix=prefix)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        AnonymousOptions.model_validate({"prefx": "a"})
