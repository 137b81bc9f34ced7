"""Packs a file's quantized blocks as a `PackedWeight`: every number stays what the file says, four bits stay four bits.

Owns which format becomes what: 4-bit formats stay packed, the 5-, 6- and 8-bit ones take eight bits, as words hold
whole ones. Layouts of blocks are those of `weights.dequantize`. And what is done with a file's weights beside products,
packed or not: stacking them, and looking rows up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from octavo_engine.kernels.packed_weight import PackedWeight, pair, to_words
from octavo_engine.kernels.reference_quantized import unpack
from octavo_models.formats import FORMATS

Stored = Tensor | PackedWeight  # what a weight of a file becomes
ELEMENTS_AT_ONCE = 1 << 24  # unpacked to a byte each while they change places


@dataclass(frozen=True, slots=True)
class Parts:
    """Blocks taken apart: each tensor is [num_blocks, …]. As `PackedWeight` has them, rows first."""

    bits: int
    quants: Tensor  # [num_blocks, block_size] uint8
    scales: Tensor  # [num_blocks, groups]
    supers: Tensor | None = None  # [num_blocks, 1]
    has_minima: bool = False


def pack_blocks(format_: str, data: Tensor) -> PackedWeight:
    """data: [out, bytes of a row] uint8, in any format of PACKERS."""
    step = max(1, ELEMENTS_AT_ONCE // (data.shape[1] // FORMATS[format_].bytes_per_block * FORMATS[format_].block_size))
    if data.shape[0] <= step:
        return _packed(format_, data)
    return PackedWeight.stacked([_packed(format_, rows) for rows in torch.split(data, step)])


def _packed(format_: str, data: Tensor) -> PackedWeight:
    out = data.shape[0]
    parts = PACKERS[format_](data.reshape(-1, FORMATS[format_].bytes_per_block))

    def by_column(numbers: Tensor) -> Tensor:
        return numbers.reshape(out, -1).T.contiguous()

    return PackedWeight(
        parts.bits,
        to_words(parts.quants.reshape(out, -1), parts.bits),
        by_column(parts.scales),
        None if parts.supers is None else by_column(parts.supers),
        parts.has_minima,
        parts.quants.shape[1] // parts.scales.shape[1],
    )


def stacked(matrices: Sequence[Stored]) -> list[Stored]:
    """The rows of `matrices` in their order, in as few as can be: neighbours that are laid out alike become one."""
    return [_joined(list(alike)) for _, alike in groupby(matrices, _layout)]


def _layout(matrix: Stored) -> tuple[object, ...]:
    return () if isinstance(matrix, Tensor) else matrix.layout


def _joined(alike: list[Stored]) -> Stored:
    if len(alike) == 1:
        return alike[0]
    packed = [matrix for matrix in alike if isinstance(matrix, PackedWeight)]
    return PackedWeight.stacked(packed) if packed else torch.cat([m for m in alike if isinstance(m, Tensor)])


def rows_of(matrix: Stored, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """rows: [n] int64 -> [n, in] in `dtype`. No other row of a packed matrix is widened, and nothing read back."""
    if isinstance(matrix, Tensor):
        return matrix[rows].to(dtype)
    return unpack(matrix.rows(rows)).to(dtype)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of each block: [num_blocks, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16)


def _nibbles(packed: Tensor) -> Tensor:
    """Low nibbles of all bytes, then high ones: [..., n] -> [..., 2n]."""
    return torch.cat((packed & 0xF, packed >> 4), -1)


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """The 32 bits at byte `at` of each block, as 0 or 16: [num_blocks, 32]."""
    bits = torch.arange(8, device=blocks.device, dtype=torch.uint8)
    return (blocks[:, at : at + 4, None] >> bits & 1).flatten(1) << 4


def _q4_0(blocks: Tensor) -> Parts:
    return Parts(4, _nibbles(blocks[:, 2:]), _half(blocks, 0))


def _q4_1(blocks: Tensor) -> Parts:
    return Parts(4, _nibbles(blocks[:, 4:]), _halves(blocks), has_minima=True)


def _q5_0(blocks: Tensor) -> Parts:
    return Parts(8, (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)) + (128 - 16), _half(blocks, 0))


def _q5_1(blocks: Tensor) -> Parts:
    quants = (_nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)) + 128
    return Parts(8, quants, _halves(blocks), has_minima=True)


def _q8_0(blocks: Tensor) -> Parts:
    return Parts(8, blocks[:, 2:] ^ 0x80, _half(blocks, 0))


def _halves(blocks: Tensor) -> Tensor:
    """The two float16 at the front of each block, as one number: [num_blocks, 1] int32."""
    return blocks[:, :4].contiguous().view(torch.int32)


def _k_scales(blocks: Tensor) -> Tensor:
    """Scales and minima of six bits of a K block's eight groups, a byte each: [num_blocks, 8] int16."""
    first, second, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((first & 0x3F, (high & 0xF) | (first >> 6) << 4), -1)
    minima = torch.cat((second & 0x3F, (high >> 4) | (second >> 6) << 4), -1)
    return pair(scales, minima)


def _k_nibbles(packed: Tensor) -> Tensor:
    """128 bytes hold eight groups of 32, two to 32 bytes: [num_blocks, 8, 32]."""
    return _nibbles(packed.reshape(-1, 4, 32)).reshape(-1, 8, 32)


def _q4_k(blocks: Tensor) -> Parts:
    return Parts(4, _k_nibbles(blocks[:, 16:144]).flatten(1), _k_scales(blocks), _halves(blocks), has_minima=True)


def _q5_k(blocks: Tensor) -> Parts:
    group = torch.arange(8, device=blocks.device, dtype=torch.uint8)[None, :, None]
    fifth = (blocks[:, None, 16:48] >> group & 1) << 4
    quants = (_k_nibbles(blocks[:, 48:176]) | fifth) + 128
    return Parts(8, quants.flatten(1), _k_scales(blocks), _halves(blocks), has_minima=True)


def _q6_k(blocks: Tensor) -> Parts:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64))
    shifts = torch.arange(0, 8, 2, device=blocks.device, dtype=torch.uint8)[None, None, :, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3).reshape(-1, 2, 128)
    scales = blocks[:, 192:208].contiguous().view(torch.int8)
    return Parts(8, ((low | high << 4) + (128 - 32)).flatten(1), scales, _half(blocks, 208))


PACKERS: dict[str, Callable[[Tensor], Parts]] = {
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
}
