"""A JSON Schema, as pydantic makes it, as a TypeScript type."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["Printer", "comment", "identifier", "key"]

Schema = dict[str, Any]

_RESERVED = frozenset(
    """
    any as async await bigint boolean break case catch class const continue debugger declare default delete do else
    enum export extends false finally for function get if implements import in infer instanceof interface is keyof
    let namespace never new null number object package private protected public readonly return set static string
    super switch symbol this throw true try type typeof undefined unique unknown var void while with yield
    Array Error Map Object Promise ReadonlyMap Record Set String Uint8Array
    """.split()  # noqa: SIM905  a list of words reads better as one
)
_SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def identifier(text: str, taken: set[str]) -> str:
    """A name that TypeScript has no other use for and that is not taken yet; it is then."""
    words = [word for word in re.split(r"[^A-Za-z0-9$]+", text) if word]
    base = "".join(word[0].upper() + word[1:] for word in words) if len(words) > 1 else "".join(words)
    if not base or base[0].isdigit() or base in _RESERVED:
        base = f"{base}_" if base and not base[0].isdigit() else f"_{base}"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}{count}"
    taken.add(name)
    return name


def key(name: str) -> str:
    """A property's name, quoted where it has to be."""
    return name if re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]*", name) else json.dumps(name, ensure_ascii=False)


def comment(text: str | None, indent: str = "") -> list[str]:
    """A doc comment of a text; nothing where there is none."""
    if not text:
        return []
    lines = text.replace("*/", "*\\/").splitlines()
    if len(lines) == 1:
        return [f"{indent}/** {lines[0]} */"]
    return [f"{indent}/**", *(f"{indent} * {line}".rstrip() for line in lines), f"{indent} */"]


class Printer:
    """Prints types that refer to definitions.

    Args:
        names: what the definitions are called in TypeScript, by their name in a `$ref`.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def type_of(self, schema: Schema | bool, indent: str = "") -> str:
        """The type; lines after the first are indented by `indent`."""
        if isinstance(schema, bool):
            return "unknown" if schema else "never"
        if "$ref" in schema:
            # A schema that is written by hand may refer to what is not here.
            return self._names.get(schema["$ref"].rpartition("/")[2], "unknown")
        if "const" in schema or "enum" in schema:
            return _union(map(_literal, schema.get("enum", [schema.get("const")])))
        choices = schema.get("anyOf", schema.get("oneOf"))
        if choices is not None:
            return _union(self.type_of(choice, indent) for choice in choices)
        if "allOf" in schema:
            return " & ".join(dict.fromkeys(_grouped(self.type_of(part, indent)) for part in schema["allOf"]))
        return self._of_kind(schema, indent)

    def _of_kind(self, schema: Schema, indent: str) -> str:
        kinds = schema.get("type")
        if isinstance(kinds, list):
            return _union(self.type_of({**schema, "type": kind}, indent) for kind in kinds)
        if kinds == "array":
            return self._array(schema, indent)
        if kinds == "object":
            return self._object(schema, indent)
        return _SIMPLE.get(kinds or "", "unknown")

    def _array(self, schema: Schema, indent: str) -> str:
        first = schema.get("prefixItems")
        rest = schema.get("items", True)
        if first is None:
            if schema.get("maxItems") == 0:
                return "[]"
            return f"{_grouped(self.type_of(rest, indent))}[]"
        least = schema.get("minItems", 0)
        parts = [self.type_of(item, indent) for item in first]
        parts = [part if number < least else f"({part})?" for number, part in enumerate(parts)]
        if rest is not False and schema.get("maxItems") != len(first):
            parts.append(f"...{_grouped(self.type_of(rest, indent))}[]")
        return f"[{', '.join(parts)}]"

    def _object(self, schema: Schema, indent: str) -> str:
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        if not properties:
            values = list(schema.get("patternProperties", {}).values())
            if more is False and not values:
                return "{ [key: string]: never }"
            values += [more] if more not in (None, False) else [] if values else [True]
            return f"{{ [key: string]: {_union(self.type_of(value, indent) for value in values)} }}"
        lines = ["{", *self.fields(schema, indent + "  ")]
        if more not in (None, False):
            lines.append(f"{indent}  [key: string]: unknown;")
        return "\n".join([*lines, f"{indent}}}"])

    def fields(self, schema: Schema, indent: str) -> list[str]:
        """The lines of an object's properties."""
        required = set(schema.get("required", ()))
        lines: list[str] = []
        for name, value in schema["properties"].items():
            if isinstance(value, dict):
                lines += comment(value.get("description"), indent)
            mark = "" if name in required else "?"
            lines.append(f"{indent}{key(name)}{mark}: {self.type_of(value, indent)};")
        return lines


def _literal(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "null"  # as which pydantic writes it
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | int | float | bool | None) else "unknown"


def _union(parts: Iterable[str]) -> str:
    found = list(dict.fromkeys(parts))
    return "unknown" if "unknown" in found else " | ".join(found) or "never"


def _grouped(text: str) -> str:
    return f"({text})" if " | " in text or " & " in text else text
