"""JSON schemas as llguidance can hold an answer to them.

Owns where its reading of a keyword is looser than JSON Schema's, or narrower than it need be: such a keyword is written in
others that it follows. An answer to the schema that comes out validates against the one that went in. Independent of requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from octavo_engine.errors import RequestError

Schema = dict[str, Any]

# What a schema may be once `propertyNames` is written out: the most that a grammar may have.
MAX_WRITTEN_CHARACTERS = 256 * 1024

_VALUES = {"const", "enum", "default", "examples"}  # hold JSON that is no schema
_NAMED = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}  # schemas by a name
_APPLIED = {"allOf", "anyOf", "oneOf", "if", "then", "else", "not", "$ref", "$dynamicRef", "dependentSchemas"}

_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[048]|[2468][048]|[13579][26])00)"
_DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
# No leap second, which only some minutes have; no more digits than nanoseconds.
_TIME = (
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)  # fmt: skip
_LABEL = "[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"  # without --, which only encoded names have (RFC 5891)
# Formats of RFC 3339 and 1123 that llguidance reads more loosely.
FORMATS: dict[str, Schema] = {
    "date": {"pattern": f"^{_DATE}$"},
    "time": {"pattern": f"^{_TIME}$"},
    "date-time": {"pattern": f"^{_DATE}[Tt]{_TIME}$"},
    "hostname": {"format": "hostname", "pattern": f"^{_LABEL}(?:\\.{_LABEL})*$", "maxLength": 253},
}
# Formats that say how a value is shown or stored, and nothing about a text; `path` and its kin are Pydantic's.
SAYING_NOTHING = {
    *("password", "binary", "path", "file-path", "directory-path"),
    *("int32", "int64", "uint32", "uint64", "float", "double"),
}
# White space in ECMA 262, the dialect of JSON Schema, and in Python's and Rust's, which validators use as well.
_SPACE = r"\t\n\v\f\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_SPACE_SOMEWHERE = _SPACE + r"\x{FEFF}\x{1C}-\x{1F}\x{85}"


def followed(schema: Schema | bool) -> Schema | bool:
    """`schema` in keywords that llguidance follows, where there are such; it refuses by name what is left.

    Raises:
        RequestError: enumerated names of properties, each of which gets its value's schema, make it too large.
    """
    written: Schema | bool = _Writer(schema).schema(schema)
    return written


class _Writer:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._repeated = 0  # characters of the schemas that stand under each of several names, about

    def schema(self, schema: Any) -> Any:
        """A schema, or whatever stands where one might."""
        if isinstance(schema, list):
            return [self.schema(part) for part in schema]
        if not isinstance(schema, dict):
            return schema
        written: Schema = {}
        for key, value in schema.items():
            if key in _VALUES:
                written[key] = value
            elif key in _NAMED and isinstance(value, dict):
                patterns = key == "patternProperties"
                written[key] = {portable(name) if patterns else name: self.schema(part) for name, part in value.items()}
            else:
                written[key] = self.schema(value)
        return self._keywords(written)

    def _keywords(self, schema: Schema) -> Schema:
        if isinstance(pattern := schema.get("pattern"), str):
            schema["pattern"] = portable(pattern)
        if schema.get("uniqueItems") is False:
            del schema["uniqueItems"]
        if "propertyNames" in schema:
            schema = self._named(schema)
        if "unevaluatedProperties" in schema and not schema.keys() & _APPLIED:
            rest = schema.pop("unevaluatedProperties")
            schema.setdefault("additionalProperties", rest)
        if isinstance(schema.get("oneOf"), list) and "anyOf" not in schema:
            schema = self._one_of(schema)
        return _formatted(schema)

    def _named(self, schema: Schema) -> Schema:
        """`schema` whose properties' names match one pattern, or are enumerated; unchanged where it says more about them."""
        rest = {key: value for key, value in schema.items() if key != "propertyNames"}
        names = schema["propertyNames"]
        if names is True or names in ({}, {"type": "string"}):
            return rest
        if not isinstance(names, dict) or rest.keys() & {"properties", "patternProperties"}:
            return schema
        said = {key: value for key, value in names.items() if (key, value) != ("type", "string")}
        value = rest.get("additionalProperties", True)
        if set(said) == {"pattern"} and isinstance(said["pattern"], str):
            return rest | {"patternProperties": {said["pattern"]: value}, "additionalProperties": False}
        if set(said) == {"enum"} and isinstance(said["enum"], list) and all(isinstance(n, str) for n in said["enum"]):
            self._count(len(set(said["enum"])), value)
            return rest | {"properties": dict.fromkeys(said["enum"], value), "additionalProperties": False}
        return schema

    def _count(self, number: int, value: Any) -> None:
        """Raise RequestError once what stands under each of `number` names, with all before, is longer than a grammar may be."""
        if number > 1 and value not in (True, False, {}):
            self._repeated += number * _length(value)
        if self._repeated > MAX_WRITTEN_CHARACTERS:
            raise RequestError(
                f"the {number} names in propertyNames.enum repeat the schema of their values to more than "
                f"{MAX_WRITTEN_CHARACTERS} characters: make it smaller, or leave propertyNames out and check the names yourself"
            )

    def _one_of(self, schema: Schema) -> Schema:
        """`anyOf` in the place of `oneOf`, if no value can match two of its alternatives.

        Unions whose alternatives differ in a constant (Pydantic's, OpenAPI's) then need that property, which clients that
        give it a default leave out of `required`.
        """
        parts = schema["oneOf"]
        seen = [self._resolved(part) for part in parts]
        if not all(isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in seen):
            return schema
        kinds = [part["type"] for part in seen]
        if len({"number" if kind == "integer" else kind for kind in kinds}) == len(kinds):
            tag = None
        elif set(kinds) != {"object"} or (tag := _tag(seen)) is None:
            return schema
        rest = {key: value for key, value in schema.items() if key != "oneOf"}
        tagged = [{"allOf": [part, {"required": [tag]}]} for part in parts]
        return rest | {"anyOf": parts if tag is None or len(parts) == 1 else tagged}

    def _resolved(self, part: Any) -> Any:
        """The target of a reference within the schema; other schemas as they are."""
        for _ in range(8):
            if not isinstance(part, dict) or set(part) != {"$ref"} or not isinstance(part["$ref"], str):
                return part
            target: Any = self._root
            steps = part["$ref"].split("/")
            for step in steps[1:] if steps[0] == "#" else [""]:
                name = step.replace("~1", "/").replace("~0", "~")
                target = target.get(name) if isinstance(target, Mapping) else None
            part = target
        return None


def _formatted(schema: Schema) -> Schema:
    name = schema.get("format")
    if not isinstance(name, str):
        return schema
    rest = {key: value for key, value in schema.items() if key != "format"}
    if name in SAYING_NOTHING:
        return rest
    held = FORMATS.get(name)
    if held is None:
        return schema
    if not rest.keys() & held.keys():
        return rest | held
    others = rest.get("allOf")
    return rest | {"allOf": [*(others if isinstance(others, list) else ()), held]}


def _length(schema: Any) -> int:
    """Characters of `schema` as JSON, at least."""
    if isinstance(schema, str):
        return len(schema) + 2
    if isinstance(schema, dict):
        return 2 + sum(len(name) + 3 + _length(value) for name, value in schema.items())
    return 2 + sum(map(_length, schema)) if isinstance(schema, list) else 1


def _tag(parts: Sequence[Mapping[str, Any]]) -> str | None:
    """The property whose constants differ among the objects `parts`; None if there is none."""
    properties = [part.get("properties") for part in parts]
    if not all(isinstance(found, Mapping) for found in properties):
        return None
    for name in properties[0] or ():
        values = [_constants(found.get(name)) for found in properties if found is not None]
        if all(values) and all(not a & b for a, b in combinations(values, 2)):
            return str(name)
    return None


def _constants(schema: Any) -> set[str]:
    """The texts that a property may be; empty if that is not declared, or they are not all texts."""
    if not isinstance(schema, Mapping):
        return set()
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return set()
    return set(values)


def portable(pattern: str) -> str:
    r"""A regular expression in which `\s` is white space in every dialect, and `\S` in none."""
    if r"\s" not in pattern.lower():
        return pattern
    found, in_class, at = [], False, 0
    while at < len(pattern):
        step = 2 if pattern[at] == "\\" else 1
        part = pattern[at : at + step]
        if part == r"\s":
            part = _SPACE if in_class else f"[{_SPACE}]"
        elif part == r"\S":
            part = f"[^{_SPACE_SOMEWHERE}]"
        elif part in {"[", "]"}:
            in_class = part == "["
        found.append(part)
        at += step
    return "".join(found)
