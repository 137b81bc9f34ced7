"""Pooling of the last hidden states of a model that generates nothing: a vector or scores for each prompt.

Frozen data that the planner and both executors read. `purpose` decides which model pools, and how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from octavo_models.layers import Norm

PoolingKind = Literal["mean", "cls", "last", "max"]
DenseActivation = Literal["none", "tanh", "gelu", "gelu_tanh", "relu", "silu"]
ScoreActivation = Literal["none", "sigmoid", "softmax", "sigmoid_of_difference"]


@dataclass(frozen=True, slots=True)
class Dense:
    """`norm(act(weight @ x + bias))` of a pooled vector; weight [out_size, in_size]."""

    in_size: int
    out_size: int
    bias: bool = True
    activation: DenseActivation = "none"
    norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class Pooling:
    """One vector of a prompt's last hidden states (the final norm applied), then each of `dense` in turn.

    "cls" is the first token's state, "last" the last one's, "mean" and "max" are over all tokens. What executors compute
    ends there; the server divides an embedding by its length (`normalize`), or applies `activation` to the scores.
    `sigmoid_of_difference` makes one score of two: sigmoid(second - first).
    """

    kind: PoolingKind
    dense: tuple[Dense, ...] = ()
    task: Literal["embed", "classify"] = "embed"
    normalize: bool = True
    activation: ScoreActivation = "none"
    labels: tuple[str, ...] = ()  # of a classifier's scores
    dimensions: tuple[int, ...] = ()  # that an embedding may be cut to (Matryoshka)
    any_dimension: bool = False  # it may be cut to any number of them

    def size(self, hidden_size: int) -> int:
        """Elements of the vector that executors compute."""
        return self.dense[-1].out_size if self.dense else hidden_size
