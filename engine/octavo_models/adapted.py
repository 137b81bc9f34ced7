"""The products of a model that low-rank adapters (LoRA) change, and the size of one adapter's slot on a device.

What the planner and executors with slots share. Independent of adapters themselves and of devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from octavo_models.adapter_modules import adaptable
from octavo_models.spec import ModelSpec

TOGETHER = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Weights of a layer that multiply the same input, whose products are computed as one."""
ALIGNED = 64  # elements: matrices of a slot begin at multiples of this


@dataclass(frozen=True, slots=True)
class AdaptedProduct:
    """Weights that are multiplied together, and may each have a low-rank part."""

    names: tuple[str, ...]  # canonical
    out_features: tuple[int, ...]  # of each
    in_features: int

    def a_elements(self, rank: int) -> int:
        """Elements of all parts' `a` of up to `rank` rows each."""
        return len(self.names) * rank * self.in_features

    def b_elements(self, rank: int) -> int:
        """Elements of all parts' `b` of up to `rank` columns each."""
        return sum(self.out_features) * rank


def adapted_products(spec: ModelSpec) -> tuple[AdaptedProduct, ...]:
    """The products of `spec`, or of a rank's part of it, of the weights that are `adaptable`."""
    shapes = {weight.name: weight.shape for weight in adaptable(spec)}
    found = []
    for i in range(len(spec.layers)):
        for group in TOGETHER:
            names = tuple(name for name in (f"layers.{i}.{last}" for last in group) if name in shapes)
            if names:
                found.append(AdaptedProduct(names, tuple(shapes[n][0] for n in names), shapes[names[0]][1]))
    return tuple(found)


def slot_elements(products: Sequence[AdaptedProduct], rank: int) -> int:
    """Elements of one adapter whose parts have up to `rank` each."""
    return sum(aligned(p.a_elements(rank)) + aligned(p.b_elements(rank)) for p in products)


def aligned(elements: int) -> int:
    """The next multiple of ALIGNED."""
    return -(-elements // ALIGNED) * ALIGNED
