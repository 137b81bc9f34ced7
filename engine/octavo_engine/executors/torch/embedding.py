"""The parts before the layers: from a step's tokens and positions to rows of the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from octavo_engine.executors.torch.linear import Matrices, Vectors
from octavo_engine.executors.torch.norms import NormWeights
from octavo_engine.executors.torch.parallel import Parallel
from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.packing import Stored, rows_of
from octavo_models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Embedding:
    """Rows of a table, scaled, brought to the model's width, moved by what their positions add, and normed."""

    table: Stored  # [rows of the vocabulary that this rank holds, width]; packed, rows are widened when looked up
    dtype: torch.dtype
    multiplier: float
    project_in: Stored | None  # [hidden, width]
    positions: Stored | None  # [count, hidden]
    offset: int
    token_types: Stored | None  # [count, hidden]
    norm: NormWeights | None

    @classmethod
    def of(cls, spec: ModelSpec, table: Stored, dtype: torch.dtype, matrix: Matrices, vector: Vectors) -> Embedding:
        """Takes the weights that precede the layers."""
        norm = spec.embedding_norm
        return cls(
            table,
            dtype,
            float(torch.tensor(spec.embedding_multiplier, dtype=dtype)),  # so the model multiplies by it
            matrix("project_in") if spec.projected_embedding is not None else None,
            matrix("positions") if spec.positions is not None else None,
            0 if spec.positions is None else spec.positions.offset,
            matrix("token_types") if spec.token_types else None,
            None if norm is None else NormWeights.of(norm, "embedding_norm", vector),
        )

    def __call__(
        self,
        ops: Operations,
        parallel: Parallel,
        token_ids: Tensor,
        positions: Tensor,
        token_types: Tensor | None = None,
    ) -> Tensor:
        """token_ids, positions, token_types (None: all 0): [num_tokens] int64 -> [num_tokens, hidden]."""
        x = parallel.embed(self.table, token_ids, self.dtype)
        if self.multiplier != 1.0:
            x = x * self.multiplier
        if self.project_in is not None:
            x = ops.matmul(x, self.project_in)
        if self.positions is not None:
            x = x + rows_of(self.positions, positions + self.offset, self.dtype)
        if self.token_types is not None:
            types = torch.zeros_like(token_ids) if token_types is None else token_types
            x = x + rows_of(self.token_types, types, self.dtype)
        return x if self.norm is None else self.norm(ops, x)
