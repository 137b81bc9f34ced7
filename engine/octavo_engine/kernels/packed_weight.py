"""A matrix of four- or eight-bit numbers, laid out as matrix instructions take it from memory.

Owns the layout and what is done to it without widening: cutting, padding, moving. Numbers come from `packing` or
`reference_quantized`, which also widens them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from octavo_models.formats import SUPER_BLOCK, super_blocks


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """w[n, k] = scale[g, n] * (q[n, k] - zero) + minimum[g, n], g = k // group.

    zero is 8 for four bits without minima, 0 for four bits with them, 128 for eight bits.

    quants: int32 words in the order of k. Four bits: word w of a run of 32 elements (w = 0 … 3) holds element
    8 * i + 2 * w + j at bit 4 * i + 16 * j (i = 0 … 3, j = 0, 1). Eight bits: word w of a run of 16 (w = 0 … 3) holds
    element 8 * i + 2 * w + j in byte 2 * i + j. So a thread of a matrix instruction, which takes elements
    2 * w, 2 * w + 1, 2 * w + 8 and 2 * w + 9 of a run of 16, needs no word but w.

    scales, without `supers`: float16 scales, or, with minima, int32: the float16 scale, above it the float16 minimum.
    With supers, as the K formats have them: int8 numbers of which scale is super * number, or, with minima, int16: two
    unsigned bytes a, b (a the low one), and an int32 super of two float16, s and t (s the low one): scale = s * a,
    minimum = -t * b. Group g has super (g + shift) // (256 / group).
    """

    bits: int
    quants: Tensor  # [out, in * bits / 32] int32
    scales: Tensor  # [in / group, out]
    supers: Tensor | None  # [super blocks that the columns touch, out]
    has_minima: bool
    group: int  # 32; 16 with eight bits alone
    shift: int = 0  # groups of the first super block that were cut off
    settled: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The operations' findings for a product with this weight, which they need not look for again."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.quants.shape[0], self.quants.shape[1] * 32 // self.bits

    @property
    def scale_dtype(self) -> torch.dtype:
        if self.supers is None:
            return torch.int32 if self.has_minima else torch.float16
        return torch.int16 if self.has_minima else torch.int8

    @property
    def super_dtype(self) -> torch.dtype:
        return torch.int32 if self.has_minima else torch.float16

    @property
    def zero(self) -> int:
        return 128 if self.bits == 8 else 0 if self.has_minima else 8

    @property
    def layout(self) -> tuple[object, ...]:
        """Equal for matrices whose rows can be stacked."""
        return self.bits, self.group, self.has_minima, self.supers is None, self.shift, self.shape[1]

    @property
    def nbytes(self) -> int:
        return self.quants.nbytes + self.scales.nbytes + (0 if self.supers is None else self.supers.nbytes)

    def map(self, change: Callable[[Tensor], Tensor]) -> PackedWeight:
        """A weight with the same done to each of its tensors."""
        supers = None if self.supers is None else change(self.supers)
        return replace(self, quants=change(self.quants), scales=change(self.scales), supers=supers)

    def rows(self, rows: Tensor | slice) -> PackedWeight:
        """A weight of the given rows alone, as an index or a slice chooses them."""
        supers = None if self.supers is None else self.supers[:, rows]
        return replace(self, quants=self.quants[rows], scales=self.scales[:, rows], supers=supers)

    def columns(self, first: int, last: int) -> PackedWeight:
        """Columns `first` … `last` - 1, multiples of 32, as tensors of their own."""
        assert first % 32 == last % 32 == 0, "a cut goes through no group"
        if (first, last) == (0, self.shape[1]):
            return self
        quants = self.quants[:, first * self.bits // 32 : last * self.bits // 32].contiguous()
        scales = self.scales[first // self.group : last // self.group].contiguous()
        if self.supers is None:
            return replace(self, quants=quants, scales=scales)
        at = first + self.shift * self.group
        supers = self.supers[at // SUPER_BLOCK :][: super_blocks(last - first)]
        # As many wherever the cut begins: what a rank holds depends on the size of its part alone.
        supers = pad(supers, (0, 0, 0, super_blocks(last - first) - len(supers))).contiguous()
        return replace(self, quants=quants, scales=scales, supers=supers, shift=at % SUPER_BLOCK // self.group)

    def padded_rows(self, missing: int) -> PackedWeight:
        """A weight with `missing` rows of zeros below."""
        if not missing:
            return self
        supers = None if self.supers is None else pad(self.supers, (0, missing))
        return replace(
            self, quants=pad(self.quants, (0, 0, 0, missing)), scales=pad(self.scales, (0, missing)), supers=supers
        )

    @staticmethod
    def stacked(matrices: list[PackedWeight]) -> PackedWeight:
        """The rows of matrices of one layout."""
        supers = [matrix.supers for matrix in matrices if matrix.supers is not None]
        return replace(
            matrices[0],
            quants=torch.cat([matrix.quants for matrix in matrices]),
            scales=torch.cat([matrix.scales for matrix in matrices], 1),
            supers=torch.cat(supers, 1) if supers else None,
        )


def to_words(quants: Tensor, bits: int) -> Tensor:
    """Stored numbers [out, in] uint8 (0 … 15 for four bits) as the words of `PackedWeight.quants`."""
    out = quants.shape[0]
    if bits == 8:
        runs = quants.reshape(out, -1, 2, 4, 2).transpose(2, 3)  # i, word, j -> word, i, j
    else:
        runs = quants.reshape(out, -1, 2, 2, 4, 2)  # two i of a byte each, word, j
        runs = (runs[:, :, :, 0] | runs[:, :, :, 1] << 4).permute(0, 1, 3, 4, 2)  # -> word, j, byte of j
    return runs.reshape(out, -1).contiguous().view(torch.int32)


def from_words(words: Tensor, bits: int) -> Tensor:
    """The inverse of `to_words`."""
    out = words.shape[0]
    numbers = words.contiguous().view(torch.uint8)
    if bits == 8:
        return numbers.reshape(out, -1, 4, 2, 2).transpose(2, 3).reshape(out, -1)
    numbers = numbers.reshape(out, -1, 4, 2, 2).permute(0, 1, 4, 2, 3)  # word, j, byte of j -> byte of j, word, j
    return torch.stack((numbers & 15, numbers >> 4), 3).reshape(out, -1)


def pair(low: Tensor, high: Tensor) -> Tensor:
    """Two tensors of one type side by side in integers twice as wide: `low` in the low bits."""
    wide = {torch.float16: torch.int32, torch.uint8: torch.int16}[low.dtype]
    return torch.stack((low, high), -1).view(wide)[..., 0]


def halves(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `pair`."""
    narrow = {torch.int32: torch.float16, torch.int16: torch.uint8}[pairs.dtype]
    low, high = pairs.contiguous().unsqueeze(-1).view(narrow).unbind(-1)
    return low, high
