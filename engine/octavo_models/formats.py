"""Storage formats of tensors: how many elements a block holds and how many bytes it takes.

Names and numbers of the quantized formats are GGML's (ggml/include/ggml.h and ggml-common.h of llama.cpp).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from octavo_models.errors import InvalidConfigError


@dataclass(frozen=True, slots=True)
class Format:
    """`block_size` consecutive elements of a row take `bytes_per_block` bytes in a file.

    On a GPU they take `packed_bytes`, and each super block that a row of a weight's part touches `super_bytes`.
    """

    name: str
    ggml_type: int | None
    block_size: int
    bytes_per_block: int
    packed_bytes: int | None = None  # five and six bits take eight (octavo_engine.kernels.packing)
    super_bytes: int = 0


FORMATS = {
    f.name: f
    for f in (
        Format("f32", 0, 1, 4),
        Format("f16", 1, 1, 2),
        Format("q4_0", 2, 32, 18, 18),
        Format("q4_1", 3, 32, 20, 20),
        Format("q5_0", 6, 32, 22, 34),
        Format("q5_1", 7, 32, 24, 36),
        Format("q8_0", 8, 32, 34, 34),
        Format("q4_k", 12, 256, 144, 144, 4),
        Format("q5_k", 13, 256, 176, 272, 4),
        Format("q6_k", 14, 256, 210, 272, 2),
        Format("bf16", 30, 1, 2),
        Format("f8_e4m3", None, 1, 1),
        Format("i8", 24, 1, 1),
    )
}

FORMAT_OF_GGML_TYPE = {f.ggml_type: f.name for f in FORMATS.values() if f.ggml_type is not None}

# Formats of weights that are supported. f8_e4m3 is reserved for FP8 checkpoints; i8 appears in files beside weights.
WEIGHT_FORMATS = tuple(name for name in FORMATS if name not in {"f8_e4m3", "i8"})

SUPER_BLOCK = 256  # elements of a K format's block, which have one or two scales of their scales in common
PACKED_GROUP = 32  # elements of a row; a cut between two groups splits neither a scale nor a byte


def format_of_transposed(name: str) -> str:
    """The format of a transposed matrix that was stored in format `name`: blocks lie along rows, so theirs are widened.

    A float16 holds an eight-bit block's numbers more precisely than a bfloat16.
    """
    return name if FORMATS[name].block_size == 1 else "f16"


def nbytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of `shape` in format `name`; rows (the last axis) must divide into whole blocks."""
    f = FORMATS[name]
    if shape[-1] % f.block_size:
        raise InvalidConfigError(f"a row of {shape[-1]} elements does not divide into {name} blocks of {f.block_size}")
    return math.prod(shape) // f.block_size * f.bytes_per_block


def stays_packed(name: str, shape: tuple[int, ...]) -> bool:
    """True if a GPU holds a weight of `shape`, or a rank's part of one, as packed blocks.

    Vectors and plain dtypes have none, and a part whose rows aren't whole groups can't be cut out of them.
    """
    return FORMATS[name].packed_bytes is not None and len(shape) > 1 and shape[-1] % PACKED_GROUP == 0


def super_blocks(columns: int) -> int:
    """The most super blocks that a part of so many columns may touch: one more where its cuts go through some."""
    return columns // SUPER_BLOCK if columns % SUPER_BLOCK == 0 else columns // SUPER_BLOCK + 2


def packed_nbytes(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a weight that `stays_packed`."""
    f = FORMATS[name]
    assert f.packed_bytes is not None
    rows, columns = math.prod(shape[:-1]), shape[-1]
    return rows * (columns * f.packed_bytes // f.block_size + super_blocks(columns) * f.super_bytes)
