"""A document as JSON or YAML. The YAML is a subset that needs no library: strings are quoted, but plain words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["as_json", "as_yaml"]

# No word that YAML 1.1 or 1.2 reads as something else, such as `no`.
_PLAIN = re.compile(r"[A-Za-z$_/][A-Za-z0-9_$/-]*(?:[.][A-Za-z0-9_$/-]+)*")
_BARE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
_WORDS = frozenset(["null", "true", "false", "yes", "no", "on", "off", "y", "n"])


def as_json(document: Any) -> str:
    """Indented by two."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_yaml(document: Any) -> str:
    """In block style."""
    return "\n".join(_lines(document)) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    text = json.dumps(value, ensure_ascii=False)
    # Within double quotes YAML takes all of JSON's escapes, but not these characters as they are.
    return _BARE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                yield f"{_scalar(key)}:"
                yield from (f"  {line}" for line in _lines(item))
            else:
                yield f"{_scalar(key)}: {_scalar(item)}"
    elif isinstance(value, list) and value:
        for item in value:
            first, *rest = _lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield _scalar(value)
