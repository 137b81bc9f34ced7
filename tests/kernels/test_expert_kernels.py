"""Routing and the products of experts are those of their twins."""

from __future__ import annotations

import pytest
import torch
from kernel_parity import DTYPES

from octavo_engine.kernels import reference_experts
from octavo_engine.kernels.expert_weights import ExpertWeights
from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_engine.kernels.reference_quantized import quantize
from octavo_engine.kernels.triton.routing import arrange, most_tiles
from octavo_models.layers import Experts, Mlp, Router

REFERENCE = ReferenceOperations()
ROUTERS = {
    "softmax": (Router(), 3, 12),
    "mixtral": (Router(scoring="softmax_of_chosen", renormalize=False), 2, 8),
    "qwen": (Router(renormalize=False, scale=2.5), 4, 16),
    "deepseek 2": (Router(renormalize=False, num_groups=4, top_groups=2, group_by="max"), 3, 20),
    "deepseek 3": (Router(scoring="sigmoid", correction=True, num_groups=4, top_groups=2, scale=2.5), 4, 20),
    "phi": (Router(scoring="sparse_mixer", renormalize=False, jitter=0.3), 2, 6),
    "one": (Router(scoring="sigmoid", renormalize=False), 1, 5),
}


@pytest.mark.parametrize("kind", list(ROUTERS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_routes_are_the_twins(triton_operations, device, dtype, kind):
    """Equal scores included: the lower number goes first."""
    router, num_chosen, num = ROUTERS[kind]
    logits = (torch.randn(9, num, device=device) * 2).to(dtype)
    logits[3] = logits[3].round()
    logits[4] = 0.5
    correction = torch.randn(num, device=device) if router.correction else None
    expected, weights = REFERENCE.route(logits, router, num_chosen, correction)
    got, got_weights = triton_operations.route(logits, router, num_chosen, correction)
    assert torch.equal(got, expected)
    torch.testing.assert_close(got_weights, weights, atol=2e-6, rtol=2e-6)


def test_rows_without_a_number_go_to_experts_that_exist(triton_operations, device):
    """Memory of padding may hold anything."""
    for router, num_chosen, num in ROUTERS.values():
        correction = torch.full((num,), torch.nan, device=device) if router.correction else None
        logits = torch.full((3, num), torch.nan, device=device)
        logits[1] = -torch.inf
        chosen, _ = triton_operations.route(logits, router, num_chosen, correction)
        assert ((chosen >= 0) & (chosen < num)).all()
        assert all(len(set(row)) == num_chosen for row in chosen.tolist())


@pytest.mark.parametrize(("n", "k", "num", "rows"), [(1, 2, 5, 16), (37, 3, 7, 4), (700, 2, 3, 16), (11, 1, 1, 4)])
def test_choices_are_arranged_by_their_expert(triton_operations, device, n, k, num, rows):
    chosen = torch.randint(num, (n, k), dtype=torch.int32, device=device)
    chosen[chosen == 1] = 0  # one that has none
    order, tiles = arrange(triton_operations.launch, chosen, Experts(num, k, Mlp(8)), rows)
    flat = chosen.flatten()
    assert torch.equal(order.long(), flat.sort(dim=0, stable=True).indices)
    covered = []
    for expert, first, end in tiles.T.tolist():
        if expert >= 0:
            covered += range(first, min(first + rows, end))
            assert (flat[order[first : min(first + rows, end)].long()] == expert).all()
    assert covered == list(range(n * k))
    assert tiles.shape[1] == most_tiles(n * k, num, rows)


def mixture(spec, hidden, dtype, device, *, packed=False, bits=4):
    """Random weights of the experts of `spec`."""
    inner, num = spec.expert.intermediate_size, spec.num_held

    def matrix(rows, columns):
        made = torch.randn(num * rows, columns, device=device) / columns**0.5
        return quantize(made, bits=bits) if packed else made.to(dtype)

    def bias(rows, there=True):
        return torch.randn(num * rows, device=device).to(dtype) if spec.expert.bias and there else None

    gated = spec.expert.gated
    return ExpertWeights(
        matrix(inner, hidden) if gated else None,
        matrix(inner, hidden),
        matrix(hidden, inner),
        bias(inner, gated),
        bias(inner),
        bias(hidden),
    )


MIXTURES = {
    "gated": Experts(5, 2, Mlp(40)),
    "with biases and a clamp": Experts(4, 2, Mlp(24, "swiglu_clamped", bias=True)),
    "weighed inputs": Experts(3, 1, Mlp(33, "gelu"), Router(renormalize=False, weighs_input=True)),
    "plain": Experts(6, 3, Mlp(20, "relu2", gated=False)),
    "some of all": Experts(6, 3, Mlp(20, bias=True), held=(2, 5)),
    "the last one": Experts(4, 2, Mlp(20), held=(3, 4)),
}


@pytest.mark.parametrize("kind", list(MIXTURES))
@pytest.mark.parametrize(("n", "hidden"), [(1, 48), (45, 50)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_experts_are_their_twins(triton_operations, device, dtype, n, hidden, kind):
    spec = MIXTURES[kind]
    x = (torch.randn(n, hidden, device=device) * 3).to(dtype)
    weights = mixture(spec, hidden, dtype, device)
    chosen, shares = REFERENCE.route(
        torch.randn(n, spec.num_experts, device=device), spec.router, spec.num_experts_per_token
    )
    assert_alike(
        triton_operations.experts(x, chosen, shares, weights, spec),
        reference_experts.experts(x, chosen, shares, weights, spec),
    )


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_of_few_bits_are_their_twins(triton_operations, device, dtype, bits):
    spec = Experts(3, 2, Mlp(64))
    x = torch.randn(5, 160, device=device).to(dtype)
    weights = mixture(spec, 160, dtype, device, packed=True, bits=bits)
    chosen, shares = REFERENCE.route(torch.randn(5, 3, device=device), spec.router, 2)
    assert_alike(
        triton_operations.experts(x, chosen, shares, weights, spec),
        reference_experts.experts(x, chosen, shares, weights, spec),
    )


def assert_alike(got, expected):
    """Narrow floats are rounded on the way: of the largest results one unit of bfloat16's last place, and a half."""
    if expected.dtype == torch.float32:
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    else:
        torch.testing.assert_close(got, expected, atol=0.012 * float(expected.abs().max()), rtol=0)
