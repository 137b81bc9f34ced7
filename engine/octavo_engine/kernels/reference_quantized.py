"""Weights of few bits in plain torch: packing, widening and products, the twin of the quantized kernels.

Owns how floats become few bits, and few bits floats. Layouts are `packed_weight`'s, files' own formats
`weights.dequantize`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor

from octavo_engine.kernels.operations import Float8Weight
from octavo_engine.kernels.packed_weight import PackedWeight, from_words, halves, pair, to_words
from octavo_models.formats import SUPER_BLOCK

FLOAT8_MAX = 448.0  # the largest float8_e4m3fn; torch's cast makes NaN of what is larger


def pack(quants: Tensor, scales: Tensor, minima: Tensor | None, *, bits: int) -> PackedWeight:
    """quants: [out, in], stored numbers (0 … 15 or 0 … 255); scales, minima: [out, in / group] float16."""
    group = quants.shape[1] // scales.shape[1]
    numbers = scales if minima is None else pair(scales, minima)
    return PackedWeight(
        bits, to_words(quants.to(torch.uint8), bits), numbers.T.contiguous(), None, minima is not None, group
    )


def quantize(weight: Tensor, *, bits: int, group: int = 32) -> PackedWeight:
    """Round a float matrix [out, in] to the nearest: eight bits symmetric, four bits with a minimum a group."""
    groups = weight.float().reshape(weight.shape[0], -1, group)  # [out, in / group, group]
    if bits == 8:
        scales = (groups.abs().amax(-1) / 127).half()
        quants = (groups / scales.float()[..., None]).round().nan_to_num().clamp(-127, 127) + 128
        return pack(quants.flatten(1), scales, None, bits=8)
    low, high = groups.amin(-1), groups.amax(-1)
    scales, minima = ((high - low) / 15).half(), low.half()
    quants = ((groups - minima.float()[..., None]) / scales.float()[..., None]).round().nan_to_num().clamp(0, 15)
    return pack(quants.flatten(1), scales, minima, bits=4)


def scales_of(weight: PackedWeight) -> tuple[Tensor, Tensor | None]:
    """Scales and minima, [in / group, out] float32 each, as the file's numbers give them."""
    if weight.supers is None:
        if not weight.has_minima:
            return weight.scales.float(), None
        scales, minima = halves(weight.scales)
        return scales.float(), minima.float()
    groups = torch.arange(weight.scales.shape[0], device=weight.scales.device)
    supers = weight.supers[(groups + weight.shift) // (SUPER_BLOCK // weight.group)]
    if not weight.has_minima:
        return supers.float() * weight.scales.float(), None
    (scale, minimum), (of_scale, of_minimum) = halves(weight.scales), halves(supers)
    return of_scale.float() * scale.float(), -(of_minimum.float() * minimum.float())


def unpack(weight: PackedWeight) -> Tensor:
    """The file's numbers: [out, in] float32."""
    scales, minima = scales_of(weight)
    groups: Tensor = _quants(weight) * scales.T[..., None]
    if minima is not None:
        groups = groups + minima.T[..., None]
    return groups.flatten(1)


def widen(weight: PackedWeight, dtype: torch.dtype) -> Tensor:
    """The matrix that products multiply by: [out, in] in `dtype`.

    Eight bits, and float32, are `unpack`'s numbers, rounded once. Four bits in 16-bit floats are made in them: centred
    at 8, with the scale s and what is in the middle, c = minimum + 8 s, rounded before, so that two elements take one
    instruction. A weight is off by at most u · (|(q - 8) s| + |c| + |w|), u being half a unit in the last place (2⁻⁹ for
    bfloat16, 2⁻¹² for float16), where rounding once is off by u · |w|.
    """
    if weight.bits == 8 or dtype == torch.float32:
        return unpack(weight).to(dtype)
    scales, minima = scales_of(weight)
    offset = 8 - weight.zero  # of q from the middle
    centres = torch.zeros_like(scales) if minima is None else minima + offset * scales
    groups = (_quants(weight) - offset) * scales.to(dtype).float().T[..., None]
    return (groups + centres.to(dtype).float().T[..., None]).to(dtype).flatten(1)


def _quants(weight: PackedWeight) -> Tensor:
    """[out, in / group, group] float32, zero at `weight.zero`."""
    out, columns = weight.shape
    stored = from_words(weight.quants, weight.bits).reshape(out, columns // weight.group, weight.group)
    return stored.float() - weight.zero


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
