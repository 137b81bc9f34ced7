"""From a file's quantized blocks to a `PackedWeight`: every number stays what the file says, four bits stay four bits.

Owns which format becomes what: 4-bit formats stay packed (and Q4_0, Q4_1 byte by byte), the 5-, 6- and 8-bit ones take
eight bits, as the card's loads want whole bytes. Layouts of blocks are those of `weights.dequantize`. And what is done
with a file's weights beside products, packed or not: stacking them, and looking rows up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from octavo_engine.kernels.operations import PackedWeight
from octavo_engine.kernels.reference_quantized import unpack
from octavo_models.formats import FORMATS

Stored = Tensor | PackedWeight  # what a weight of a file becomes
Parts = tuple[int, Tensor, Tensor, Tensor | None]  # bits, quants, scales, minima: each [num_blocks, …]


def pack_blocks(format_: str, data: Tensor) -> PackedWeight:
    """data: [out, bytes of a row] uint8, in any format of PACKERS."""
    out = data.shape[0]
    bits, quants, scales, minima = PACKERS[format_](data.reshape(-1, FORMATS[format_].bytes_per_block))
    scales = scales.reshape(out, -1)
    columns = quants.numel() // out * 8 // bits
    return PackedWeight(
        bits,
        quants.reshape(out, -1),
        scales,
        None if minima is None else minima.reshape(out, -1),
        columns // scales.shape[1],
    )


def stacked(matrices: Sequence[Stored]) -> list[Stored]:
    """The rows of `matrices` in their order, in as few as can be: neighbours that are laid out alike become one."""
    return [_joined(list(alike)) for _, alike in groupby(matrices, _layout)]


def _layout(matrix: Stored) -> tuple[object, ...]:
    if isinstance(matrix, Tensor):
        return ()
    return matrix.bits, matrix.group, matrix.scales.dtype, matrix.minima is None


def _joined(alike: list[Stored]) -> Stored:
    if len(alike) == 1:
        return alike[0]
    packed = [matrix for matrix in alike if isinstance(matrix, PackedWeight)]
    if not packed:
        return torch.cat([matrix for matrix in alike if isinstance(matrix, Tensor)])
    minima = [matrix.minima for matrix in packed if matrix.minima is not None]
    return PackedWeight(
        packed[0].bits,
        torch.cat([matrix.quants for matrix in packed]),
        torch.cat([matrix.scales for matrix in packed]),
        torch.cat(minima) if minima else None,
        packed[0].group,
    )


def rows_of(matrix: Stored, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """rows: [n] int64 -> [n, in] in `dtype`. No other row of a packed matrix is widened, and nothing read back."""
    if isinstance(matrix, Tensor):
        return matrix[rows].to(dtype)
    return unpack(matrix.map(lambda t: t[rows])).to(dtype)


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
    scales = _half(blocks, 0)
    return 4, blocks[:, 2:], scales, scales * -8


def _q4_1(blocks: Tensor) -> Parts:
    return 4, blocks[:, 4:], _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Parts:
    return 8, (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)) + (128 - 16), _half(blocks, 0), None


def _q5_1(blocks: Tensor) -> Parts:
    return 8, (_nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)) + 128, _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Parts:
    return 8, blocks[:, 2:] ^ 0x80, _half(blocks, 0), None


def _k_scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima of a K block's eight groups, float32 as the products of its 6-bit ones need: [num_blocks, 8]."""
    first, second, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((first & 0x3F, (high & 0xF) | (first >> 6) << 4), -1)
    minima = torch.cat((second & 0x3F, (high >> 4) | (second >> 6) << 4), -1)
    return _half(blocks, 0).float() * scales.float(), -(_half(blocks, 2).float() * minima.float())


def _k_nibbles(packed: Tensor) -> Tensor:
    """128 bytes hold eight groups of 32, two to 32 bytes: [num_blocks, 8, 32]."""
    return _nibbles(packed.reshape(-1, 4, 32)).reshape(-1, 8, 32)


def _q4_k(blocks: Tensor) -> Parts:
    groups = _k_nibbles(blocks[:, 16:144])
    return 4, groups[..., :16] | groups[..., 16:] << 4, *_k_scales(blocks)


def _q5_k(blocks: Tensor) -> Parts:
    group = torch.arange(8, device=blocks.device, dtype=torch.uint8)[None, :, None]
    fifth = (blocks[:, None, 16:48] >> group & 1) << 4
    return 8, (_k_nibbles(blocks[:, 48:176]) | fifth) + 128, *_k_scales(blocks)


def _q6_k(blocks: Tensor) -> Parts:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64))
    shifts = torch.arange(0, 8, 2, device=blocks.device, dtype=torch.uint8)[None, None, :, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3).reshape(-1, 2, 128)
    scales = _half(blocks, 208).float() * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return 8, (low | high << 4) + (128 - 32), scales, None


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
