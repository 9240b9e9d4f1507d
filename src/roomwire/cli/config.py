"""``roomwire config``: the effective configuration, and what may stand in one."""

from __future__ import annotations

import json
from pathlib import Path

import click

from roomwire import plugins
from roomwire.cli._application import put_on_path
from roomwire.cli._options import as_json, config_options, load_config, warn
from roomwire.cli._output import print_json, print_table
from roomwire.config import Loaded, Settings, is_secret_name
from roomwire.config.problems import Path as Key
from roomwire.core.errors import PluginError

__all__ = ["command"]


@click.group("config")
def command() -> None:
    """Show the effective configuration, or its schema."""


@command.command("show")
@config_options
@as_json
def show(*, config: Path | None, env_file: Path | None, as_json: bool) -> None:
    """Show every setting and where it comes from. Secrets are not shown."""
    loaded = load_config(config, env_file)
    warn(loaded)
    put_on_path(Path())
    secrets = _secret_options(loaded)
    shown = loaded.shown(lambda key: key[:2] in secrets or key[:3] in secrets or is_secret_name(key))
    if as_json:
        print_json({setting.key: {"value": setting.value, "source": setting.source} for setting in shown})
        return
    rows = [
        (setting.key, "-" if setting.value is None else json.dumps(setting.value, ensure_ascii=False), setting.source)
        for setting in shown
    ]
    print_table(rows, ("KEY", "VALUE", "SOURCE"))


def _secret_options(loaded: Loaded) -> set[Key]:
    """The options that the chosen adapters declare as secrets; all of an adapter's where it cannot be loaded."""
    settings = loaded.settings
    chosen = ((plugins.BACKPLANES, settings.backplane.type), (plugins.AUTHENTICATORS, settings.auth.type))
    secrets: set[Key] = set()
    for group, name in chosen:
        try:
            names = plugins.secret_options(plugins.load_class(plugins.find(group, name)))
        except PluginError:  # `check` and `run` say what is wrong with it
            secrets.add((group.key[0], "options"))
            continue
        secrets |= {(group.key[0], "options", option) for option in names}
    return secrets


@command.command("schema")
def schema() -> None:
    """Show the configuration's JSON Schema (2020-12), for editors."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
    print_json(document)
