"""The attention heads of a layer: how many, and of what size."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from octavo_models.fields import Fields
from octavo_models.layers import Attention, Rotary
from octavo_models.tensors import At, LayerWeight, packed


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

    def packed(self, module: str, *, groups: int = 1, transposed: bool = False) -> dict[LayerWeight, At]:
        """The entries of q, k and v that one module holds together: all of q first, or so in each of `groups`."""
        q, kv = self.num * self.dim, self.num_kv * self.dim
        return packed(module, ("q", q), ("k", kv), ("v", kv), groups=groups, transposed=transposed)


def alibi_slopes(num: int, largest: float = 8.0) -> tuple[float, ...]:
    """The slopes of `num` heads as ALiBi defines them (arXiv 2108.12409): 2 ** -(i * largest / num) for a power of two.

    Another number takes those of the next lower power, then every other one of the next higher.
    """
    below = 1 << (num.bit_length() - 1)
    exponents = [largest * i / below for i in range(1, below + 1)]
    exponents += [largest * i / (2 * below) for i in range(1, 2 * below + 1, 2)]
    return tuple(2.0**-exponent for exponent in exponents[:num])


def even(fields: Fields, name: str, value: int) -> int:
    """`value` if it is even, as rotary pairs need. Raises InvalidConfigError that names the field."""
    if value % 2:
        raise fields.error(name, f"is {value}; a head's size must be even, for rotary pairs")
    return value
