"""Norms, activations and soft caps of the kernels are those of their twins."""

from __future__ import annotations

import pytest
import torch
from kernel_parity import DTYPES, assert_close

from octavo_engine.kernels.reference_operations import ReferenceOperations
from octavo_models.layers import Norm, Rotary, RotaryScaling

REFERENCE = ReferenceOperations()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 24, 576, 640, 1000])
@pytest.mark.parametrize(
    "spec", [Norm(eps=1e-5), Norm(offset=1.0), Norm("layer", 1e-5, bias=True)], ids=["rms", "gemma", "layer"]
)
def test_norms_are_their_twins(triton_operations, device, dtype, dim, spec):
    x, residual = (torch.randn(5, dim, device=device).to(dtype) * 3 + 1 for _ in range(2))
    weight, bias = (torch.randn(dim, device=device).to(dtype) for _ in range(2))
    bias = bias if spec.bias else None
    assert_close(triton_operations.norm(x, weight, spec, bias), REFERENCE.norm(x, weight, spec, bias))
    normed, total = triton_operations.add_norm(x, residual, weight, spec, bias)
    expected_normed, expected_total = REFERENCE.add_norm(x, residual, weight, spec, bias)
    assert torch.equal(total, expected_total)
    assert_close(normed, expected_normed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [7, 1536, 1025])
@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2"])
def test_activations_are_their_twins(triton_operations, device, dtype, size, kind):
    x = (torch.randn(3, 2 * size, device=device) * 4).to(dtype)
    assert_close(triton_operations.gated(x, kind), REFERENCE.gated(x.float(), kind).to(dtype))
    assert_close(triton_operations.activation(x, kind), REFERENCE.activation(x.float(), kind).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_clamped_gates_are_their_twins(triton_operations, device, dtype):
    x = (torch.randn(3, 2 * 100, device=device) * 8).to(dtype)
    expected = REFERENCE.gated(x.float(), "swiglu_clamped").to(dtype)
    assert_close(triton_operations.gated(x, "swiglu_clamped"), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("multiplier", "soft_cap"), [(1.0, None), (0.5, 30.0)])
def test_soft_caps_are_their_twins(triton_operations, device, dtype, multiplier, soft_cap):
    logits = (torch.randn(2, 1111, device=device) * 40).to(dtype)
    got = triton_operations.soft_cap_logits(logits, multiplier, soft_cap)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, REFERENCE.soft_cap_logits(logits, multiplier, soft_cap), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "rotary", [Rotary(48), Rotary(128, 5e5, scaling=RotaryScaling("yarn", 4.0, 4096))], ids=["plain", "yarn"]
)
def test_turns_of_far_positions_are_their_twins(triton_operations, device, rotary):
    positions = torch.tensor([0, 1, 17, 4095, 131_071], device=device)
    for got, expected in zip(
        triton_operations.rotary_table(rotary, positions), REFERENCE.rotary_table(rotary, positions), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", [Norm(weight=False), Norm("layer", 1e-5, weight=False)], ids=["rms", "layer"])
def test_norms_without_weights_are_their_twins(triton_operations, device, dtype, spec):
    x = torch.randn(3, 100, device=device).to(dtype) * 3 + 1
    assert_close(triton_operations.norm(x, None, spec), REFERENCE.norm(x, None, spec))


@pytest.mark.parametrize("dtype", DTYPES)
def test_xielu_is_its_twin(triton_operations, device, dtype):
    x = (torch.randn(3, 1111, device=device) * 3).to(dtype)
    x[0, :2] = torch.tensor([0.0, -1e-4], dtype=dtype)
    positive, negative = torch.tensor([[0.7], [1.3]], device=device)
    assert_close(triton_operations.xielu(x, positive, negative), REFERENCE.xielu(x, positive, negative))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_of_attention_are_the_twins(triton_operations, device, dtype):
    x, gate = (torch.randn(3, 1111, device=device) * 3).to(dtype), torch.randn(3, 1111, device=device).to(dtype)
    assert_close(triton_operations.gate_by_sigmoid(x.clone(), gate), REFERENCE.gate_by_sigmoid(x.clone(), gate))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["mean", "max", "cls", "last"])
def test_pooled_prompts_are_their_twins(triton_operations, device, dtype, kind):
    """Prompts of one row and of many, of more columns than a program takes."""
    starts = torch.tensor([0, 1, 8, 9, 30], dtype=torch.int32, device=device)
    hidden = (torch.randn(30, 700, device=device) * 3).to(dtype)
    got = triton_operations.pool(hidden, starts, kind)
    torch.testing.assert_close(got, REFERENCE.pool(hidden, starts, kind), atol=1e-5, rtol=1e-5)
