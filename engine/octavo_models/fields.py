"""Typed, checked reads of an untrusted config: each returns a plausible value or raises an error that names the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from octavo_models.errors import InvalidConfigError, UnsupportedModelError

# Larger than in any published decoder, and small enough that sizes and frequencies computed from them stay finite.
LARGEST = (1 << 31) - 1
MOST_LAYERS = 4096
MOST_HEADS = 4096
SMALLEST_NUMBER, LARGEST_NUMBER = 1e-30, 1e30

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping with unchecked values. `prefix` precedes each name, in the mapping and in messages.

    `names` has fields that the mapping calls otherwise: name → the names to look for, of which the first present holds.
    """

    values: Mapping[str, Any]
    prefix: str = ""
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """The mapping's name of a field."""
        keys = [self.prefix + own for own in self.names.get(name, (name,))]
        return next((key for key in keys if self.values.get(key) is not None), keys[0])

    def has(self, name: str) -> bool:
        """True if the field is present and not null."""
        return self.raw(name) is not None

    def raw(self, name: str) -> Any:
        return self.values.get(self.key(name))

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1, maximum: int = LARGEST) -> int:
        """A whole number in [minimum, maximum]; `default` where the field is absent or null."""
        value = self._of_all_layers(name)
        if value is None:
            return self._default(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, f"is {_shown(value)}, not a whole number")
        if not minimum <= value <= maximum:
            raise self.error(name, f"is {_shown(value)}; it must lie between {minimum} and {maximum}")
        return value

    def number(self, name: str, default: float | None = None, *, minimum: float = 0.0, exclusive: bool = True) -> float:
        """A finite number above `minimum` (or at it, where not `exclusive`)."""
        value = self.raw(name)
        if value is None:
            return self._default(name, default)
        try:
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(name, f"is {_shown(value)}, not a finite number")
        if number < minimum or (exclusive and number == minimum):
            raise self.error(name, f"is {number:g}; it must be {'above' if exclusive else 'at least'} {minimum:g}")
        if abs(number) > LARGEST_NUMBER or 0 < abs(number) < SMALLEST_NUMBER:
            raise self.error(name, f"is {number:g}, which is implausible")
        return number

    def boolean(self, name: str, default: bool) -> bool:
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, f"is {_shown(value)}, neither true nor false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.raw(name)
        if value is None:
            return self._default(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"is {_shown(value)}, not a string")
        return value

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        value = self.raw(name)
        if value is not None and not isinstance(value, Mapping):
            raise self.error(name, f"is {_shown(value)}, not a mapping")
        return value

    def sequence(self, name: str, length: int | None = None) -> Sequence[Any] | None:
        """A list, of exactly `length` elements where that is given; None where the field is absent."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise self.error(name, f"is {_shown(value)}, not a list")
        if length is not None and len(value) != length:
            raise self.error(name, f"has {len(value)} elements; {length} are expected")
        return value

    def numbers(self, name: str, length: int | None = None) -> tuple[float, ...] | None:
        """A list of finite numbers above zero."""
        values = self.sequence(name, length)
        if values is None:
            return None
        return tuple(Fields({name: value}).number(name) for value in values)

    def _of_all_layers(self, name: str) -> Any:
        """The value; of a list with a value for each layer, which GGUF files have for some keys, the one that all share."""
        value = self.raw(name)
        if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
            return value
        if any(each != value[0] for each in value):
            raise UnsupportedModelError(
                f"{self.key(name)} differs between layers ({_shown(list(value))}): such models are not supported"
            )
        return value[0]

    def error(self, name: str, problem: str) -> InvalidConfigError:
        return InvalidConfigError(f"{self.key(name)} {problem}")

    def _default(self, name: str, default: T | None) -> T:
        if default is None:
            raise self.error(name, "is missing")
        return default


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
