"""``roomwire token``: make and inspect JSON Web Tokens with the configured keys."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from roomwire import plugins
from roomwire.cli._options import as_json, config_options, load_config, warn
from roomwire.cli._output import print_json
from roomwire.core.errors import ConfigError

if TYPE_CHECKING:
    from roomwire.auth.jwt import Inspection, JwtOptions

__all__ = ["command"]

_DURATION = re.compile(r"(\d{1,9})(s|m|h|d)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds from ``90``, ``90s``, ``15m``, ``1h`` or ``7d``."""
        match = _DURATION.fullmatch(str(value))
        if match is None or int(match[1]) == 0:
            self.fail(f"expected a duration such as 90s, 15m, 1h or 7d, found {value!r}", param, ctx)
        return float(int(match[1]) * _SECONDS[match[2] or "s"])


class _Claim(click.ParamType[tuple[str, object]]):
    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, object]:
        """A claim; its value is JSON where it can be read as such, else text."""
        name, separator, text = str(value).partition("=")
        if not name or not separator:
            self.fail(f"expected NAME=VALUE, found {value!r}", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text


@click.group("token")
def command() -> None:
    """Make and inspect tokens, with the configured keys."""


@command.command("new")
@click.argument("user")
@click.option("--ttl", type=_Duration(), default="1h", show_default=True, help="How long it is good for.")
@click.option("--claim", "claims", type=_Claim(), multiple=True, help="A further claim; may be repeated.")
@config_options
@as_json
def new(
    *,
    user: str,
    ttl: float,
    claims: tuple[tuple[str, object], ...],
    config: Path | None,
    env_file: Path | None,
    as_json: bool,
) -> None:
    """Make a token for USER. It is printed alone, so that a shell can take it up."""
    from roomwire.auth.jwt import issue

    token = issue(_jwt_options(config, env_file), user, ttl=ttl, claims=dict(claims))
    if as_json:
        print_json({"user": user, "token": token, "expires_in": ttl})
    else:
        click.echo(token)


@command.command("inspect")
@click.argument("token", required=False)
@config_options
@as_json
@click.pass_context
def inspect(
    ctx: click.Context, /, *, token: str | None, config: Path | None, env_file: Path | None, as_json: bool
) -> None:
    """Show what TOKEN says, and whether the server would accept it (exit code 1: no).

    Without TOKEN, or with -, it is read from stdin, where no process list and no shell history sees it.
    """
    from roomwire.auth.jwt import inspect as look_into

    text = sys.stdin.readline().strip() if token in (None, "-") else str(token)
    found = look_into(_jwt_options(config, env_file), text)
    if as_json:
        print_json(
            {
                "accepted": found.identity is not None,
                "cause": found.cause,
                "user": found.identity.user if found.identity else None,
                "header": found.header,
                "claims": found.claims,
            }
        )
    else:
        _tell(found)
    if found.identity is None:
        ctx.exit(1)


def _tell(found: Inspection) -> None:
    for title, part in (("header", found.header), ("claims", found.claims)):
        click.echo(title + ("" if part else ": cannot be read"))
        for name, value in part.items():
            click.echo(f"  {name}: {json.dumps(value, ensure_ascii=False)}{_moment(name, value)}")
    if found.identity is not None:
        click.secho(f"accepted as {found.identity.user}", fg="green")
    else:
        click.secho(f"refused: {found.cause}", fg="red")


def _moment(name: str, value: object) -> str:
    if name not in ("exp", "iat", "nbf") or isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    try:
        return f"  ({datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC)"
    except (OverflowError, OSError, ValueError):
        return ""


def _jwt_options(config: Path | None, env_file: Path | None) -> JwtOptions:
    loaded = load_config(config, env_file)
    warn(loaded)
    if loaded.settings.auth.type != "jwt":
        raise ConfigError(
            f'{loaded.where("auth", "type")}: tokens are made for "jwt", found "{loaded.settings.auth.type}"'
        )
    plugin = plugins.find(plugins.AUTHENTICATORS, "jwt")
    options: JwtOptions = plugins.load_options(plugin, plugins.load_class(plugin), loaded.settings.auth.options, loaded)
    return options
