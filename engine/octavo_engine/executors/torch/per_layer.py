"""The inputs that each layer has of a token alone: an embedding of all layers together, and what a layer makes of its part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from octavo_engine.executors.torch.linear import Linear, Matrices, Vectors
from octavo_engine.executors.torch.norms import NormWeights
from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.packing import Stored, rows_of
from octavo_models.layers import PerLayerInput
from octavo_models.spec import PerLayerEmbedding


@dataclass(frozen=True, slots=True)
class PerLayerEmbeddingWeights:
    """A step's per-layer inputs, made before the first layer."""

    spec: PerLayerEmbedding
    table: Stored  # [count, layers * size]
    projection: Linear
    norm: NormWeights
    multiplier: float

    @classmethod
    def of(
        cls, spec: PerLayerEmbedding, dtype: torch.dtype, matrix: Matrices, vector: Vectors
    ) -> PerLayerEmbeddingWeights:
        """Takes the weights."""
        return cls(
            spec,
            matrix("per_layer_embedding"),
            Linear.of(matrix, vector, ["per_layer_projection"], bias=False),
            NormWeights.of(spec.norm, "per_layer_norm", vector),
            float(torch.tensor(math.sqrt(spec.size), dtype=dtype)),  # so the model multiplies by it
        )

    def __call__(self, ops: Operations, x: Tensor, token_ids: Tensor) -> Tensor:
        """x: [num_tokens, hidden], what the first layer reads; token_ids: [num_tokens] -> [num_tokens, layers, size]."""
        known = torch.where(token_ids < self.spec.count, token_ids, 0)
        rows = rows_of(self.table, known, x.dtype) * self.multiplier
        made = self.projection(ops, x) * x.shape[1] ** -0.5
        normed = self.norm(ops, made.view(-1, self.spec.size)).view_as(rows)
        together: Tensor = (normed + rows) * 2.0**-0.5
        return together.view(len(x), -1, self.spec.size)


@dataclass(frozen=True, slots=True)
class PerLayerWeights:
    """The weights of what a layer adds last."""

    spec: PerLayerInput
    gate: Linear
    out: Linear
    norm: NormWeights

    @classmethod
    def of(cls, spec: PerLayerInput, at: str, matrix: Matrices, vector: Vectors) -> PerLayerWeights:
        """Takes the weights whose names begin with `at`."""
        return cls(
            spec,
            Linear.of(matrix, vector, [f"{at}per_layer_gate"], bias=False),
            Linear.of(matrix, vector, [f"{at}per_layer_out"], bias=False),
            NormWeights.of(spec.norm, f"{at}post_per_layer_norm", vector),
        )

    def __call__(self, ops: Operations, x: Tensor, own: Tensor) -> Tensor:
        """x: [num_tokens, hidden]; own: [num_tokens, size], the layer's part -> as x."""
        gated = ops.activation(self.gate(ops, x), self.spec.activation) * own
        return self.norm(ops, self.out(ops, gated))
