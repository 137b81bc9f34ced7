"""Converts between float32 arrays and the bytes of the plain formats: f32, f16, bf16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_format(values: NDArray[np.float32], format_: str) -> NDArray[np.uint8]:
    """`values` as bytes in `format_`, rounded to nearest, ties to even. uint8, [..., bytes of the last axis]."""
    if format_ == "bf16":
        return bfloat16_bits(values).view(np.uint8)
    dtype = {"f32": np.float32, "f16": np.float16}[format_]
    return np.ascontiguousarray(values, dtype).view(np.uint8)


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
