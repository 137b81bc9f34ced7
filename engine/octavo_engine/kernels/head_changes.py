"""The changes to the heads of q and k before they meet, as operations take them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class HeadChanges:
    """The tensors that norm, turn and scale heads of q and k, where their `Attention` says so.

    Norms have numbers of one head, [head_dim_k], or of all heads, where each has its own or they span the width.
    """

    turn: tuple[Tensor, Tensor] | None = None  # of `rotary_table`
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    q_norm_bias: Tensor | None = None
    k_norm_bias: Tensor | None = None
    sums: Tensor | None = None  # of `head_sums`, all ranks' together, where norms span the width
    num_ranks: int = 1  # that `sums` are of
    scales: Tensor | None = None  # of `query_scales`
