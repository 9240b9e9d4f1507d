"""The group of commands: loaded when called, and the one place where an error becomes an exit code."""

from __future__ import annotations

import importlib
import os
from typing import Any

import click

from roomwire.core.errors import LocalError, RoomwireError

__all__ = ["FAILED_START", "LazyGroup", "StartFailed", "main"]

FAILED_START = 3

# Name to module and one line for the overview, so that ``roomwire --help`` imports none of them.
_COMMANDS = {
    "init": ("roomwire.cli.init", "Make a new project."),
    "dev": ("roomwire.cli.dev", "Serve for development: reload, a demo page, ready-made users."),
    "run": ("roomwire.cli.run", "Serve."),
    "check": ("roomwire.cli.check", "Load everything and warn of what is unsafe."),
    "config": ("roomwire.cli.config", "Show the effective configuration, or its schema."),
    "token": ("roomwire.cli.token", "Make and inspect tokens."),
    "connect": ("roomwire.cli.connect", "Talk to a server from the terminal."),
    "publish": ("roomwire.cli.publish", "Publish an event from the command line."),
    "bench": ("roomwire.cli.bench", "Measure a server."),
    "asyncapi": ("roomwire.cli.asyncapi", "Describe the application's events as an AsyncAPI document."),
    "types": ("roomwire.cli.types", "Write TypeScript types of the application's events."),
    "plugins": ("roomwire.cli.plugins", "List the adapters that can be chosen."),
    "version": ("roomwire.cli.version", "Show the version."),
}


class StartFailed(click.ClickException):
    """The configuration is right, and yet the server could not start."""

    exit_code = FAILED_START


class _WrongInput(click.ClickException):
    exit_code = 2


class LazyGroup(click.Group):
    """Commands are modules with the function ``command``. Errors of ours become one message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a first acquaintance, not of the alphabet."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a user's error gets no traceback."""
        try:
            return super().invoke(ctx)
        except LocalError as error:
            raise _WrongInput(str(error)) from error
        except RoomwireError as error:
            raise click.ClickException(str(error)) from error


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="roomwire", prog_name="roomwire")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Real-time servers over WebSockets: rooms, presence, and a replay that is proven complete.

    Exit codes: 0 done (after a drain, too), 1 failed, 2 wrong input or configuration, 3 failed start.
    """
    if os.environ.get("NO_COLOR"):
        ctx.color = False
