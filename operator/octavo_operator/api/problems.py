"""pydantic's errors as problems for a person: the field's path as in YAML, what is wrong, and what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from octavo_operator.api.base import SHAPES
from octavo_operator.errors import Problem

TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def dotted(path: tuple[str | int, ...]) -> str:
    """`spec.engine.args[2]`; a key that holds dots is quoted: `spec.resources.limits["nvidia.com/gpu"]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif "." in part or "/" in part:
            text += f'["{part}"]'
        else:
            text += f".{part}" if text else part
    return text


def problem_of(error: ErrorDetails, root: type[BaseModel], line: int | None) -> Problem:
    """Turn one of pydantic's errors into a problem."""
    path = tuple(part for part in error["loc"] if part != "[key]")
    field = dotted(path)
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(field, "there is no such field", _meant_field(str(path[-1]), fields_at(root, path[:-1])), line)
    if kind == "missing":
        return Problem(field, "is required", None, line)
    if kind == "literal_error":
        values = [value.strip("'") for value in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return Problem(field, f"{_shown(given)} is not one of {', '.join(values)}", _meant_value(given, values), line)
    if given is None and kind != "quantity":
        return Problem(field, "is empty", "remove the field, or give it a value", line)
    if kind in TYPES:
        return Problem(field, f"must be {TYPES[kind]}, not {_shown(given)}", _converted(kind, given), line)
    if kind == "string_pattern_mismatch":
        shape = SHAPES.get(context["pattern"], f"must match {context['pattern']}")
        return Problem(field, f"{_shown(given)}: {shape}", _as_name(given, context["pattern"]), line)
    if kind == "string_too_long":
        return Problem(field, f"has {len(str(given))} letters; {context['max_length']} are allowed", None, line)
    if kind in {"string_too_short", "too_short"}:
        return Problem(field, "is empty", None, line)
    if kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        return Problem(field, f"{given} is out of range; {_range(kind, context)}", None, line)
    return Problem(field, error["msg"], None, line)


def fields_at(root: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The YAML names of the fields that the type at `path` has."""
    types: list[Any] = [root]
    for part in path:
        types = [inner for t in types for inner in _step(t, part)]
    return [field.alias or name for t in types for name, field in t.model_fields.items()]


def _step(model: type[BaseModel], part: str | int) -> list[type[BaseModel]]:
    if isinstance(part, int):  # the list's own annotation was already taken apart
        return [model]
    for name, field in model.model_fields.items():
        if part == (field.alias or name):
            return list(_models(field.annotation))
    return []


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models(argument)]


def _meant_field(name: str, known: list[str]) -> str | None:
    plain = {_plain(field): field for field in known}
    if _plain(name) in plain:
        return f"did you mean {plain[_plain(name)]}?"
    close = get_close_matches(_plain(name), plain, n=1, cutoff=0.6)
    if close:
        return f"did you mean {plain[close[0]]}?"
    return f"known here: {', '.join(known)}" if known else None


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _meant_value(given: Any, values: list[str]) -> str | None:
    close = get_close_matches(str(given).lower(), [value.lower() for value in values], n=1, cutoff=0.5)
    return next((f"did you mean {value}?" for value in values if close and value.lower() == close[0]), None)


def _converted(kind: str, given: Any) -> str | None:
    if kind == "string_type" and isinstance(given, int | float):
        shown = str(given).lower() if isinstance(given, bool) else given
        return f'quote it: "{shown}"'
    if kind in {"int_type", "float_type"} and isinstance(given, str):
        try:
            return f"write {int(given)} without quotes"
        except ValueError:
            return None
    if kind == "bool_type" and str(given).lower() in {"true", "false", "yes", "no", "1", "0"}:
        return f"write {'true' if str(given).lower() in {'true', 'yes', '1'} else 'false'}"
    if kind == "list_type" and isinstance(given, str):
        return f"write [{given}]"
    return None


def _as_name(given: Any, pattern: str) -> str | None:
    lowered = str(given).lower().replace("_", "-").replace(" ", "-")
    return f"did you mean {lowered}?" if pattern in SHAPES and lowered != given else None


def _range(kind: str, context: Mapping[str, Any]) -> str:
    words = {
        "greater_than": ("more than", "gt"),
        "greater_than_equal": ("at least", "ge"),
        "less_than": ("less than", "lt"),
        "less_than_equal": ("at most", "le"),
    }
    word, key = words[kind]
    return f"it must be {word} {context[key]:g}"


def _shown(given: Any) -> str:
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, str):
        return f'the text "{given}"' if len(given) <= 60 else f'the text "{given[:57]}…"'
    if isinstance(given, dict):
        return "a mapping"
    if isinstance(given, list):
        return "a list"
    return str(given)
