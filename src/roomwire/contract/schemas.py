"""Types as JSON Schemas, with one set of definitions: what clients send as validated, what they get as written."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

__all__ = ["Schemas", "draft_7"]

Schema = dict[str, Any]
_REF = "#/components/schemas/{model}"
_BY_NAME = frozenset(["properties", "patternProperties", "$defs", "definitions"])
_VALUES = frozenset(["const", "default", "enum", "examples"])


class Schemas:
    """The schemas of a document's types.

    Args:
        wanted: the types; those of None and Any included.

    Attributes:
        definitions: models and enums by name, sorted.
    """

    def __init__(self, wanted: list[tuple[Any, Literal["validation", "serialization"]]]) -> None:
        inputs: list[tuple[int, JsonSchemaMode, TypeAdapter[Any]]] = []
        self._number: dict[tuple[int, str], int] = {}
        for annotation, mode in wanted:
            key = (id(annotation), mode)
            if key not in self._number:
                self._number[key] = len(inputs)
                inputs.append((len(inputs), mode, TypeAdapter(annotation)))
        self._wanted = wanted  # so that no other object gets the id of one of them
        schemas, rest = TypeAdapter.json_schemas(inputs, ref_template=_REF, schema_generator=_Generator)
        self._schemas = {key: schema for (key, _), schema in schemas.items()}
        self.definitions: dict[str, Schema] = dict(sorted(rest.get("$defs", {}).items()))

    def of(self, annotation: Any, mode: Literal["validation", "serialization"]) -> Schema:
        """The schema of one of the types; a `$ref` where it is a model."""
        return self._schemas[self._number[(id(annotation), mode)]]


class _Generator(GenerateJsonSchema):
    """What JSON cannot say is told as anything, rather than not at all; no warnings."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  as pydantic has it

    def field_is_required(self, field: Any, total: bool) -> bool:
        """What is written has all fields, those with a default too."""
        if self.mode == "serialization" and field["type"] in ("model-field", "dataclass-field"):
            return True
        return super().field_is_required(field, total)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {}


def draft_7(schema: Any) -> Any:
    """A schema of 2020-12 as AsyncAPI has it: draft 7, without discriminators, and nothing that JSON cannot say."""
    if isinstance(schema, list):
        return [draft_7(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out: Schema = {}
    for name, value in schema.items():
        if name == "prefixItems":
            out["items"] = draft_7(value)
            out["additionalItems"] = draft_7(schema.get("items", False))
        elif name == "discriminator" and isinstance(value, dict) and "propertyName" in value:
            continue  # a mapping, in OpenAPI; each choice has its constant
        elif name == "items" and "prefixItems" in schema:
            continue
        elif name in _BY_NAME and isinstance(value, dict):
            # Its keys are names of the application's, and no words of JSON Schema.
            out[name] = {key: draft_7(item) for key, item in value.items()}
        elif name in _VALUES or isinstance(value, float):
            out |= {name: value} if _is_json(value) else {}
        else:
            out[name] = draft_7(value)
    return out


def _is_json(value: Any) -> bool:
    """Whether JSON has it: it has no infinite number."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
