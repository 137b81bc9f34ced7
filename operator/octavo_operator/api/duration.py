"""Durations as Kubernetes writes them: Go's `90s`, `10m`, `1h30m`."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, Self

from pydantic_core import PydanticCustomError

from octavo_operator.api.scalar import Scalar

SECONDS = {"h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}
TERM = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)", re.ASCII)
GRAMMAR = re.compile(rf"(?:{TERM.pattern})+|0", re.ASCII)


class Duration(Scalar):
    """A length of time that remembers how it was written; `seconds` is exact."""

    __slots__ = ("seconds", "text")

    def __init__(self, text: str) -> None:
        """Raises ValueError."""
        if not GRAMMAR.fullmatch(text):
            raise ValueError(f"{text!r} is not a duration; write hours, minutes and seconds, such as 90s or 1h30m")
        self.text = text
        self.seconds = sum((Fraction(number) * SECONDS[unit] for number, unit in TERM.findall(text)), Fraction(0))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Duration({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and self.seconds == other.seconds

    def __hash__(self) -> int:
        return hash(self.seconds)

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read what YAML may hold. Raises PydanticCustomError."""
        if isinstance(value, cls):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise PydanticCustomError(
                "duration", "needs a unit; write {right} for seconds", {"right": f"{value}s", "value": value}
            )
        if not isinstance(value, str):
            raise PydanticCustomError("duration", "must be a duration such as 90s or 1h30m")
        try:
            return cls(value)
        except ValueError as error:
            raise PydanticCustomError("duration", "{reason}", {"reason": str(error)}) from error

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        rule = {
            "rule": r"self.matches(r'^(([0-9]+(\.[0-9]+)?(ms|h|m|s))+|0)$')",
            "message": "is not a duration; write hours, minutes and seconds, such as 90s or 1h30m",
        }
        return {"type": "string", "maxLength": 64, "x-kubernetes-validations": [rule]}
