"""The memory that the native executor takes for weights and KV blocks: matrices in panels of 16 rows, vectors as float32.

How panels lie is written in executors/native/src/matmul/layout.h; a test compares the bytes with those it loads.
"""

from __future__ import annotations

from dataclasses import dataclass

from octavo_models.formats import FORMATS
from octavo_models.spec import FORMAT_OF_DTYPE, ModelSpec, Weight

PANEL_ROWS = 16
ALIGNMENT = 64  # bytes of what a panel's scales, and its values, are multiples of
VALUE_MULTIPLE = 16  # elements that the values of a head are padded to, in a block
VECTOR_ELEMENT = 4


@dataclass(frozen=True, slots=True)
class Panel:
    """Bits of a value, and bytes of the scales that 16 rows have for a block of their format."""

    bits: int
    scales: int = 0


PANELS = {
    "f32": Panel(32),
    "f16": Panel(16),
    "bf16": Panel(16),
    "q4_0": Panel(4, 32),
    "q4_1": Panel(4, 64),
    "q5_0": Panel(5, 32),
    "q5_1": Panel(5, 64),
    "q8_0": Panel(8, 32),
    "q4_k": Panel(4, 64 + 256),
    "q5_k": Panel(5, 64 + 256),
    "q6_k": Panel(6, 32 + 256),
}


def weights_in_panels(spec: ModelSpec, dtype: str | None) -> int:
    """Exact bytes of all weights once they are loaded: as stored, or all matrices widened to `dtype`."""
    widened = None if dtype is None else FORMAT_OF_DTYPE[dtype]
    return sum(_nbytes(weight, widened or weight.format, spec) for weight in spec.weights)


def _nbytes(weight: Weight, name: str, spec: ModelSpec) -> int:
    if len(weight.shape) == 1:
        return weight.shape[0] * VECTOR_ELEMENT
    rows, columns = weight.shape
    groups = weight.groups
    if weight.by_head and weight.layer is not None:
        groups = spec.layers[weight.layer].attention.num_heads
    panels = groups * -(-(rows // groups) // PANEL_ROWS)  # each expert, and each head of these, begins one
    panel = PANELS[name]
    scales = columns // FORMATS[name].block_size * panel.scales
    return panels * (_aligned(scales) + _aligned(columns * PANEL_ROWS * panel.bits // 8))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
