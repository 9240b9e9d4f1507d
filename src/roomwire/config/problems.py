"""What is wrong with a setting, as a line that says where it stands, what was expected and what was found."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from roomwire.core.errors import ConfigError

__all__ = ["Path", "Problem", "config_error", "explain", "format_key", "nearest", "redact_url"]

Path = tuple[str, ...]
"""A key from the root of the configuration: ``("server", "port")``."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SHOWN = 60
_EXPECTED = re.compile(r"Input should (?:be|have) ")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
# Pydantic validates JSON, users write TOML.
_TOML_WORDS = {
    "an object": "a table",
    "a valid dictionary": "a table",
    "a valid array": "an array",
    "a valid list": "an array",
}
_COMPARISON = re.compile(r"(?:greater|less) than")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: the source and the key, such as ``"roomwire.toml: server.port"``.
        text: what was expected, what was found, and the remedy. Never a secret's value.
    """

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def config_error(problems: Sequence[Problem]) -> ConfigError:
    """One error that tells all of them, in the order given."""
    lines = [str(problem) for problem in dict.fromkeys(problems)]
    if len(lines) == 1:
        return ConfigError(lines[0])
    return ConfigError("\n  ".join([f"{len(lines)} settings are wrong:", *lines]))


def format_key(path: Iterable[str]) -> str:
    """A key as TOML would write it: ``rooms."chat:*".presence``."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in path)


def nearest(name: str, known: Collection[str]) -> str:
    """A hint at the nearest known name, or at all of them where they are few; possibly empty."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if match:
        return f'; did you mean "{match[0]}"?'
    return f"; known: {', '.join(sorted(known))}" if 0 < len(known) <= 12 else ""


def redact_url(text: str) -> str:
    """The text with user names and passwords of URLs replaced."""
    return _USERINFO.sub("***", text)


def explain(
    error: ValidationError,
    *,
    where: Callable[[Path], str],
    known: Callable[[Path], Collection[str]],
    hidden: Callable[[Path], str | None],
    absence: str = "",
) -> list[Problem]:
    """Pydantic's errors in our words.

    Args:
        error: what the validation raised.
        where: names a key's source and the key.
        known: the keys that a table may have.
        hidden: what to say instead of a value that must not be shown; None where it may be.
        absence: of the configuration file, to be said of a key that is not set; ``""`` where there is one.
    """
    problems = []
    for detail in error.errors(include_url=False):
        path = tuple(str(part) for part in detail["loc"])
        for at, text in _explain_one(path, detail, known, hidden):
            if absence and detail["type"] == "missing":
                text = f"{text} ({absence})"
            problems.append(Problem(where(at), text))
    return problems


def _explain_one(
    path: Path, detail: Any, known: Callable[[Path], Collection[str]], hidden: Callable[[Path], str | None]
) -> Iterable[tuple[Path, str]]:
    match detail["type"]:
        case "conflict":
            return [(tuple(at), text) for at, text in detail["ctx"]["problems"]]
        case "extra_forbidden" | "unexpected_keyword_argument":
            return [(path, "unknown key" + nearest(path[-1], known(path[:-1])))]
        case "missing":
            return [(path, "required, but not set")]
        case "value_error":
            # A validator of ours, or of a plugin's: it says what it expected itself.
            return [(path, str(detail["ctx"]["error"]))]
        case "json_invalid":
            return [(path, detail["msg"])]
    expected = _EXPECTED.sub("", detail["msg"], count=1)
    expected = _TOML_WORDS.get(expected, expected)
    if _COMPARISON.match(expected):
        expected = f"a number {expected}"
    if expected == detail["msg"]:
        return [(path, expected)]
    instead = hidden(path)
    return [(path, f"expected {expected}, found {_shown(detail['input']) if instead is None else instead}")]


def _shown(value: object) -> str:
    match value:
        case dict() | BaseModel():
            return "a table"
        case list():
            return "an array"
        case bool():
            return "true" if value else "false"
        case str():
            text = json.dumps(redact_url(value), ensure_ascii=False)
        case _:
            text = str(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
