"""Kubernetes quantities: `16Gi`, `500m`, `1e3`, exactly.

The grammar is that of k8s.io/apimachinery/pkg/api/resource. Values are fractions: nothing is rounded before
whole bytes are needed.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from functools import total_ordering
from typing import Any, Self

from pydantic_core import PydanticCustomError

from octavo_operator.api.scalar import Scalar

BINARY = {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4, "Pi": 1024**5, "Ei": 1024**6}
DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
LARGEST = 2**63 - 1
GRAMMAR = re.compile(
    r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+))(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d{1,3})?", re.ASCII
)

# Common misspellings of a suffix that Kubernetes has.
MISSPELT = {"kb": "k", "mb": "M", "gb": "G", "tb": "T", "kib": "Ki", "mib": "Mi", "gib": "Gi", "tib": "Ti"}
MISSPELT |= {"ki": "Ki", "mi": "Mi", "gi": "Gi", "ti": "Ti", "g": "G", "t": "T", "K": "k", "b": ""}


@total_ordering
class Quantity(Scalar):
    """An exact amount that remembers how it was written.

    Equality and order go by value: `Quantity("1024Mi") == Quantity("1Gi")`.
    """

    __slots__ = ("text", "value")

    def __init__(self, text: str) -> None:
        """Raises ValueError, with the remedy where the suffix is a known slip."""
        match = GRAMMAR.fullmatch(text)
        if match is None:
            raise ValueError(_problem(text))
        number, suffix = Fraction(Decimal(match["number"])), match["suffix"] or ""
        if suffix in BINARY:
            value = number * BINARY[suffix]
        elif suffix in DECIMAL:
            value = number * Fraction(10) ** DECIMAL[suffix]
        else:
            value = number * Fraction(10) ** int(suffix[1:])
        if abs(value) > LARGEST:
            raise ValueError(f"{text} is more than Kubernetes can hold, 2^63 - 1")
        self.text = text
        self.value = value

    @classmethod
    def of_bytes(cls, count: int) -> Quantity:
        """The shortest exact spelling of a number of bytes: the largest binary suffix that divides it."""
        for suffix, unit in reversed(BINARY.items()):
            if count and count % unit == 0:
                return cls(f"{count // unit}{suffix}")
        return cls(str(count))

    def __int__(self) -> int:
        """Whole units, rounded up as Kubernetes does."""
        return math.ceil(self.value)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Quantity({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.value == other.value

    def __lt__(self, other: Quantity) -> bool:
        return self.value < other.value

    def __hash__(self) -> int:
        return hash(self.value)

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read what YAML may hold: a string, or a bare whole number, as the API server takes them.

        Raises PydanticCustomError.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise PydanticCustomError("quantity", "must be a quantity such as 16Gi or 500m")
        if isinstance(value, float) and not value.is_integer():
            reason = 'a fraction needs quotes, for the API server takes bare numbers only if they are whole: "{value}"'
            raise PydanticCustomError("quantity", reason, {"value": value})
        try:
            parsed = cls(value if isinstance(value, str) else format(Decimal(str(value)), "f"))
        except (ValueError, ArithmeticError) as error:
            raise PydanticCustomError("quantity", "{reason}", {"reason": str(error)}) from error
        if parsed.value < 0:
            raise PydanticCustomError("quantity", "must not be negative")
        return parsed

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,3})?$",
            "minimum": 0,
            "maxLength": 64,
            "x-kubernetes-int-or-string": True,
        }


def _problem(text: str) -> str:
    slip = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]+)\s*", text)
    if slip and slip[2] not in DECIMAL:
        right = MISSPELT.get(slip[2], MISSPELT.get(slip[2].lower()))
        if right is not None:
            return f"{text!r} is not a quantity; did you mean {slip[1]}{right}?"
    return f"{text!r} is not a quantity; write a number with a suffix, such as 16Gi or 500m"
