"""What ``roomwire dev`` adds to a server: a secret, two users with tokens, and the application's own page."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from roomwire import plugins
from roomwire.config import Settings
from roomwire.transports.contract import HttpResponse

if TYPE_CHECKING:
    from roomwire.node.node import Page

__all__ = ["USERS", "demo_pages", "fresh_secret", "token_maker"]

USERS = {"ann": "Ann", "ben": "Ben"}

_TTL = 3600.0
_NO_STORE = (("Cache-Control", "no-store"),)

TokenMaker = Callable[[str], str]


def fresh_secret() -> str:
    """A secret for HS256: 43 characters, 256 bits."""
    return secrets.token_urlsafe(32)


def token_maker(settings: Settings) -> TokenMaker | None:
    """Makes a token for a user that the configured authenticator accepts.

    None where we hold no secret, or where tokens must say more than a user's name.
    """
    if settings.auth.type != "jwt":
        return None
    from roomwire.auth.jwt import JwtOptions, inspect, issue

    plugin = plugins.find(plugins.AUTHENTICATORS, "jwt")
    options = plugins.load_options(plugin, plugins.load_class(plugin), settings.auth.options)
    if not isinstance(options, JwtOptions) or options.secret is None:
        return None

    def make_token(user: str) -> str:
        return issue(options, user, ttl=_TTL)

    return make_token if inspect(options, make_token("ann")).identity is not None else None


def demo_pages(directory: Path | None, make_token: TokenMaker | None) -> Mapping[str, Page]:
    """``/``, the ``index.html`` beside the application, and ``/demo/tokens``, fresh tokens for two users."""
    pages: dict[str, Page] = {}
    page = directory / "index.html" if directory is not None else None
    if page is not None and page.is_file():
        pages["/"] = lambda: HttpResponse(200, page.read_bytes(), "text/html; charset=utf-8", _NO_STORE)

    if make_token is not None:

        def tokens() -> HttpResponse:
            users = [{"user": user, "name": name, "token": make_token(user)} for user, name in USERS.items()]
            return HttpResponse(200, json.dumps({"users": users}).encode(), headers=_NO_STORE)

        pages["/demo/tokens"] = tokens
    return pages
