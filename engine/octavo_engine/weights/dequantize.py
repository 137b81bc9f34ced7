"""Widens tensors to float32, from each format that is stored. Plain numpy: the twin of the native kernels.

Layouts of the quantized blocks are those of llama.cpp's ggml-common.h; each function takes blocks
[num_blocks, bytes_per_block] and gives [num_blocks, block_size].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from octavo_models.formats import FORMATS

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def dequantize(format_: str, data: Bytes) -> Floats:
    """float32 [rows, columns] of `data` [rows, bytes of a row]."""
    f = FORMATS[format_]
    contiguous = np.ascontiguousarray(data)
    if format_ in PLAIN:
        return PLAIN[format_](contiguous)
    blocks = contiguous.reshape(-1, f.bytes_per_block)
    return BLOCKS[format_](blocks).reshape(data.shape[0], -1)


def _f32(data: Bytes) -> Floats:
    return data.view(np.float32)


def _f16(data: Bytes) -> Floats:
    return data.view(np.float16).astype(np.float32)


def _bf16(data: Bytes) -> Floats:
    return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _half(blocks: Bytes, at: int) -> Floats:
    """The f16 at byte `at` of each block, [num_blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low nibbles of all bytes, then high nibbles: [..., n] → [..., 2n]."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=-1)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """The 32 bits at byte `at` of each block, as 0 or 16."""
    return np.unpackbits(blocks[:, at : at + 4], axis=-1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    quants = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _half(blocks, 0) * (quants.astype(np.float32) - 16)


def _q5_1(blocks: Bytes) -> Floats:
    quants = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _half(blocks, 0) * quants.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _k_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight 6-bit scales and minima that K blocks pack into 12 bytes: [num_blocks, 8] each."""
    first, second, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 0x3F, (high & 0x0F) | (first >> 6) << 4], axis=-1)
    minima = np.concatenate([second & 0x3F, (high >> 4) | (second >> 6) << 4], axis=-1)
    return scales, minima


def _k_floats(blocks: Bytes, quants: Bytes) -> Floats:
    """`quants` [num_blocks, 8, 32] with the block's scales and minima."""
    scales, minima = _k_scales(blocks[:, 4:16])
    scale = (_half(blocks, 0) * scales.astype(np.float32))[:, :, None]
    minimum = (_half(blocks, 2) * minima.astype(np.float32))[:, :, None]
    return (scale * quants.astype(np.float32) - minimum).reshape(-1, 256)


def _k_nibbles(packed: Bytes) -> Bytes:
    """128 bytes hold eight groups of 32: low nibbles of 32 bytes, then their high ones. [num_blocks, 8, 32]."""
    return _nibbles(packed.reshape(-1, 4, 32)).reshape(-1, 8, 32)


def _q4_k(blocks: Bytes) -> Floats:
    return _k_floats(blocks, _k_nibbles(blocks[:, 16:144]))


def _q5_k(blocks: Bytes) -> Floats:
    # Bit g of byte i is the fifth bit of element i of group g.
    shifts = np.arange(8, dtype=np.uint8)[None, :, None]
    fifth = ((blocks[:, None, 16:48] >> shifts) & np.uint8(1)) << np.uint8(4)
    return _k_floats(blocks, _k_nibbles(blocks[:, 48:176]) | fifth)


def _q6_k(blocks: Bytes) -> Floats:
    # Two halves of 128 elements: 64 bytes of low nibbles (low ones of all, then high ones), 32 bytes of four 2-bit parts.
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64))
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[None, None, :, None]
    high = ((blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 2, 128)
    quants = (low | high << 4).reshape(-1, 16, 16).astype(np.float32) - 32
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return (scales[:, :, None] * quants).reshape(-1, 256)


PLAIN: dict[str, Callable[[Bytes], Floats]] = {"f32": _f32, "f16": _f16, "bf16": _bf16}
BLOCKS: dict[str, Callable[[Bytes], Floats]] = {
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
}
