"""Stored formats to float32, in plain torch: what the bytes of a quantized tensor mean.

The block layouts are GGML's (ggml/src/ggml-common.h of llama.cpp). Knows bytes only, not files or models.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from octavo_models.formats import FORMATS

PLAIN = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of each block: [num_blocks, 1], float32."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """[..., n] bytes -> [..., 2n]: all low nibbles, then all high ones."""
    return torch.cat((packed & 15, packed >> 4), -1)


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """The 32 bits of the little-endian word at byte `at`: [num_blocks, 32], each 0 or 16."""
    shifts = torch.arange(8, dtype=torch.uint8, device=blocks.device)
    bits = (blocks[:, at : at + 4, None] >> shifts) & 1  # [num_blocks, 4, 8]
    return bits.flatten(1) << 4


def _q4_0(b: Tensor) -> Tensor:
    return (_nibbles(b[:, 2:18]).float() - 8) * _half(b, 0)


def _q4_1(b: Tensor) -> Tensor:
    return _nibbles(b[:, 4:20]).float() * _half(b, 0) + _half(b, 2)


def _q5_0(b: Tensor) -> Tensor:
    return ((_nibbles(b[:, 6:22]) | _fifth_bits(b, 2)).float() - 16) * _half(b, 0)


def _q5_1(b: Tensor) -> Tensor:
    return (_nibbles(b[:, 8:24]) | _fifth_bits(b, 4)).float() * _half(b, 0) + _half(b, 2)


def _q8_0(b: Tensor) -> Tensor:
    return b[:, 2:34].view(torch.int8).float() * _half(b, 0)


def _k_scales(b: Tensor) -> tuple[Tensor, Tensor]:
    """The eight six-bit scales and minimums of bytes 4 … 15, times the block's own: each [num_blocks, 8]."""
    first, second, third = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scales = torch.cat((first & 63, (third & 15) | ((first >> 6) << 4)), -1)
    minimums = torch.cat((second & 63, (third >> 4) | ((second >> 6) << 4)), -1)
    return scales.float() * _half(b, 0), minimums.float() * _half(b, 2)


def _q4_k(b: Tensor) -> Tensor:
    scales, minimums = _k_scales(b)
    quants = _nibbles(b[:, 16:144].unflatten(1, (4, 32))).unflatten(2, (2, 32)).flatten(1, 2)  # [num_blocks, 8, 32]
    return (quants.float() * scales[:, :, None] - minimums[:, :, None]).flatten(1)


def _q5_k(b: Tensor) -> Tensor:
    scales, minimums = _k_scales(b)
    quants = _nibbles(b[:, 48:176].unflatten(1, (4, 32))).unflatten(2, (2, 32)).flatten(1, 2)
    shifts = torch.arange(8, dtype=torch.uint8, device=b.device)[:, None]
    fifth = ((b[:, None, 16:48] >> shifts) & 1) << 4  # bit j of byte l belongs to element l of group j
    return ((quants | fifth).float() * scales[:, :, None] - minimums[:, :, None]).flatten(1)


def _q6_k(b: Tensor) -> Tensor:
    low = b[:, 0:128].unflatten(1, (2, 64))  # two halves of 128 elements
    low = _nibbles(low).unflatten(2, (4, 32))  # [num_blocks, 2, 4, 32]
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=b.device)[:, None]
    high = (b[:, 128:192].unflatten(1, (2, 1, 32)) >> shifts) & 3
    quants = (low | (high << 4)).float() - 32
    scales = b[:, 192:208].view(torch.int8).float() * _half(b, 208)  # [num_blocks, 16]: one for 16 elements
    return (quants.flatten(1).unflatten(1, (16, 16)) * scales[:, :, None]).flatten(1)


_OF_FORMAT: dict[str, Callable[[Tensor], Tensor]] = {
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
}


def dequantize(data: Tensor, format_name: str, shape: tuple[int, ...]) -> Tensor:
    """Bytes of a tensor as stored, to float32.

    data: [num_bytes], uint8; `format_name`: a key of `octavo_models.formats.FORMATS`. Returns `shape`, float32.

    Raises:
        KeyError: a format that has no meaning here.
    """
    if format_name in PLAIN:
        return data.view(PLAIN[format_name]).view(shape).float()
    unpack = _OF_FORMAT[format_name]
    blocks = data.view(-1, FORMATS[format_name].bytes_per_block)
    assert blocks.shape[0] * FORMATS[format_name].block_size == prod(shape)
    return unpack(blocks).view(shape)
