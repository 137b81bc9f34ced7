"""A schema that would hold up others is refused before it is compiled, by a sentence that names the part."""

from __future__ import annotations

import math

import pytest

from octavo_engine.errors import RequestError
from octavo_engine.server.intake.limits import MAX_LITERAL_CHARACTERS, MAX_SCHEMA_DEPTH
from octavo_engine.server.intake.schema_bounds import _common_multiple, check_schema


def nested(depth: int):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"enum": list(range(50_000))}, "50000 members"),
        ({"properties": {f"p{i}": {} for i in range(2000)}}, "2000 members"),
        (nested(100_000), "deep"),
        ({"const": "a" * 200_000}, "200000 characters"),
        ({"properties": {"a" * 20_000: {}}}, "20000 characters"),
        ({"pattern": "a" * 20_000}, "20000 characters"),
        ({"multipleOf": 1_000_003}, "multipleOf"),
        ({"multipleOf": 1.048576}, "multipleOf"),
        ({"multipleOf": 3 * 10**400 + 1}, "multipleOf"),
        ({"multipleOf": 10**5000 + 1}, "multipleOf"),
        ({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, "common multiple"),
        ({"properties": {f"p{i}": {"multipleOf": 9973} for i in range(100)}}, "multipleOf"),
    ],
)
def test_a_costly_schema_is_refused(schema, words):
    with pytest.raises(RequestError, match=words):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        None,
        {"description": "a" * 100_000},
        {"enum": list(range(1000)), "const": "a" * MAX_LITERAL_CHARACTERS},
        nested(MAX_SCHEMA_DEPTH - 2),
        {"properties": {f"p{i}": {"type": "number", "multipleOf": 0.01} for i in range(500)}},
        {
            "anyOf": [
                {"multipleOf": 7},
                {"multipleOf": 1e6},
                {"multipleOf": 2.5e-7},
                {"multipleOf": 10**399},
                {"multipleOf": 0},
                {"multipleOf": "x"},
            ]
        },
    ],
)
def test_what_people_send_is_not(schema):
    check_schema(schema)


def test_a_common_multiple_is_followed_no_further_than_its_bound():
    """Thousands of long numbers would make one of tens of thousands of digits."""
    steps = [10**16 + 2 * i + 1 for i in range(4000)]
    assert _common_multiple(steps) == steps[0]
    assert _common_multiple([4, 6, 10]) == math.lcm(4, 6, 10)
    with pytest.raises(RequestError, match="multipleOf"):
        check_schema({"anyOf": [{"anyOf": [{"multipleOf": step} for step in steps[i::4]]} for i in range(4)]})
