"""Gemma 3n's residual streams: alternating updates, of which a layer computes one, and its learned augmented residual.

All ranks compute them alike; their products are small.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from octavo_engine.executors.torch.linear import Linear, Matrices, Vectors
from octavo_engine.executors.torch.norms import NormWeights
from octavo_engine.kernels.operations import Operations
from octavo_models.layers import AltUp, Laurel

SMALLEST_SQUARE = 1e-5  # that a stream's mean square is taken for, when it is brought to the first one's magnitude


@dataclass(frozen=True, slots=True)
class StreamProjections:
    """The projections from the embedding to all streams, or from all of them to the one that the head reads."""

    parts: tuple[Linear, ...]  # of each stream but the first

    @classmethod
    def of(cls, altup: AltUp, which: str, matrix: Matrices, vector: Vectors) -> StreamProjections:
        """Takes the weights; `which` is "in" or "out"."""
        names = [f"stream_{which}_{i}" for i in range(1, altup.num)]
        return cls(tuple(Linear.of(matrix, vector, [name], bias=False) for name in names))

    def spread(self, ops: Operations, x: Tensor) -> Tensor:
        """x: [num_tokens, hidden] -> [num, num_tokens, hidden]."""
        return torch.stack([x, *(_as_large(part(ops, x), x) for part in self.parts)])

    def merge(self, ops: Operations, streams: Tensor) -> Tensor:
        """The reverse: the mean of all streams, each projected."""
        first, others = streams[0], zip(self.parts, streams[1:], strict=True)
        return torch.stack([first, *(_as_large(part(ops, stream), first) for part, stream in others)]).mean(0)


def _as_large(x: Tensor, like: Tensor) -> Tensor:
    """x with the root mean square of `like`, row by row."""
    target = like.square().mean(-1, keepdim=True).sqrt()
    return x * target / x.square().mean(-1, keepdim=True).clamp(min=SMALLEST_SQUARE).sqrt()


@dataclass(frozen=True, slots=True)
class AltUpWeights:
    """One layer's prediction and correction of the streams."""

    spec: AltUp
    router: Linear
    norm: NormWeights
    prediction: Tensor  # [num * num, num]
    correction: Tensor  # [num, num]
    scale: Tensor  # [hidden]

    @classmethod
    def of(cls, spec: AltUp, at: str, matrix: Matrices, vector: Vectors) -> AltUpWeights:
        """Takes the weights whose names begin with `at`."""
        return cls(
            spec,
            Linear.of(matrix, vector, [f"{at}altup_router"], bias=False),
            NormWeights.of(spec.norm, f"{at}altup_norm", vector),
            vector(f"{at}altup_prediction").view(-1, spec.num),
            vector(f"{at}altup_correction").view(-1, spec.num),
            vector(f"{at}altup_scale"),
        )

    def predict(self, ops: Operations, streams: Tensor) -> Tensor:
        """streams: [num, num_tokens, hidden] -> as streams."""
        num = self.spec.num
        factors = linear(self._modes(ops, streams[0]), self.prediction).view(-1, num, num)
        return streams + torch.einsum("tqp,pth->qth", factors, streams)

    def correct(self, ops: Operations, predicted: Tensor, x: Tensor) -> Tensor:
        """x: [num_tokens, hidden], what the layer made of the first one predicted -> as predicted."""
        factors = 1.0 + linear(self._modes(ops, x), self.correction)  # [num_tokens, num]
        return predicted + (x - predicted[0]) * factors.T[:, :, None]

    def _modes(self, ops: Operations, x: Tensor) -> Tensor:
        """[num_tokens, num]."""
        return torch.tanh(self.router(ops, self.norm(ops, x) * (1.0 / x.shape[1])))


@dataclass(frozen=True, slots=True)
class LaurelWeights:
    """The learned residual around attention."""

    left: Linear
    right: Linear
    norm: NormWeights

    @classmethod
    def of(cls, spec: Laurel, at: str, matrix: Matrices, vector: Vectors) -> LaurelWeights:
        """Takes the weights whose names begin with `at`."""
        return cls(
            Linear.of(matrix, vector, [f"{at}laurel_left"], bias=False),
            Linear.of(matrix, vector, [f"{at}laurel_right"], bias=False),
            NormWeights.of(spec.norm, f"{at}laurel_norm", vector),
        )

    def __call__(self, ops: Operations, x: Tensor) -> Tensor:
        """x: [num_tokens, hidden], what attention reads -> as x."""
        return x + self.norm(ops, self.right(ops, self.left(ops, x)))
