"""Projections of the same input as one or a few products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from octavo_engine.kernels.adapter_weights import AdapterRows, AdapterWeights
from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.packing import Stored, stacked

Matrices = Callable[[str], Stored]  # canonical name -> matrix, handed over
Vectors = Callable[[str], Tensor]
Adapted = Callable[
    [tuple[str, ...]], AdapterWeights | None
]  # canonical names -> what adapters may add to their product


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weightᵀ + bias`, several projections of the same input: one product for those that are stored alike."""

    parts: tuple[tuple[Stored, Tensor | None], ...]  # [out, in], [out]; results lie side by side
    adapted: AdapterWeights | None = None

    @classmethod
    def of(
        cls, matrix: Matrices, vector: Vectors, names: Sequence[str], *, bias: bool, adapted: Adapted = lambda _: None
    ) -> Linear:
        """Takes the weights of `names`, and their biases, in this order."""
        matrices = stacked([matrix(name) for name in names])
        slots = adapted(tuple(names))
        if not bias:
            return cls(tuple((m, None) for m in matrices), slots)
        biases = torch.cat([vector(f"{name}_bias") for name in names])
        return cls(tuple(zip(matrices, torch.split(biases, [m.shape[0] for m in matrices]), strict=True)), slots)

    def __call__(self, ops: Operations, x: Tensor, adapters: AdapterRows | None = None) -> Tensor:
        """x: [num_tokens, in] -> [num_tokens, out of all projections], with what the adapters of `adapters` add."""
        if len(self.parts) == 1:
            weight, bias = self.parts[0]
            y = ops.matmul(x, weight, bias)
        else:
            y = torch.cat([ops.matmul(x, weight, bias) for weight, bias in self.parts], -1)
        if adapters is not None and self.adapted is not None:
            ops.add_adapters(y, x, self.adapted, adapters)
        return y
