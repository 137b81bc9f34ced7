"""The second half of a layer: an MLP, or a mixture of experts and the expert that all tokens share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from octavo_engine.errors import ModelLoadError
from octavo_engine.executors.torch.linear import Linear, Matrices, Vectors
from octavo_engine.kernels.expert_weights import ExpertWeights
from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.packing import Stored
from octavo_models.layers import Experts, Mlp

XIELU_BETA = 0.5


@dataclass(frozen=True, slots=True)
class MlpWeights:
    """An MLP; `up` is [gate; up] where it is gated."""

    spec: Mlp
    up: Linear
    down: Linear
    learned: tuple[Tensor, Tensor] | None = None  # of xielu, [1] float32 each: as it multiplies by them

    @classmethod
    def of(cls, spec: Mlp, prefix: str, matrix: Matrices, vector: Vectors) -> MlpWeights:
        """Takes the weights whose names begin with `prefix`."""
        ups = [f"{prefix}{name}" for name in (("gate", "up") if spec.gated else ("up",))]
        up = Linear.of(matrix, vector, ups, bias=spec.bias)
        down = Linear.of(matrix, vector, [f"{prefix}down"], bias=spec.bias or spec.down_bias)
        return cls(spec, up, down, _learned(prefix, vector) if spec.activation == "xielu" else None)

    def __call__(self, ops: Operations, x: Tensor) -> Tensor:
        """x: [num_tokens, hidden], normed -> as x; of a rank of several, its part of the sum."""
        return self.down(ops, self._inner(ops, self.up(ops, x)))

    def _inner(self, ops: Operations, up: Tensor) -> Tensor:
        if self.learned is not None:
            return ops.xielu(up, *self.learned)
        return ops.gated(up, self.spec.activation) if self.spec.gated else ops.activation(up, self.spec.activation)


@dataclass(frozen=True, slots=True)
class ExpertsWeights:
    """A mixture of experts."""

    spec: Experts
    router: Linear
    correction: Tensor | None  # [num_experts]
    experts: ExpertWeights
    shared: MlpWeights | None
    shared_router: Linear | None  # of one row: how much of the shared expert a token takes

    @classmethod
    def of(cls, spec: Experts, prefix: str, matrix: Matrices, vector: Vectors) -> ExpertsWeights:
        """Takes the weights whose names begin with `prefix`.

        Raises:
            ModelLoadError: gate and up are stored in different formats of few bits.
        """
        router, shared = spec.router, spec.shared
        return cls(
            spec,
            Linear.of(matrix, vector, [f"{prefix}router"], bias=router.bias),
            vector(f"{prefix}router_correction") if router.correction else None,
            _experts(spec.expert, f"{prefix}experts_", matrix, vector),
            None if shared is None else MlpWeights.of(shared, f"{prefix}shared_", matrix, vector),
            Linear.of(matrix, vector, [f"{prefix}shared_router"], bias=False) if spec.shared_gate else None,
        )

    def __call__(self, ops: Operations, x: Tensor) -> Tensor:
        """x: [num_tokens, hidden], normed -> as x; of a rank of several, its part of the sum."""
        spec = self.spec
        logits = self.router(ops, x)
        chosen, shares = ops.route(logits, spec.router, spec.num_experts_per_token, self.correction)
        mixed = ops.experts(x, chosen, shares, self.experts, spec)
        if self.shared is None:
            return mixed
        always = self.shared(ops, x)
        if self.shared_router is not None:
            always *= torch.sigmoid(self.shared_router(ops, x))
        return mixed.add_(always)


def feed_forward(spec: Mlp | Experts, prefix: str, matrix: Matrices, vector: Vectors) -> MlpWeights | ExpertsWeights:
    """The weights of a layer's second half, taken."""
    if isinstance(spec, Experts):
        return ExpertsWeights.of(spec, prefix, matrix, vector)
    return MlpWeights.of(spec, prefix, matrix, vector)


def _learned(prefix: str, vector: Vectors) -> tuple[Tensor, Tensor]:
    """A checkpoint has what a softplus makes of it."""
    positive, negative = (softplus(vector(f"{prefix}xielu_{name}").float()) for name in ("positive", "negative"))
    return positive, negative + XIELU_BETA


def _experts(spec: Mlp, prefix: str, matrix: Matrices, vector: Vectors) -> ExpertWeights:
    def bias(name: str) -> Tensor | None:
        return vector(f"{prefix}{name}_bias") if spec.bias else None

    gate = matrix(f"{prefix}gate") if spec.gated else None
    gate_bias = bias("gate") if spec.gated else None
    up, down = matrix(f"{prefix}up"), matrix(f"{prefix}down")
    if gate is not None and _layout(gate) != _layout(up):
        raise ModelLoadError(
            f"{prefix}gate and {prefix}up are quantized in different ways, which experts are not multiplied in; choose "
            "another file of this model, or widen it with --dtype bfloat16"
        )
    return ExpertWeights(gate, up, down, gate_bias, bias("up"), bias("down"))


def _layout(matrix: Stored) -> tuple[object, ...] | None:
    return matrix.layout if isinstance(matrix, PackedWeight) else None
