"""Norms, residuals, activations and logits: each equals its numpy twin, at sizes that fill no whole vector too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from instruction_sets import every_isa_of_operations

from octavo_engine.executors.native import _native

SIZES = [1, 2, 7, 8, 15, 16, 17, 33, 64, 100, 576, 1037]


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def normed(x, weight, kind, eps, offset, bias):
    x = x.astype(np.float64)
    if kind == "layer":
        x = x - x.mean()
    y = x / np.sqrt((x * x).mean() + eps) * (weight + offset)
    return y if bias is None else y + bias


def native_norm(kind, eps, offset):
    norm = _native.Norm()
    norm.present, norm.kind, norm.eps, norm.offset = True, {"rms": 0, "layer": 1}[kind], eps, offset
    return norm


@every_isa_of_operations
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_norm(isa, size, kind, with_bias, rng):
    """RMSNorm and LayerNorm with offset, eps and bias."""
    x, weight, bias = rng.standard_normal((3, size)).astype(np.float32)
    bias = bias if with_bias else None
    out = np.full(size, np.nan, np.float32)
    _native.norm(isa, x, native_norm(kind, 1e-5, 1.0), weight, bias, out)
    np.testing.assert_allclose(out, normed(x, weight, kind, 1e-5, 1.0, bias), rtol=2e-5, atol=1e-5)


@every_isa_of_operations
@pytest.mark.parametrize("size", SIZES)
def test_residual_is_added_after_bias_norm_and_factor(isa, size, rng):
    """x + factor * norm(a + bias), as models with a norm behind attention have it."""
    x, a, bias, weight = rng.standard_normal((4, size)).astype(np.float32)
    expected = x + 0.25 * normed(a + bias, weight, "rms", 1e-6, 0.0, None)
    _native.add_residual(isa, x, a, bias, 0.25, native_norm("rms", 1e-6, 0.0), weight)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)


ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


@every_isa_of_operations
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
def test_activation(isa, kind, gated, rng):
    """Every nonlinearity, gated or not, over small and large values."""
    for size in SIZES:
        gate = (rng.standard_normal(size) * 6).astype(np.float32)
        gate[:2] = [80.0, -80.0][: min(size, 2)]
        up = rng.standard_normal(size).astype(np.float32)
        out = np.full(size, np.nan, np.float32)
        _native.activate(isa, list(ACTIVATIONS).index(kind), gate, up if gated else None, out)
        expected = ACTIVATIONS[kind](gate.astype(np.float64)) * (up if gated else 1.0)
        np.testing.assert_allclose(out, expected, rtol=2e-6, atol=3e-6)


@every_isa_of_operations
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFFFFFFF])
def test_nan_stays_nan_in_every_operation(isa, kind, bits, rng):
    """Wherever it stands in the row: of activations and capped logits its own element, of a norm all."""
    for size in SIZES:
        for at in {0, size // 2, size - 1}:
            x = rng.standard_normal(size).astype(np.float32)
            x.view(np.uint32)[at] = bits
            out = np.zeros(size, np.float32)
            _native.activate(isa, list(ACTIVATIONS).index(kind), x, None, out)
            np.testing.assert_array_equal(np.isnan(out), np.isnan(x))
            _native.norm(isa, x, native_norm("rms", 1e-5, 0.0), np.ones(size, np.float32), None, out)
            assert np.isnan(out).all()
            capped = x.copy()
            _native.finish_logits(isa, capped, 0.5, 30.0)
            np.testing.assert_array_equal(np.isnan(capped), np.isnan(x))


@every_isa_of_operations
@pytest.mark.parametrize("soft_cap", [0.0, 30.0])
def test_logits_are_scaled_then_capped(isa, soft_cap, rng):
    """`cap * tanh(multiplier * x / cap)`."""
    x = (rng.standard_normal(1037) * 40).astype(np.float32)
    expected = x.astype(np.float64) * 0.5
    if soft_cap:
        expected = soft_cap * np.tanh(expected / soft_cap)
    _native.finish_logits(isa, x, 0.5, soft_cap)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=5e-6)
