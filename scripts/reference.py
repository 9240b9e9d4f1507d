"""Writes the reference pages that are made from the code: the settings, the command line, and the metrics.

Run it after a change of one of them (`python scripts/reference.py`); tests/test_reference.py holds the pages to it.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from roomwire import plugins
from roomwire.cli import main as program
from roomwire.config import Settings
from roomwire.core.limits import Limits
from roomwire.metrics import FAMILIES

__all__ = ["PAGES", "configuration", "main"]

DOCS = Path(__file__).parents[1] / "docs" / "reference"

INTRODUCTION = """\
# Configuration

For whoever runs nodes. This page is made from the settings' own model. `roomwire config show` prints what holds and
where it comes from, and `roomwire config schema` a JSON Schema for your editor.

## Sources

The first source that sets a key wins:

1. a flag of the command line, such as `--port 9000`
2. the environment: `ROOMWIRE_SERVER__PORT=9000`, with two underscores between section and key
3. the file `.env` beside the configuration file, or the one that `--env-file` names
4. the configuration file: `--config`, else `$ROOMWIRE_CONFIG`, else `roomwire.toml` in the working directory, else the
   table `[tool.roomwire]` of its `pyproject.toml`
5. the default

In every string, `env:NAME` stands for an environment variable (`.env` included) and `file:PATH` for a file's content,
without its last line end. What comes from there is never shown by `config show`, nor in an error. Policies of rooms
stand in the file alone. Lists in variables and flags are separated by commas, and are JSON in an adapter's `options`:
`ROOMWIRE_AUTH__OPTIONS__ALGORITHMS='["HS256"]'`.

A key that does not exist, a `ROOMWIRE_` variable with two underscores that names none, and a value of the wrong type
stop the start, with exit code 2 and all that is wrong at once:

```toml
# wrong.toml
[server]
prot = 9000

[limits]
max_message_size = "64K"
```

```console
$ roomwire config show --config wrong.toml || echo "exit code $?"
wrong.toml: server.prot: unknown key; did you mean "port"?
wrong.toml: limits.max_message_size: expected a valid integer, found "64K"
exit code 2
```

Sizes are bytes and times are seconds.
"""

SECTIONS: Mapping[str, str] = {
    "server": "Where a node listens, and how it stops.",
    "backplane": (
        "What joins the nodes. See [Backplanes](backplanes.md), [Redis](../how-to/redis.md), [NATS](../how-to/nats.md)."
    ),
    "auth": "Who connects. See [Authentication](../how-to/authentication.md).",
    "limits": "What a client may cost. See [Limits and back-pressure](../how-to/limits.md).",
    "rooms": (
        'Policies by pattern: `[rooms."chat:*"]`. A room that several patterns match has the policy of the most'
        " specific one, and a room that none matches has the defaults. See [Rooms and policies](../how-to/rooms.md)."
    ),
    "logging": (
        "Of `roomwire run` and `roomwire dev`, and under an ASGI host where nothing else takes what is logged. See"
        " [Logging](../how-to/logging.md)."
    ),
    "metrics": "For Prometheus. See [Monitor](../how-to/monitor.md).",
    "api": "Publishing over HTTP. See [Publish from elsewhere](../how-to/publish.md#over-http).",
}

OPTIONS: Mapping[str, plugins.Group] = {"backplane": plugins.BACKPLANES, "auth": plugins.AUTHENTICATORS}
"""Sections whose table `options` is another one for each adapter."""

COMMANDS = """\
# The command line

For whoever has a terminal. This page is made from the commands themselves; `roomwire COMMAND --help` prints the same.
Where the script `roomwire` is not on the `PATH`, `python -m roomwire` is the same command.

| exit code | |
|---|---|
| 0 | done; after a drain, too |
| 1 | failed, or the answer is no |
| 2 | wrong input or configuration |
| 3 | the configuration is right, and yet the server could not start |
"""

METRICS = """\
# Metrics

For whoever reads `/metrics`. This page is made from the table that `/metrics` is made from.
[Monitor](../how-to/monitor.md) says how to turn it on, what to alert on and what to draw.

All are of one node. Labels are bounded: none has the name of a room, a user or a client, or a text that a peer sent.
Sizes are bytes and times are seconds. Beside these there are `process_*` and `python_*`, by prometheus-client itself.
"""

# --- the settings


def configuration() -> str:
    """The page of the settings."""
    schema = Settings.model_json_schema()
    parts = [INTRODUCTION]
    whole = {name: field for name, field in schema["properties"].items() if name not in SECTIONS}
    parts.append("## The top of the file\n\n" + _table(whole, {}))
    for name, text in SECTIONS.items():
        heading = f"## `[{name}]`" if name != "rooms" else '## `[rooms."PATTERN"]`'
        field = schema["properties"][name]
        model = schema["$defs"][(field.get("additionalProperties") or field)["$ref"].rpartition("/")[2]]
        properties = model["properties"]
        parts.append(f"{heading}\n\n{text}")
        if name == "limits":
            for title, keys in _groups_of_limits().items():
                name, _, text = title.partition(", ")
                parts += [
                    f"### {_sentence(name)}",
                    *([_sentence(text) + "."] if text else []),
                    _table(properties, {}, keys),
                ]
        else:
            parts.append(_table(properties, {}))
        if name in OPTIONS:
            parts += _options_of(OPTIONS[name])
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _options_of(group: plugins.Group) -> Iterator[str]:
    for plugin in plugins.plugins_of(group):
        if plugin.distribution != "built-in":
            continue
        model = getattr(plugins.load_class(plugin), "Options", None)
        if model is None:
            continue
        title = f'### `[{group.key[0]}.options]` of `type = "{plugin.name}"`'
        properties = model.model_json_schema().get("properties", {})
        for name, field in model.model_fields.items():
            if isinstance(field.default, SecretStr):  # what every reader may know
                properties[name]["default"] = field.default.get_secret_value()
        yield f"{title}\n\n" + (_table(properties, _attributes(model)) if properties else "There are none.")


def _groups_of_limits() -> dict[str, list[str]]:
    """The keys under the headings that the class itself has."""
    groups: dict[str, list[str]] = {}
    title = ""
    for line in inspect.getsource(Limits).splitlines():
        if heading := re.match(r" +# --- (.+)", line):
            title = heading[1]
        elif key := re.match(r"    (\w+): ", line):
            groups.setdefault(title, []).append(key[1])
    return groups


def _attributes(model: type) -> dict[str, str]:
    """What the section ``Attributes:`` of a class says of each."""
    section = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", section, re.M)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _table(properties: Mapping[str, Any], descriptions: Mapping[str, str], keys: list[str] | None = None) -> str:
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for key in keys if keys is not None else properties:
        field = properties[key]
        text = field.get("description") or _sentence(descriptions.get(key, ""))
        rows.append(f"| `{key}` | {_type(field)} | {_default(field)} | {_prose(text)} |")
    return "\n".join(rows)


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return _type(next(option for option in field["anyOf"] if option.get("type") != "null"))
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'])}" if "enum" in field["items"] else "list of strings"
    name = {"integer": "integer", "number": "number", "boolean": "true or false", "object": "table", "string": "string"}
    return name[field["type"]] + _bounds(field)


def _bounds(field: Mapping[str, Any]) -> str:
    signs = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return "".join(f", {text} {field[name]:g}" for name, text in signs.items() if name in field)


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return "required" if "pattern" not in field else "made at the start"
    value = field["default"]
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "`{}`" if value == {} else f"`{json.dumps(value)}`"


def _prose(text: str) -> str:
    # Docstrings have Sphinx' and our own marks for code; a table's cell ends at a bar.
    return re.sub(r"``([^`]+)``", r"`\1`", " ".join(text.split())).replace("|", "\\|")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- the command line


def command_line() -> str:
    """The page of the commands."""
    parts = [COMMANDS]
    parts += _commands(program, click.Context(program, info_name="roomwire", **program.context_settings))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _commands(group: click.Command, context: click.Context) -> Iterator[str]:
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, own)
        else:
            yield "\n\n".join(_command(command, own))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    path = context.command_path
    yield f"## {path}"
    pieces = [path, *command.collect_usage_pieces(context)]
    yield f"```text\n{' '.join(pieces)}\n```"
    yield inspect.cleandoc(command.help or "")
    rows = []
    for option in command.params:
        record = option.get_help_record(context)
        if isinstance(option, click.Option) and not option.hidden and record is not None:
            names, text = record
            rows.append(f"| `{names}` | {_prose(text)} |")
    if rows:
        yield "\n".join(["| option | |", "|---|---|", *rows])
    if command.epilog:
        yield f"```text\n{inspect.cleandoc(command.epilog.replace(chr(8), ''))}\n```"


# --- the metrics


def metrics() -> str:
    """The page of the metrics."""
    parts = [METRICS]
    for group in dict.fromkeys(family.group for family in FAMILIES):
        rows = ["| metric | type | |", "|---|---|---|"]
        for family in FAMILIES:
            if family.group == group:
                labels = "".join(f" `{label}`: {text}." for label, text in family.labels.items())
                rows.append(f"| `{family.name}` | {family.kind} | {family.text}.{labels} |")
        parts += [f"## {group}", "\n".join(rows)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "cli.md": command_line,
    "metrics.md": metrics,
}


def main() -> int:
    """Write every page that differs."""
    for name, make in PAGES.items():
        page = DOCS / name
        text = make()
        if not page.is_file() or page.read_text() != text:
            page.write_text(text)
            sys.stdout.write(f"{page.relative_to(DOCS.parents[1])}: renewed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
