"""Bounds of a JSON schema: what would take more than a second to compile, or holds up each step of an answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from octavo_engine.errors import RequestError
from octavo_engine.server.intake.limits import (
    MAX_LITERAL_CHARACTERS,
    MAX_MULTIPLE,
    MAX_SCHEMA_DEPTH,
    MAX_SCHEMA_MEMBERS,
)

_LONGEST_INTEGER = 10**400  # that is written out: Python refuses to write one of thousands of digits
_REMARKS = {"title", "description", "$comment", "default", "example"}  # texts that no answer is held to


def check_schema(schema: Any) -> None:
    """Raise RequestError, which names the part, if `schema` is larger than what is compiled and followed in good time."""
    steps: list[int] = []
    for value in _parts(schema):
        if isinstance(value, str):
            check_literal(value)
        elif isinstance(value, (dict, list)) and len(value) > MAX_SCHEMA_MEMBERS:
            raise RequestError(
                f"a part of it has {len(value)} members; at most {MAX_SCHEMA_MEMBERS} are compiled: divide it"
            )
        if isinstance(value, dict):
            steps += _step(value.get("multipleOf"))
            for name in value:
                check_literal(name)
    if max(_common_multiple(steps), sum(steps) - len(steps)) > MAX_MULTIPLE:
        raise RequestError(
            f"multipleOf is too large, or several have too large a common multiple: at most {MAX_MULTIPLE}, zeros at the end "
            "aside, is compiled: leave it out, and check the numbers yourself"
        )


def check_literal(text: str) -> None:
    """Raise RequestError for a text or an expression so long that each token of an answer would wait for it."""
    if len(text) > MAX_LITERAL_CHARACTERS:
        raise RequestError(
            f"a text in it has {len(text)} characters; at most {MAX_LITERAL_CHARACTERS} are compiled: shorten it"
        )


def _parts(schema: Any) -> Iterator[Any]:
    """All values in `schema`. Raises RequestError where they are nested too deeply."""
    level = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        if not level:
            return
        yield from level
        level = [inner for value in level for inner in _members(value)]
    if level:
        raise RequestError(
            f"it is nested more than {MAX_SCHEMA_DEPTH} deep: divide it into definitions ($defs) and refer to them"
        )


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [inner for name, inner in value.items() if not (name in _REMARKS and isinstance(inner, str))]
    return value if isinstance(value, list) else ()


def _common_multiple(steps: Iterable[int]) -> int:
    """The least common multiple of `steps`, or one of some of them that is above MAX_MULTIPLE."""
    found = 1
    for step in steps:
        found = math.lcm(found, step)
        if found > MAX_MULTIPLE:
            break
    return found


def _step(multiple: Any) -> Iterator[int]:
    """The cost of `multipleOf`: its digits as a whole number, without the zeros at its end."""
    if isinstance(multiple, bool) or not isinstance(multiple, int | float):
        return
    if isinstance(multiple, float) and not math.isfinite(multiple):
        return
    if isinstance(multiple, int) and abs(multiple) >= _LONGEST_INTEGER:
        yield MAX_MULTIPLE + 1
        return
    digits = "".join(map(str, Decimal(str(multiple)).as_tuple().digits)).rstrip("0")
    yield int(digits or "1")
