"""The end of a model that pools: a vector of each prompt, through its dense layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu

from octavo_engine.executors.torch.linear import Linear, Matrices, Vectors
from octavo_engine.executors.torch.norms import NormWeights
from octavo_engine.kernels.operations import Operations
from octavo_models.pooling import DenseActivation, Pooling


class Pooler:
    """A pooling with the weights of its dense layers, which compute in the model's `dtype`."""

    def __init__(self, spec: Pooling, matrix: Matrices, vector: Vectors, dtype: torch.dtype) -> None:
        self._spec = spec
        self._dtype = dtype
        self._dense = [Linear.of(matrix, vector, [f"dense_{i}"], bias=dense.bias) for i, dense in enumerate(spec.dense)]
        self._norms = [
            None if dense.norm is None else NormWeights.of(dense.norm, f"dense_{i}_norm", vector)
            for i, dense in enumerate(spec.dense)
        ]

    def __call__(self, ops: Operations, hidden: Tensor, starts: Tensor) -> Tensor:
        """hidden: [num_tokens, hidden_size], normed; starts as in `Operations.pool` -> [n, size] float32."""
        pooled = ops.pool(hidden, starts, self._spec.kind)
        for dense, linear, norm in zip(self._spec.dense, self._dense, self._norms, strict=True):
            x = _activated(linear(ops, pooled.to(self._dtype)), dense.activation)
            pooled = (x if norm is None else norm(ops, x)).float()
        return pooled


def _activated(x: Tensor, kind: DenseActivation) -> Tensor:
    match kind:
        case "none":
            return x
        case "tanh":
            return x.tanh()
        case "relu":
            return x.relu()
        case "silu":
            return torch.nn.functional.silu(x)
        case _:
            return gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")
