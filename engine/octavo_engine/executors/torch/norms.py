"""A norm with what it needs to run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from octavo_engine.executors.torch.linear import Vectors
from octavo_engine.kernels.operations import Operations
from octavo_models.layers import Norm


@dataclass(frozen=True, slots=True)
class NormWeights:
    """A norm of rows."""

    spec: Norm
    weight: Tensor | None  # [dim]
    bias: Tensor | None

    @classmethod
    def of(cls, spec: Norm, name: str, vector: Vectors) -> NormWeights:
        """Takes the weights of the norm called `name`."""
        if not spec.weight:
            return cls(spec, None, None)
        return cls(spec, vector(name), vector(f"{name}_bias") if spec.bias else None)

    def __call__(self, ops: Operations, x: Tensor) -> Tensor:
        """x: [num_tokens, dim] -> as x."""
        return ops.norm(x, self.weight, self.spec, self.bias)
