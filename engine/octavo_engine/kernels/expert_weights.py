"""The experts of a layer as operations take them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from octavo_engine.kernels.packed_weight import PackedWeight


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """Matrices [num_held * out, in] and biases [num_held * out]: the rows of one expert after another's.

    `gate` is None where experts are not gated; else it is laid out as `up` is.
    """

    gate: Tensor | PackedWeight | None
    up: Tensor | PackedWeight
    down: Tensor | PackedWeight
    gate_bias: Tensor | None = None
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None
