"""The second half of a layer: an MLP, or a mixture of experts and the expert that all tokens share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from octavo_engine.errors import ModelLoadError
from octavo_engine.executors.torch.linear import Adapted, Linear, Matrices, Vectors
from octavo_engine.executors.torch.norms import NormWeights
from octavo_engine.executors.torch.parallel import Parallel
from octavo_engine.kernels.adapter_weights import AdapterRows
from octavo_engine.kernels.expert_weights import ExpertWeights
from octavo_engine.kernels.operations import Operations
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.packing import Stored
from octavo_models.layers import BesideMlp, Experts, Mlp

XIELU_BETA = 0.5


@dataclass(frozen=True, slots=True)
class MlpWeights:
    """An MLP; `up` is [gate; up] where it is gated."""

    spec: Mlp
    up: Linear
    down: Linear
    parallel: Parallel
    learned: tuple[Tensor, Tensor] | None = None  # of xielu, [1] float32 each: as it multiplies by them

    @classmethod
    def of(
        cls,
        spec: Mlp,
        prefix: str,
        matrix: Matrices,
        vector: Vectors,
        parallel: Parallel,
        adapted: Adapted = lambda _: None,
    ) -> MlpWeights:
        """Takes the weights whose names begin with `prefix`."""
        ups = [f"{prefix}{name}" for name in (("gate", "up") if spec.gated else ("up",))]
        up = Linear.of(matrix, vector, ups, bias=spec.bias, adapted=adapted)
        down = Linear.of(matrix, vector, [f"{prefix}down"], bias=spec.bias or spec.down_bias, adapted=adapted)
        return cls(spec, up, down, parallel, _learned(prefix, vector) if spec.activation == "xielu" else None)

    def __call__(self, ops: Operations, x: Tensor, stream: Tensor, adapters: AdapterRows | None = None) -> Tensor:
        """x: [num_tokens, hidden], normed -> as x."""
        del stream
        return self.parallel.all_reduce(self.part(ops, x, adapters))

    def part(self, ops: Operations, x: Tensor, adapters: AdapterRows | None = None) -> Tensor:
        """The same; of a rank of several, its part of the sum."""
        return self.down(ops, self._inner(ops, self.up(ops, x, adapters)), adapters)

    def _inner(self, ops: Operations, up: Tensor) -> Tensor:
        if self.spec.cutoff is not None:
            self._cut_off(up[:, : self.spec.intermediate_size], self.spec.cutoff)
        if self.learned is not None:
            return ops.xielu(up, *self.learned)
        return ops.gated(up, self.spec.activation) if self.spec.gated else ops.activation(up, self.spec.activation)

    def _cut_off(self, gate: Tensor, cutoff: float) -> None:
        """`relu(gate - mean - cutoff * deviation)` over the whole width, of which this rank has a part, in place."""
        width = gate.shape[1] * self.parallel.place.tensor_size
        wide = gate.float()
        wide -= self.parallel.all_reduce(wide.sum(-1, keepdim=True)) / width
        deviation = (self.parallel.all_reduce(wide.square().sum(-1, keepdim=True)) / width).sqrt()
        gate.copy_((wide - cutoff * deviation).relu_())


@dataclass(frozen=True, slots=True)
class BesideWeights:
    """The norms of a mixture beside an MLP."""

    router: NormWeights
    before: NormWeights
    after: NormWeights
    after_shared: NormWeights

    @classmethod
    def of(cls, spec: BesideMlp, prefix: str, vector: Vectors) -> BesideWeights:
        return cls(
            NormWeights.of(spec.router, f"{prefix}router_norm", vector),
            NormWeights.of(spec.before, f"{prefix}experts_norm", vector),
            NormWeights.of(spec.after, f"{prefix}post_experts_norm", vector),
            NormWeights.of(spec.after_shared, f"{prefix}post_shared_norm", vector),
        )


@dataclass(frozen=True, slots=True)
class ExpertsWeights:
    """A mixture of experts."""

    spec: Experts
    router: Linear
    correction: Tensor | None  # [num_experts]
    experts: ExpertWeights
    shared: MlpWeights | None
    shared_router: Linear | None  # of one row: how much of the shared expert a token takes
    scales: Tensor | None  # [num_experts]
    beside: BesideWeights | None
    parallel: Parallel

    @classmethod
    def of(cls, spec: Experts, prefix: str, matrix: Matrices, vector: Vectors, parallel: Parallel) -> ExpertsWeights:
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
            None if shared is None else MlpWeights.of(shared, f"{prefix}shared_", matrix, vector, parallel),
            Linear.of(matrix, vector, [f"{prefix}shared_router"], bias=False) if spec.shared_gate else None,
            vector(f"{prefix}expert_scales") if router.expert_scales else None,
            None if spec.beside is None else BesideWeights.of(spec.beside, prefix, vector),
            parallel,
        )

    def __call__(self, ops: Operations, x: Tensor, stream: Tensor, adapters: AdapterRows | None = None) -> Tensor:
        """x: [num_tokens, hidden], normed; stream: before the norm -> as x. Adapters change no mixture."""
        del adapters
        total = self.parallel.all_reduce
        if self.beside is not None:
            assert self.shared is not None, "a mixture beside an MLP"
            mixed = self._mixed(ops, self.beside.before(ops, stream), self.beside.router(ops, stream))
            always = self.beside.after_shared(ops, total(self.shared.part(ops, x)))
            return self.beside.after(ops, total(mixed)).add_(always)
        mixed = self._mixed(ops, x, x)
        if self.shared is None:
            return total(mixed)
        always = self.shared.part(ops, x)
        if self.shared_router is not None:
            always *= torch.sigmoid(self.shared_router(ops, x))
        return total(mixed.add_(always))

    def _mixed(self, ops: Operations, x: Tensor, routed: Tensor) -> Tensor:
        """The sum of the chosen experts of x, which the router chooses by `routed`; a rank's part of it."""
        spec = self.spec
        logits = self.router(ops, routed)
        if spec.router.logits_multiplier != 1.0:
            logits = logits * spec.router.logits_multiplier
        chosen, shares = ops.route(logits, spec.router, spec.num_experts_per_token, self.correction)
        if self.scales is not None:
            shares = shares * self.scales[chosen.long()].to(shares.dtype)
        return ops.experts(x, chosen, shares, self.experts, spec)


def feed_forward(
    spec: Mlp | Experts, prefix: str, matrix: Matrices, vector: Vectors, parallel: Parallel, adapted: Adapted
) -> MlpWeights | ExpertsWeights:
    """The weights of a layer's second half, taken."""
    if isinstance(spec, Experts):
        return ExpertsWeights.of(spec, prefix, matrix, vector, parallel)
    return MlpWeights.of(spec, prefix, matrix, vector, parallel, adapted)


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
