"""``roomwire plugins``: the adapters that can be chosen."""

from __future__ import annotations

import click

from roomwire.cli._options import as_json
from roomwire.cli._output import print_json, print_table
from roomwire.config import format_key
from roomwire.core.errors import PluginError
from roomwire.plugins import GROUPS, load_class, plugins_of

__all__ = ["command"]


@click.command("plugins")
@as_json
def command(*, as_json: bool) -> None:
    """List the adapters that can be chosen, built in and installed, and whether each can be used."""
    rows = []
    for group in GROUPS:
        for plugin in plugins_of(group):
            try:
                load_class(plugin)
                state = "ok"
            except PluginError as error:
                state = str(error)
            rows.append(
                {
                    "group": group.name,
                    "name": plugin.name,
                    "setting": format_key(group.key),
                    "class": plugin.target,
                    "from": plugin.distribution,
                    "state": state,
                }
            )
    if as_json:
        print_json(rows)
    else:
        print_table([tuple(row.values()) for row in rows], ("GROUP", "NAME", "SETTING", "CLASS", "FROM", "STATE"))
