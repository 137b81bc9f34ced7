"""Low-rank adapters as kernels take them: the slots of one product's matrices, and which rows of a step use which slot."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """All slots' matrices for one product, of one or several projections (parts) of the same input.

    Slots lie apart, each is dense. A part of a lower rank than there is room for has zeros beyond it.
    """

    a: Tensor  # [num_slots, num_parts * rank, in]
    b: Tensor  # [num_slots, out of all parts, rank]
    sizes: tuple[int, ...]  # rows of `b` of each part
    ranks: Tensor  # [num_slots] int32: the highest of the parts; 0: the slot has nothing for this product

    @property
    def rank(self) -> int:
        """The rank that there is room for."""
        return self.b.shape[2]


@dataclass(frozen=True, slots=True)
class AdapterRows:
    """The rows of a step that use an adapter, by slot. Others cost nothing: they are in no tile."""

    order: Tensor  # [num_adapted] int32: numbers of rows, those of one slot together
    tiles: Tensor  # [3, num_tiles] int32: slot (-1: an empty tile), first place in `order`, one past its last
    tile_rows: int  # the most rows of a tile
