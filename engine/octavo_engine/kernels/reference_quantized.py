"""Weights of few bits in plain torch: packing, widening and products, the twin of the quantized kernels.

Owns the layout of `PackedWeight` and how floats become float8. Files' own formats are `weights.dequantize`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.kernels.operations import Float8Weight, PackedWeight

FLOAT8_MAX = 448.0  # the largest float8_e4m3fn; torch's cast makes NaN of what is larger


def pack(quants: Tensor, scales: Tensor, minima: Tensor | None, *, bits: int) -> PackedWeight:
    """quants: [out, in], 0 … 15 for four bits, -128 … 127 for eight; scales, minima: [out, in / group]."""
    out, columns = quants.shape
    if bits == 8:
        return PackedWeight(8, (quants + 128).to(torch.uint8), scales, minima, columns // scales.shape[1])
    low, high = quants.to(torch.uint8).view(out, -1, 2, 16).unbind(2)  # [out, in / 32, 16] each
    return PackedWeight(4, (low | high << 4).flatten(1), scales, minima, columns // scales.shape[1])


def quantize(weight: Tensor, *, bits: int, group: int = 32, scale_dtype: torch.dtype = torch.float16) -> PackedWeight:
    """Round a float matrix [out, in] to the nearest: eight bits symmetric, four bits with a minimum a group."""
    groups = weight.float().reshape(weight.shape[0], -1, group)  # [out, in / group, group]
    if bits == 8:
        scales = (groups.abs().amax(-1) / 127).to(scale_dtype)
        quants = (groups / scales.float()[..., None]).round().nan_to_num().clamp(-127, 127)
        return pack(quants.flatten(1).to(torch.int16), scales, None, bits=8)
    low, high = groups.amin(-1), groups.amax(-1)
    scales, minima = ((high - low) / 15).to(scale_dtype), low.to(scale_dtype)
    quants = ((groups - minima.float()[..., None]) / scales.float()[..., None]).round().nan_to_num().clamp(0, 15)
    return pack(quants.flatten(1).to(torch.int16), scales, minima, bits=4)


def unpack(weight: PackedWeight) -> Tensor:
    """[out, in] float32."""
    if weight.bits == 8:
        quants = weight.quants.float() - 128
    else:
        halves = weight.quants.reshape(weight.shape[0], -1, 16)
        quants = torch.stack((halves & 0xF, halves >> 4), 2).flatten(1).float()
    groups: Tensor = quants.reshape(weight.shape[0], -1, weight.group) * weight.scales.float()[..., None]
    if weight.minima is not None:
        groups = groups + weight.minima.float()[..., None]
    return groups.flatten(1)


def quantize_rows_float8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's largest magnitude becomes 448. x: [n, k] -> float8_e4m3fn [n, k], scales [n] float32."""
    scales = (x.float().abs().amax(-1) / FLOAT8_MAX).clamp(min=1e-12)
    return (x.float() / scales[:, None]).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn), scales


def quantize_float8(weight: Tensor) -> Float8Weight:
    """weight: [out, in], float."""
    return Float8Weight(*quantize_rows_float8(weight))


def matmul_float8(x: Tensor, weight: Float8Weight) -> Tensor:
    """x: [n, in] -> [n, out] in x's dtype: both sides in float8, summed in float32, then scaled."""
    values, scales = quantize_rows_float8(x)
    product = values.float() @ weight.values.float().T
    return (product * scales[:, None] * weight.scales[None, :]).to(x.dtype)
