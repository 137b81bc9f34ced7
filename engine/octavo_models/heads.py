"""The attention heads of a layer: how many, and of what size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from octavo_models.fields import Fields
from octavo_models.layers import Attention, Rotary


@dataclass(frozen=True, slots=True)
class Heads:
    """`num` query heads, `num_kv` KV heads, and `dim` elements in each of both."""

    num: int
    num_kv: int
    dim: int

    def attention(self, rotary: Rotary | None, **details: object) -> Attention:
        """Attention with the usual scale, 1 / sqrt(dim); `details` are fields of `Attention`."""
        plain = Attention(self.num, self.num_kv, self.dim, self.dim, 1 / math.sqrt(self.dim), rotary)
        return replace(plain, **details)  # type: ignore[arg-type]


def even(fields: Fields, name: str, value: int) -> int:
    """`value` if it is even, as rotary pairs need. Raises InvalidConfigError that names the field."""
    if value % 2:
        raise fields.error(name, f"is {value}; a head's size must be even, for rotary pairs")
    return value
