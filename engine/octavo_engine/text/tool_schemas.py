"""Declarations of a request's tools: their names, and the types of their parameters for formats that write values as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from octavo_engine.text.value_reader import as_json, escaped

MOST_PARTS = 64  # of a parameter's schema that are looked at: a reference may lead to itself
_PYTHON_TYPES: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


class ToolSchemas:
    """The tools of a request, as OpenAI's `tools` has them."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        functions = [function for tool in tools if isinstance(function := tool.get("function", tool), Mapping)]
        self.parameters: dict[str, Any] = {
            name: function.get("parameters") for function in functions if isinstance(name := function.get("name"), str)
        }

    def __contains__(self, name: str) -> bool:
        return name in self.parameters

    def types(self, tool: str, parameter: str) -> tuple[str, ...]:
        """JSON's types that a parameter may have, in the schema's order; empty if that is not declared."""
        schema = self.parameters.get(tool)
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if not isinstance(schema, Mapping) or not isinstance(properties, Mapping):
            return ()
        return tuple(dict.fromkeys(_types(properties.get(parameter), schema)))


def as_typed(text: str, types: Sequence[str]) -> str:
    """A parameter's text as JSON: of the first of `types` that it can be, else a string; without types, what it looks like."""
    bare = text.strip()
    for kind in types or ("object", "array", "boolean", "null", "number"):
        if kind == "string":
            break
        found = _as_type(bare, kind)
        if found is not None:
            return found
    return f'"{escaped(text)}"'


def _as_type(text: str, kind: str) -> str | None:
    lowered = text.lower()
    if kind == "boolean":
        return lowered if lowered in {"true", "false"} else None
    if kind == "null":
        return "null" if lowered in {"null", "none"} else None
    if kind in {"integer", "number"}:
        return _as_number(text, kind)
    if kind not in {"object", "array"} or not text.startswith("{" if kind == "object" else "["):
        return None
    return as_json(text)


def _as_number(text: str, kind: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if kind == "number" or isinstance(value, int):
        return text
    return str(int(value)) if value.is_integer() else None


def _types(schema: Any, root: Mapping[str, Any]) -> Iterator[str]:
    """The types of `schema` and of the parts that it combines, of which MOST_PARTS are looked at."""
    left = [schema]
    for _ in range(MOST_PARTS):
        if not left:
            return
        part = left.pop(0)
        if not isinstance(part, Mapping):
            continue
        yield from _declared(part)
        for union in ("anyOf", "oneOf", "allOf"):
            choices = part.get(union)
            left += choices[:MOST_PARTS] if isinstance(choices, list) else ()
        reference = part.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            target: Any = root
            for step in reference[2:].split("/"):
                target = target.get(step) if isinstance(target, Mapping) else None
            left.append(target)


def _declared(schema: Mapping[str, Any]) -> Iterator[str]:
    declared, values = schema.get("type"), schema.get("enum")
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, list):
        yield from (kind for kind in declared if isinstance(kind, str))
    elif isinstance(values, list) or "const" in schema:
        values = values if isinstance(values, list) else [schema["const"]]
        yield from (_PYTHON_TYPES[type(value)] for value in values if type(value) in _PYTHON_TYPES)
    if schema.get("nullable") is True:
        yield "null"
