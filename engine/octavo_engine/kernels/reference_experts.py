"""A mixture of experts in plain torch: the twin of `triton.routing` and `triton.experts`.

Owns the meaning: which experts a token goes to, with what weight, and what they make of it. Reads tensors back.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from octavo_engine.kernels import reference
from octavo_engine.kernels.expert_weights import ExpertWeights
from octavo_engine.kernels.packed_weight import PackedWeight
from octavo_engine.kernels.packing import Stored
from octavo_engine.kernels.reference_quantized import widen
from octavo_models.layers import Experts, Router

TINY = 1e-20  # in a divisor that may be zero: sigmoids of very negative numbers


def route(logits: Tensor, router: Router, num_chosen: int, correction: Tensor | None) -> tuple[Tensor, Tensor]:
    """logits: [n, num_experts], bias included; correction: [num_experts].

    Returns the numbers of the chosen experts, the best first, of equals the lower number, and their weights:
    [n, num_chosen] int32 and float32.
    """
    x = logits.float()
    if router.scoring == "sparse_mixer":
        chosen, weights = _sparse_mixer(x, router.jitter, num_chosen)
    else:
        scores = x
        if router.scoring == "softmax":
            scores = x.softmax(-1)
        elif router.scoring == "sigmoid":
            scores = x.sigmoid()
        worth = scores if correction is None else scores + correction.float()
        worth = _within_best_groups(worth, router)
        chosen = worth.sort(dim=-1, descending=True, stable=True).indices[:, :num_chosen]
        weights = scores.gather(1, chosen)
        if router.scoring == "softmax_of_chosen":
            weights = weights.softmax(-1)
    if router.renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + TINY)
    return chosen.int(), weights * router.scale


def _within_best_groups(worth: Tensor, router: Router) -> Tensor:
    """-inf outside of the groups that experts can be chosen from."""
    if router.top_groups >= router.num_groups:
        return worth
    groups = worth.reshape(len(worth), router.num_groups, -1)
    of_group = groups.topk(2).values.sum(-1) if router.group_by == "top2" else groups.amax(-1)
    best = of_group.sort(dim=-1, descending=True, stable=True).indices[:, : router.top_groups]
    outside = torch.ones_like(of_group, dtype=torch.bool).scatter(1, best, value=False)
    return groups.masked_fill(outside[:, :, None], -torch.inf).flatten(1)


def _sparse_mixer(x: Tensor, jitter: float, num_chosen: int) -> tuple[Tensor, Tensor]:
    """Each choice is the best of what is left, and has a softmax over what is left within reach of it."""
    left = x
    chosen, weights = [], []
    for _ in range(num_chosen):
        best, index = left.max(-1, keepdim=True)
        beyond = (best - x) > 2 * jitter * torch.maximum(x.abs(), best)
        weights.append(left.masked_fill(beyond, -torch.inf).softmax(-1).gather(1, index))
        chosen.append(index)
        left = left.scatter(1, index, -torch.inf)
    return torch.cat(chosen, 1), torch.cat(weights, 1)


def experts(x: Tensor, chosen: Tensor, shares: Tensor, weights: ExpertWeights, spec: Experts) -> Tensor:
    """`sum(share * expert(x))` over the chosen ones. x: [n, hidden]; chosen, shares: of `route` -> as x."""
    total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    held = range(spec.first_held, spec.first_held + spec.num_held)
    for expert in torch.unique(chosen).tolist():
        if expert not in held:  # another rank's
            continue
        rows, places = (chosen == expert).nonzero(as_tuple=True)
        share = shares[rows, places, None]
        h = x[rows]
        if spec.router.weighs_input:
            h = (h.float() * share).to(x.dtype)
        up = _product(h, weights.up, weights.up_bias, expert - held.start, spec.num_held)
        if weights.gate is None:
            inner = reference.activation(up, spec.expert.activation)
        else:
            gate = _product(h, weights.gate, weights.gate_bias, expert - held.start, spec.num_held)
            inner = reference.gated(torch.cat((gate, up), -1), spec.expert.activation)
        out = _product(inner, weights.down, weights.down_bias, expert - held.start, spec.num_held).float()
        total.index_add_(0, rows, out if spec.router.weighs_input else out * share)
    return total.to(x.dtype)


def _product(x: Tensor, matrix: Stored, bias: Tensor | None, expert: int, num_held: int) -> Tensor:
    """The product with one expert's rows of a matrix that has those of `num_held`."""
    size = matrix.shape[0] // num_held
    rows = slice(expert * size, (expert + 1) * size)
    own = widen(matrix.rows(rows), x.dtype) if isinstance(matrix, PackedWeight) else matrix[rows]
    return linear(x, own, None if bias is None else bias[rows])
