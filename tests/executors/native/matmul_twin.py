"""The native products in numpy: weights as `gguf` reads them, activations quantized as designed."""

from __future__ import annotations

import numpy as np
from gguf import GGMLQuantizationType, quants

FORMATS = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "q4_k": 12,
    "q5_k": 13,
    "q6_k": 14,
    "bf16": 30,
}
QUANTIZED = tuple(name for name in FORMATS if name.startswith("q"))
BLOCK = {name: 256 if name.endswith("_k") else 32 if name.startswith("q") else 1 for name in FORMATS}
# (bytes of a block, offsets of its f16 scales)
_BLOCKS = {
    "q4_0": (18, (0,)),
    "q4_1": (20, (0, 2)),
    "q5_0": (22, (0,)),
    "q5_1": (24, (0, 2)),
    "q8_0": (34, (0,)),
    "q4_k": (144, (0, 2)),
    "q5_k": (176, (0, 2)),
    "q6_k": (210, (208,)),
}


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Round to the nearest bf16, ties to even, as uint16."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)


def random_rows(name: str, n: int, k: int, rng: np.random.Generator, scale: float = 0.02) -> np.ndarray:
    """Bytes [n, row bytes] of random weights: every code is equally likely, scales are about `scale`."""
    if name == "f32":
        return rng.normal(0, scale, (n, k)).astype(np.float32).view(np.uint8)
    if name == "f16":
        return rng.normal(0, scale, (n, k)).astype(np.float16).view(np.uint8)
    if name == "bf16":
        return to_bf16(rng.normal(0, scale, (n, k))).view(np.uint8)
    size, offsets = _BLOCKS[name]
    blocks = rng.integers(0, 256, (n * k // BLOCK[name], size), dtype=np.uint8)
    for offset in offsets:
        values = rng.uniform(-scale, scale, blocks.shape[0]).astype(np.float16)
        blocks[:, offset : offset + 2] = values.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(n, -1)


def weights(name: str, rows: np.ndarray) -> np.ndarray:
    """The float32 values [n, k] that the bytes of `rows` stand for."""
    if name == "f32":
        return rows.view(np.float32)
    if name == "f16":
        return rows.view(np.float16).astype(np.float32)
    if name == "bf16":
        return from_bf16(rows.view(np.uint16))
    return quants.dequantize(rows, GGMLQuantizationType(FORMATS[name]))


def quantize_activations(x: np.ndarray) -> np.ndarray:
    """The activations x [m, k] after rounding to int8 by groups of 32."""
    groups = x.astype(np.float32).reshape(x.shape[0], -1, 32)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    inverse = np.where(largest < 1e-36, 0, np.float32(127) / np.maximum(largest, np.float32(1e-36)))
    codes = np.rint(groups * inverse.astype(np.float32))
    return (codes * (largest / np.float32(127))).astype(np.float32).reshape(x.shape)


def prepared(name: str, x: np.ndarray) -> np.ndarray:
    """x as the products of format `name` see it."""
    if name in QUANTIZED:
        return quantize_activations(x)
    return from_bf16(to_bf16(x)) if name == "bf16" else x


def product(name: str, rows: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y [m, n] in float64, and how far from it a float32 sum in any order may be."""
    w = weights(name, rows).astype(np.float64)
    seen = prepared(name, x).astype(np.float64)
    # A minimum and its codes can cancel, so what counts is the size of the terms that are added.
    spread = np.abs(w).max(axis=-1, initial=0) * 4
    tolerance = 5e-8 * np.sqrt(x.shape[1]) * (np.abs(seen).sum(axis=-1, keepdims=True) * spread + 1e-30)
    return seen @ w.T, tolerance


def product_widened(name: str, rows: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same, where weights and activations are both rounded to bf16 on the way: AMX, from 32 rows on.

    Weights that lie between two bf16 may be rounded the other way, being multiplied in another order: a tolerance for four.
    """
    w = from_bf16(to_bf16(weights(name, rows))).astype(np.float64)
    seen = from_bf16(to_bf16(x)).astype(np.float64)
    flipped = 4 * 2**-8 * np.abs(seen).max(axis=-1, keepdims=True) * np.abs(w).max(axis=-1)
    tolerance = 5e-8 * np.sqrt(x.shape[1]) * (np.abs(seen) @ np.abs(w).T)
    return seen @ w.T, tolerance + flipped
